"""`nvidia-smi topo -p2p r|w|n|a|p`: whether GPUs can reach each other's memory, and why not."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from metalserve.hardware.parsers.text import ParseError, clean, first_line

_GPU = re.compile(r"GPU\d{1,4}")
_CELL = re.compile(r"X|OK|NS|CNS|TNS|GNS|DR|U")
_ELIDED = re.compile(r"\.{2,6}|…")
_LEGEND = re.compile(r"\s*(X|OK|CNS|GNS|TNS|NS|DR|U) {1,4}= .{1,80}")


@dataclass(frozen=True)
class P2pMatrix:
    """The status of each pair.

    Attributes:
        gpus: names as printed, in the order of the header.
        links: (i, j), numbers of the GPUs in the direction row -> column -> status as printed (`OK`, `CNS` ...).
        notes: lines that were not understood, and rows that the text leaves out.
    """

    gpus: tuple[str, ...]
    links: Mapping[tuple[int, int], str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def pairs(self) -> dict[tuple[int, int], str]:
        """Status by pair i < j; where the two directions differ, both are named (`OK/NS`)."""
        found: dict[tuple[int, int], str] = {}
        for (a, b), status in self.links.items():
            key = (min(a, b), max(a, b))
            back = self.links.get((b, a), status)
            found.setdefault(key, status if back == status else f"{self.links[key]}/{self.links[key[::-1]]}")
        return dict(sorted(found.items()))

    @property
    def summary(self) -> str:
        """One line in words."""
        total = len(self.gpus) * (len(self.gpus) - 1) // 2
        pairs = self.pairs
        counts: dict[str, int] = {}
        for status in pairs.values():
            counts[status] = counts.get(status, 0) + 1
        shown = f"{total} pairs" if len(pairs) == total else f"{len(pairs)} of {total} pairs shown"
        if not total:
            return f"{len(self.gpus)} GPU"
        parts = ", ".join(f"{n}x{k}" for k, n in sorted(counts.items(), key=lambda kv: -kv[1]))
        return f"{len(self.gpus)} GPUs, {shown}: " + (f"all {next(iter(counts))}" if len(counts) == 1 else parts)


def parse_p2p(text: str) -> P2pMatrix:
    """Read `nvidia-smi topo -p2p ...`. A row of dots, put there by who shortened the text, leaves pairs unknown.

    Raises:
        ParseError: there is no matrix, or it is cut, has words run together or no diagonal.
    """
    lines = clean(text).splitlines()
    start = next((n for n, line in enumerate(lines) if _is_header(line.split())), None)
    if start is None:
        raise ParseError(f"no header row of a P2P matrix; the text begins with {first_line(text)!r}")
    gpus = tuple(lines[start].split())
    if len(set(gpus)) != len(gpus):
        raise ParseError("the P2P header names a GPU twice")
    rows: dict[str, list[str]] = {}
    notes = [line.strip()[:200] for line in lines[:start] if line.strip()]
    elided = legend = False
    for line in lines[start + 1 :]:
        tokens = line.split()
        if tokens and _GPU.fullmatch(tokens[0]) and tokens[0] in gpus and not legend:
            if tokens[0] in rows:
                raise ParseError(f"P2P row {tokens[0]} comes twice")
            rows[tokens[0]] = _row(tokens[0], tokens[1:], gpus)
        elif len(tokens) == 1 and _ELIDED.fullmatch(tokens[0]):
            elided = True
        elif _LEGEND.fullmatch(line) or tokens[:1] == ["Legend:"]:
            legend = True
        elif tokens and len(rows) < len(gpus) and not legend:
            raise ParseError(f"P2P row not understood: {line.strip()[:80]!r}")
        elif tokens:
            notes.append(line.strip()[:200])
    missing = [gpu for gpu in gpus if gpu not in rows]
    if missing and not (elided and rows):
        raise ParseError(f"the P2P matrix is cut: no row for {', '.join(missing[:4])}")
    if missing:
        notes.append(f"rows left out of the text: {', '.join(missing)}")
    if not legend and not any(cell not in ("X",) for row in rows.values() for cell in row):
        raise ParseError("a matrix of one GPU without a P2P legend says nothing")
    links = {
        (int(a[3:]), int(b[3:])): cell for a, row in rows.items() for b, cell in zip(gpus, row, strict=True) if a != b
    }
    return P2pMatrix(gpus, links, tuple(notes[:50]))


def _is_header(tokens: list[str]) -> bool:
    return bool(tokens) and all(_GPU.fullmatch(token) for token in tokens)


def _row(name: str, cells: list[str], gpus: tuple[str, ...]) -> list[str]:
    if len(cells) != len(gpus):
        raise ParseError(f"P2P row {name} has {len(cells)} cells, the header {len(gpus)} GPUs")
    for column, cell in zip(gpus, cells, strict=True):
        if not _CELL.fullmatch(cell):
            raise ParseError(f"P2P cell {name}/{column} is {cell!r}: words run together or unknown status")
        if (cell == "X") != (name == column):
            raise ParseError(f"P2P cell {name}/{column} is {cell!r}: the diagonal is not where it should be")
    return cells
