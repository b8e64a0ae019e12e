"""Upgrades of the driver stack: what is recorded, which step comes next, who holds the GPUs. Pure."""
