"""Bringing nodes back: evidence, what it says, and the smallest step that can work."""
