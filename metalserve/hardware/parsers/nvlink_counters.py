"""`nvidia-smi nvlink -e` and `-c`: error counters and capabilities of each link, whatever a driver names them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from metalserve.hardware.parsers.text import ParseError, absent, clean, first_line

Counter = int | float | None

_GPU = re.compile(r"\s*GPU (\d{1,4}): (.{1,200}?)(?: \(UUID: ([^)]{1,80})\))?\s*")
_ERROR = re.compile(r"\s*Link (\d{1,3}): ([A-Z][A-Za-z0-9 -]{1,60}?): {0,8}(\S{1,40})\s*")
_ABILITY = re.compile(
    r"\s*Link (\d{1,3}), ([A-Z][A-Za-z0-9 -]{1,60}?)(?: is)?(?: supported)?: {0,8}(true|false|\S{1,20})\s*"
)
_COUNT = re.compile(r"\d{1,20}")
_RATE = re.compile(r"\d{1,6}(?:\.\d{1,6})?(?:e[+-]?\d{1,3})", re.IGNORECASE)
_SAID = ("not support nvlink", "not have or support nvlink", "mig mode", "inactive", "not supported", "unable to")

FAULTS: Final = frozenset(
    [
        "replay_errors",
        "recovery_errors",
        "crc_errors",
        "malformed_packet_errors",
        "buffer_overrun_errors",
        "rx_errors",
        "rx_remote_errors",
        "rx_general_errors",
        "local_link_integrity_errors",
        "tx_discards",
        "link_recovery_successful_events",
        "link_recovery_failed_events",
        "total_link_recovery_events",
        "effective_errors",
        "symbol_errors",
    ]
)
"""Counters that a healthy link keeps at zero. Raw errors, FEC bins and bit error rates are not among them: a healthy
NVLink5 counts billions in FEC bin 0 (field names of driver 595.91 on B300; of older drivers: replay, recovery, CRC)."""


@dataclass(frozen=True, slots=True)
class LinkTable:
    """What was printed for each link of one GPU.

    Attributes:
        index: nvidia-smi's number, or None when the text does not name the GPU.
        name: product name, when printed.
        uuid: `GPU-...`, when printed.
        links: link number -> name in snake case -> value; None for `N/A` and the like.
        note: what nvidia-smi said instead of links; empty when it listed them.
    """

    index: int | None
    name: str | None = None
    uuid: str | None = None
    links: dict[int, dict[str, Counter]] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, slots=True)
class LinkTables:
    """All GPUs of one output; `notes` holds lines that were not understood."""

    gpus: tuple[LinkTable, ...]
    notes: tuple[str, ...] = ()


def parse_nvlink_errors(text: str) -> LinkTables:
    """Read `nvidia-smi nvlink -e`.

    Raises:
        ParseError: no link counter, a GPU or counter twice, or lines run together.
    """
    return _read(text, _ERROR, _count, "nvlink -e")


def parse_nvlink_capabilities(text: str) -> LinkTables:
    """Read `nvidia-smi nvlink -c`; values are 1 for true, 0 for false.

    Raises:
        ParseError: no link capability, a GPU or capability twice, or lines run together.
    """
    return _read(text, _ABILITY, _truth, "nvlink -c")


def faults(links: Mapping[int, Mapping[str, Counter]]) -> list[tuple[int, str, Counter]]:
    """Return (link, counter, value) of the counters that should be zero and are not."""
    return [(n, name, v) for n, link in links.items() for name, v in link.items() if name in FAULTS and v]


def _read(text: str, pattern: re.Pattern[str], value_of: Callable[[str], Counter], command: str) -> LinkTables:
    gpus: list[LinkTable] = []
    notes: list[str] = []
    for line in clean(text).splitlines():
        if not line.strip():
            continue
        head, found, low = _GPU.fullmatch(line), pattern.fullmatch(line), line.lower()
        if head:
            if any(gpu.index == int(head.group(1)) for gpu in gpus):
                raise ParseError(f"GPU {head.group(1)} comes twice")
            gpus.append(LinkTable(int(head.group(1)), head.group(2), head.group(3)))
        elif found:
            if not gpus:  # a cut-out: which GPU it is stays unknown
                gpus.append(LinkTable(None))
            _store(gpus[-1], int(found.group(1)), found.group(2), value_of(found.group(3)))
        elif low.count("link ") > 1 and low.count(":") > 2:
            raise ParseError(f"lines run together: {line.strip()[:80]!r}")
        elif gpus and not gpus[-1].links and any(words in low for words in _SAID):
            last = gpus.pop()
            gpus.append(LinkTable(last.index, last.name, last.uuid, last.links, line.strip()[:200]))
        elif re.match(r"\s*Link \d", line):
            raise ParseError(f"line not understood: {line.strip()[:80]!r}")
        else:
            notes.append(line.strip()[:200])
    if not any(gpu.links or gpu.note for gpu in gpus):
        raise ParseError(f"no link of `nvidia-smi {command}`; the text begins with {first_line(text)!r}")
    return LinkTables(tuple(gpus), tuple(notes[:50]))


def _store(gpu: LinkTable, link: int, words: str, value: Counter) -> None:
    name = re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")
    values = gpu.links.setdefault(link, {})
    if name in values:
        raise ParseError(f"GPU {gpu.index}: link {link} has {words!r} twice")
    values[name] = value


def _count(cell: str) -> Counter:
    if _COUNT.fullmatch(cell):
        return int(cell)
    if _RATE.fullmatch(cell):
        return float(cell)
    if absent(cell):
        return None
    raise ParseError(f"{cell!r} is no count of errors")


def _truth(cell: str) -> Counter:
    if cell in ("true", "false"):
        return int(cell == "true")
    if absent(cell):
        return None
    raise ParseError(f"{cell!r} is neither true nor false")
