"""Parsers of hardware tools and the value they make together: pure, no I/O."""
