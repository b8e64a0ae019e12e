"""Addresses that mean something to whoever connects."""

from __future__ import annotations

EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - compared, not listened on
"""What listens there is reached at any address of its host."""

LOOPBACK = ("127.0.0.1", "::1", "localhost")
"""What listens there is reached from its own host alone."""


def joined(address: str, port: int) -> str:
    """Return address and port as one word, an IPv6 address in brackets."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
