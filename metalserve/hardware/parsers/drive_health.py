"""SMART logs of NVMe controllers (`nvme smart-log -o json`, several of them), and drive errors in the kernel log."""

from __future__ import annotations

import json
import re
from typing import Any

from metalserve.hardware.machine import DriveHealth
from metalserve.hardware.parsers.text import ParseError, clean

_HEAD = re.compile(r"drive\t(/dev/nvme\d{1,4})")
_TROUBLE = re.compile(  # in the words of the kernel's drivers/nvme; "Shutdown timeout set to ..." is none
    r"\b(nvme\d{1,4})(?:n\d{1,4})?: .{0,120}?(?:QID \d{1,5} timeout|controller is down|Abort status|I/O Error|"
    r"Removing after probe failure|resetting controller|Device not ready)"
)
_KELVIN = 273


def parse_drive_health(text: str) -> tuple[DriveHealth, ...]:
    """Read a line `drive<TAB>/dev/nvme0` before each log; a log that the drive refused leaves its values unknown.

    Raises:
        ParseError: a controller comes twice.
    """
    logs: dict[str, list[str]] = {}
    here: list[str] | None = None
    for line in clean(text).splitlines():
        head = _HEAD.fullmatch(line.strip()) if line.startswith("drive") else None
        if head:
            if head.group(1) in logs:
                raise ParseError(f"drive {head.group(1)} comes twice")
            here = logs.setdefault(head.group(1), [])
        elif here is not None:
            here.append(line)
    return tuple(_health(controller, "\n".join(lines)) for controller, lines in logs.items())


def _health(controller: str, text: str) -> DriveHealth:
    try:
        log: Any = json.loads(text[text.index("{") :])
    except (ValueError, RecursionError):
        log = {}
    if not isinstance(log, dict):
        log = {}
    kelvin = _whole(log.get("temperature"))
    return DriveHealth(
        controller=controller,
        critical_warning=_warning(log.get("critical_warning")),
        percent_used=_whole(log.get("percent_used", log.get("percentage_used"))),
        spare=_whole(log.get("avail_spare")),
        spare_threshold=_whole(log.get("spare_thresh")),
        media_errors=_whole(log.get("media_errors")),
        temperature_c=None if kelvin is None else float(kelvin - _KELVIN if kelvin > _KELVIN - 40 else kelvin),
    )


def _warning(value: Any) -> int | None:
    # Newer versions print an object of bits with the whole as `value`.
    return _whole(value.get("value")) if isinstance(value, dict) else _whole(value)


def _whole(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return int(value)  # counters of 128 bits come as text from some versions
    except (ValueError, OverflowError):
        return None


def drive_troubles(kernel_log: str) -> dict[str, list[str]]:
    """Return controller (`nvme0`) -> its lines of timeouts, resets and errors in a kernel log. Never raises."""
    found: dict[str, list[str]] = {}
    for line in clean(kernel_log).splitlines():
        trouble = _TROUBLE.search(line[:1000])
        if trouble:
            found.setdefault(trouble.group(1), []).append(line.strip()[:300])
    return found
