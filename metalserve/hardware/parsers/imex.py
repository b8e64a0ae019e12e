"""State of an IMEX domain, as `nvidia-imex-ctl -N` prints it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from metalserve.hardware.parsers.text import ParseError, clean, first_line

_NODE = re.compile(r"Node #\d{1,4}\s*[*]?\s*- (\S{1,64})\s+- ([A-Z_]{1,40})")
_DOMAIN = re.compile(r"Domain State: ([A-Z_]{1,40})")


@dataclass(frozen=True)
class ImexStatus:
    """An IMEX domain as one of its nodes sees it.

    Attributes:
        domain: `UP`, `DEGRADED` or `DOWN`; None when it was not printed.
        nodes: address -> state (`READY`, `UNAVAILABLE`, `WAITING_FOR_PEERS` ...).
    """

    domain: str | None
    nodes: Mapping[str, str]


def parse_imex_status(text: str) -> ImexStatus:
    """Read what `nvidia-imex-ctl -N` printed.

    Raises:
        ParseError: it lists no node.
    """
    plain = clean(text)
    nodes = {found.group(1): found.group(2) for found in _NODE.finditer(plain)}
    if not nodes:
        raise ParseError(f"no node of an IMEX domain; the text begins with {first_line(text)!r}")
    domain = _DOMAIN.search(plain)
    return ImexStatus(domain.group(1) if domain else None, nodes)
