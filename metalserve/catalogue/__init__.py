"""Data the field agrees on, with sources, and its typed loader."""
