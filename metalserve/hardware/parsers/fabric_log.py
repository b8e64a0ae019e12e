"""The log of NVIDIA's fabric manager, as file or from the journal."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from metalserve.hardware.parsers.text import ParseError, clean, first_line, pci_address

_LINE = re.compile(r"\[([A-Z][a-z]{2} \d{1,2} \d{4} \d\d:\d\d:\d\d)\] \[([A-Z]{4,8})\s?\] \[tid (\d{1,10})\] (.*)")
_JOURNAL = re.compile(r"\bnv-fabricmanager(?:\[(\d{1,10})\])?: (.*)")
_SWITCH = re.compile(r"detected NVSwitch (non-fatal|fatal) error (\d{1,6})\b")
_PORT = re.compile(r"\bport (\d{1,4})\b")
_PHYSICAL = re.compile(r"\bphysical id (\d{1,4})\b")
_KINDS: Final = (
    ("failed to find the gpu handle", "gpu-handle-not-found"),
    ("don't match with any supported system topology", "topology-mismatch"),
    ("request to query nvswitch device information", "query-failed"),
    ("don't match with driver version", "driver-mismatch"),
    ("nvlink", "nvlink"),
)
"""Words of the log -> kind of event; the first that fits counts."""
_TROUBLE = re.compile(r"error|fail|abort|unable", re.IGNORECASE)
_BAD = ("ERROR", "CRITICAL", "FATAL", "WARNING", "WARN")


@dataclass(frozen=True, slots=True)
class FabricEvent:
    """One line that tells of trouble.

    Attributes:
        kind: `nvswitch-fatal`, `nvswitch-non-fatal`, `gpu-handle-not-found`, `query-failed`, `topology-mismatch`,
            `driver-mismatch`, `nvlink`, or `other`: not known, kept verbatim.
        level: `ERROR`, `WARNING` ..., or None in the journal.
        time: as printed; None in the journal, whose own prefix tells it.
        message: what fabric manager said.
        sxid: number of the NVSwitch error.
        pci: PCI address of the NVSwitch.
        port: port of the NVSwitch.
        physical_id: number of the NVSwitch.
        aborts: fabric manager ends because of it.
    """

    kind: str
    level: str | None
    time: str | None
    message: str
    sxid: int | None = None
    pci: str | None = None
    port: int | None = None
    physical_id: int | None = None
    aborts: bool = False


@dataclass(frozen=True, slots=True)
class FabricLog:
    """Events in the order of the log, the number of all its lines, and lines that are none of fabric manager."""

    events: tuple[FabricEvent, ...]
    lines: int
    notes: tuple[str, ...] = ()


def parse_fabric_log(text: str) -> FabricLog:
    """Read fabricmanager.log or the unit's journal.

    Raises:
        ParseError: not one line is of fabric manager.
    """
    events: list[FabricEvent] = []
    notes: list[str] = []
    count = 0
    for line in clean(text).splitlines():
        line = line[:2000].strip()
        found = _LINE.search(line) if "[tid " in line else None
        journal = _JOURNAL.search(line) if not found and "nv-fabricmanager" in line else None
        if found:
            count += 1
            if found.group(2) in _BAD:
                events.append(_event(found.group(4), found.group(2), found.group(1)))
        elif journal:
            count += 1
            event = _event(journal.group(2), None, None)
            if event.kind not in ("other", "nvlink") or _TROUBLE.search(event.message):
                events.append(event)
        elif line and not (count and line.startswith("Message ")):  # an entry of several lines goes on
            notes.append(line[:200])
    if not count:
        raise ParseError(f"no line of fabric manager; the text begins with {first_line(text)!r}")
    return FabricLog(tuple(events), count, tuple(notes[:50]))


def _event(message: str, level: str | None, time: str | None) -> FabricEvent:
    low = message.lower()
    switch = _SWITCH.search(message) if "NVSwitch" in message else None
    port, physical = (_PORT.search(message), _PHYSICAL.search(message)) if switch else (None, None)
    kind = f"nvswitch-{switch.group(1)}" if switch else next((k for words, k in _KINDS if words in low), "other")
    where = re.search(r"pci bus id (\S{7,20})", message)
    return FabricEvent(
        kind=kind,
        level=level,
        time=time,
        message=message.strip(),
        sxid=int(switch.group(2)) if switch else None,
        pci=pci_address(where.group(1)) if where else None,
        port=int(port.group(1)) if port else None,
        physical_id=int(physical.group(1)) if physical else None,
        aborts="aborting fabric manager" in low,
    )
