"""Load tests: requests to send, what became of them, and what that says. Pure; metalserve/loading sends them."""
