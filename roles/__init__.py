"""How a host becomes right: one package a concern, all of one shape (see CONTRIBUTING.md)."""
