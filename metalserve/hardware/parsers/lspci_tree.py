"""`lspci -t`: the tree of buses, with or without names."""

from __future__ import annotations

import re

from metalserve.hardware.parsers.text import pci_address

_ROOT = re.compile(r"\[([0-9a-f]{4,8}):([0-9a-f]{2})\]", re.IGNORECASE)
_LINE = re.compile(r"[\s|+\\-]*(?:\[[0-9a-f]{4,8}:[0-9a-f]{2}\]|[0-9a-f]{2}\.[0-7])", re.IGNORECASE)
_STEP = re.compile(r"\[(?:[0-9a-f]{4,8}:)?([0-9a-f]{2})(?:-([0-9a-f]{2}))?\]|([0-9a-f]{2}\.[0-7])", re.IGNORECASE)


def is_tree(lines: list[str]) -> bool:
    """Tell whether a line draws a root bus."""
    return any(_ROOT.search(line) and _LINE.match(line) for line in lines)


def read_tree(lines: list[str]) -> tuple[list[tuple[str | None, str]], list[str]]:
    """Return (address, description) of each leaf, and lines not understood.

    A branch's bus is found by the column where its first device stands; an address is None where a filter (`grep`)
    took away the line that would tell it.
    """
    leaves: list[tuple[str | None, str]] = []
    notes: list[str] = []
    domain = ""
    buses: dict[int, str | None] = {}
    for line in lines:
        if not _LINE.match(line):
            if line.strip(" |\t"):
                notes.append(line.strip()[:200])
            continue
        root = _ROOT.search(line)
        end = 0
        bus: str | None = None
        entered = False
        if root and not line[: root.start()].strip(" |+\\-"):
            domain, bus, end, entered = root.group(1).lower(), root.group(2).lower(), root.end(), True
            buses = {}
        while True:
            step = _STEP.match(line, _skip(line, end))
            if not step:
                break
            if step.group(3):
                column = step.start()
                bus = bus if entered else buses.get(column)
                buses = {c: b for c, b in buses.items() if c < column}
                buses[column] = bus
                here, end, entered = (bus, step.group(3).lower()), step.end(), False
                words = re.match(r" {1,2}(\S.*)", line[end:])
                if words or not line[end:].strip(" -"):
                    address = f"{domain}:{here[0]}:{here[1]}" if domain and here[0] else None
                    leaves.append((pci_address(address or ""), words.group(1).strip() if words else ""))
                    break
            else:
                bus, end, entered = step.group(1).lower(), step.end(), True
    return leaves, notes


def _skip(line: str, at: int) -> int:
    while at < len(line) and line[at] in " |+\\-":
        at += 1
    return at
