"""The kernel log: Xids, NVSwitch SXids, GPUs that fell off the bus; with any prefix (dmesg, syslog, kmsg, journal)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from metalserve.hardware.parsers.text import clean, pci_address
from metalserve.hardware.values import XidEvent

_XID = re.compile(r"(?<![A-Za-z])Xid ?\(([^)\n]{1,60})\): ?(\d{1,4})\b,?(.*)")
_SXID = re.compile(r"SXid \(([^)\n]{1,60})\): (\d{1,6}), (.*)")
_GLUED = re.compile(r"(?<=\S)(?=\[ {0,8}\d{1,9}\.\d{6}\](?:\[[TC] {0,6}\d{1,7}\])? NVRM: )")  # two lines run together
_PROCESS = re.compile(r"\bname=([^,<>]{1,64})")
_LINK = re.compile(r"\b[Ll]ink:? (-?\d{1,3})\b")
_NVLINK5 = re.compile(
    r"\b([A-Z][A-Z0-9]{1,15}(?:_[A-Z0-9]{1,15}){0,6}(?:/[A-Z0-9_]{1,32})?)\s{1,8}(Nonfatal|Fatal)\s{1,8}XC[01]\b"
)
_ACTION = re.compile(
    r"recovery action(?: changed from 0x[0-9a-fA-F]{1,8} \([^)]{0,60}\) to 0x[0-9a-fA-F]{1,8} \(([^)]{1,60})\)"
    r"|: ([A-Za-z0-9 ]{1,60}))"
)
_SEVERITY = re.compile(r"(Non-fatal|Fatal)\b")
_TOLD = re.compile(r"Xid|NVIDIA GPU|(?i:fallen off the bus)")  # a cheap look: the others are tried on few lines
_OFF_BUS = "fallen off the bus"
_OFF_BUS_HEAD = re.compile(r"NVRM:\s{1,4}The NVIDIA GPU (\S{7,20})")
_SPREAD = 5  # lines over which the driver spreads its long "has fallen off the bus" message (driver source, 4 lines)


@dataclass(frozen=True, slots=True)
class KernelLog:
    """Events of a kernel log in its order; `notes` holds Xid lines that were not understood."""

    events: tuple[XidEvent, ...]
    notes: tuple[str, ...] = ()


def parse_kernel_log(text: str) -> KernelLog:
    """Read the events of a kernel log; a log without any gives none. Never raises."""
    events: list[XidEvent] = []
    notes: list[str] = []
    head: tuple[int, str] | None = None
    for number, line in enumerate(_lines(text)):
        if not _TOLD.search(line):
            continue
        sxid = _SXID.search(line)
        xid = None if sxid else _XID.search(line)
        long_head = _OFF_BUS_HEAD.search(line)
        if long_head:
            head = (number, long_head.group(1))
        if sxid:
            event = _sxid_event(sxid, line)
            if not _is_detail(sxid.group(3)) or not _has_event(events, event):
                events.append(event)
        elif xid:
            events.append(_xid_event(xid, line))
        elif _OFF_BUS in line.lower() and ("NVRM" in line or "nvidia" in line.lower() or "GPU" in line):
            near = head[1] if head and number - head[0] < _SPREAD else ""
            said = line[max(line.find("NVRM"), 0) :]  # the time zone of a prefix (-05:00) looks like an address
            events.append(XidEvent("off-bus", None, pci_address(said) or pci_address(near), line))
            head = None
        elif "NVRM: Xid" in line or "SXid (" in line:
            notes.append(line)
    return KernelLog(tuple(events), tuple(notes))


def _lines(text: str) -> Iterator[str]:
    for line in clean(text).splitlines():
        line = line.strip()[:2000]
        if line.count("NVRM: ") > 1:
            yield from (part.strip() for part in _GLUED.split(line))
        else:
            yield line


def _xid_event(found: re.Match[str], line: str) -> XidEvent:
    where, code, rest = found.group(1), int(found.group(2)), found.group(3)
    process = _PROCESS.search(rest)
    link = _LINK.search(rest)
    unit = _NVLINK5.search(rest) if code >= 144 else None
    action = _ACTION.search(rest) if code == 154 else None
    return XidEvent(
        kind="recovery-action" if action else "nvlink5" if unit else "xid",
        xid=code,
        pci=pci_address(where),
        message=line,
        process=process.group(1).strip("'") if process else None,
        severity=unit.group(2) if unit else None,
        unit=unit.group(1) if unit else None,
        link=int(link.group(1)) if link else None,
        action=(action.group(1) or action.group(2)).strip() if action else None,
    )


def _sxid_event(found: re.Match[str], line: str) -> XidEvent:
    rest = found.group(3)
    severity = _SEVERITY.match(rest)
    link = _LINK.search(rest)
    return XidEvent(
        kind="sxid",
        xid=int(found.group(2)),
        pci=pci_address(found.group(1)),
        message=line,
        severity=severity.group(1) if severity else None,
        link=int(link.group(1)) if link else None,
    )


def _is_detail(rest: str) -> bool:
    # One SXid is logged as three lines: the fault, then "Severity ..." and "Data {...}".
    return rest.startswith(("Severity ", "Data "))


def _has_event(events: list[XidEvent], detail: XidEvent) -> bool:
    return any(e.kind == "sxid" and e.xid == detail.xid and e.pci == detail.pci for e in events[-32:])
