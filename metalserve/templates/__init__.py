"""OS templates: images built from the roles that converge a node, checked, signed, kept, and put on machines."""
