"""What a host should be, what it is, and the difference: the heart of metalserve."""
