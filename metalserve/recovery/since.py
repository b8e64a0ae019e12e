"""Leaves out what logs say of the time before a moment: what a recovery has dealt with never acts again. Pure."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timezone, tzinfo

from metalserve.recovery.evidence import Evidence

_RELATIVE = re.compile(r"^(?:<\d{1,3}>)?\[ {0,8}(\d{1,9}\.\d{1,9})\]")
_KMSG = re.compile(r"^\d{1,4},\d{1,20},(\d{1,16}),[-c+]")
_ISO = re.compile(r"^(?:kern\s*:\w+\s*: )?(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d)(?:[.,](\d{1,9}))?([+-]\d\d:?\d\d|Z)?")
_FABRIC = re.compile(r"^\[([A-Z][a-z]{2} \d\d \d{4} \d\d:\d\d:\d\d)\]")
_CTIME = re.compile(r"^\[[A-Z][a-z]{2} ([A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4})\]")


def after(evidence: Evidence, since: float, zero: float | None, zone: tzinfo | None = None) -> Evidence:
    """Return the evidence without what is from before `since`; what has no time that can be known stays.

    Args:
        evidence: what was collected.
        since: seconds since the epoch by the host's clock; 0 keeps everything.
        zero: when the stamps of the kernel log are zero, or None when that is not known.
        zone: time zone of stamps that name none; the controller's when None.
    """
    if since <= 0:
        return evidence
    bmc = evidence.bmc
    if bmc is not None:
        bmc = replace(bmc, events=tuple(each for each in bmc.events if each.at is None or each.at >= since))
    return replace(
        evidence,
        kernel=_since(evidence.kernel, since, zero, zone) if evidence.kernel is not None else None,
        fabric=_since(evidence.fabric, since, zero, zone) if evidence.fabric is not None else None,
        engines={name: _since(text, since, zero, zone) for name, text in evidence.engines.items()},
        bmc=bmc,
    )


def zero_of(clock: str) -> float | None:
    """Return when the stamps of the kernel log are zero, seconds since the epoch; None when that is not known.

    Args:
        clock: `clock.txt` of a bundle: its last two lines are the log's last line, by boot and by calendar.
    """
    lines = clock.rstrip("\n").split("\n")
    if len(lines) < 5:
        return None
    relative, absolute = _RELATIVE.match(lines[-2]), _stamp(lines[-1], None)
    if relative is None or absolute is None:
        return None
    return absolute - float(relative[1])


def now_of(clock: str) -> float:
    """Return when a bundle was made by the host's clock, seconds since the epoch; 0 when `clock.txt` does not say."""
    try:
        return float(clock.partition("\n")[0])
    except ValueError:
        return 0.0


def zone_of(clock: str) -> tzinfo | None:
    """Return the host's time zone as `clock.txt` of a bundle shows it; None when it does not."""
    found = _ISO.match(clock.rstrip("\n").rpartition("\n")[2])
    if found is None or not found[3]:
        return None
    return UTC if found[3] == "Z" else _offset(found[3])


def time_of(line: str, zero: float | None = None, zone: tzinfo | None = None) -> float | None:
    """Return when a line of a log was written, seconds since the epoch; None when that cannot be known.

    Stamps of dmesg (since boot, calendar, ISO), /dev/kmsg, journalctl's ISO formats and fabric manager's are known.
    Syslog's names no year and vLLM's neither year nor zone: they are not guessed.
    """
    for pattern, unit in ((_RELATIVE, 1.0), (_KMSG, 1e-6)):
        relative = pattern.match(line)
        if relative is not None:
            return zero + float(relative[1]) * unit if zero is not None else None
    for pattern, form in ((_FABRIC, "%b %d %Y %H:%M:%S"), (_CTIME, "%b %d %H:%M:%S %Y")):
        found = pattern.match(line)
        if found is not None:
            try:
                at = datetime.strptime(found[1], form)
            except ValueError:
                return None
            return (at.replace(tzinfo=zone) if zone is not None else at.astimezone()).timestamp()
    return _stamp(line, zone)


def _since(text: str, since: float, zero: float | None, zone: tzinfo | None) -> str:
    kept, keeping = [], True
    for line in text.splitlines():
        at = time_of(line, zero, zone)
        if at is not None:  # a line without a time belongs to the one before it
            keeping = at >= since
        elif _RELATIVE.match(line) or _KMSG.match(line):
            keeping = True  # it has a time of its own, which nobody can place
        if keeping:
            kept.append(line)
    return "\n".join(kept)


def _stamp(line: str, zone: tzinfo | None) -> float | None:
    found = _ISO.match(line)
    if found is None:
        return None
    try:
        at = datetime.fromisoformat(found[1] + (found[3] or "").replace("Z", "+00:00"))
        if at.tzinfo is None:
            at = at.replace(tzinfo=zone) if zone is not None else at.astimezone()
        return at.timestamp() + float(f"0.{found[2] or 0}")
    except (ValueError, OverflowError):
        return None


def _offset(text: str) -> timezone | None:
    moved = datetime.fromisoformat(f"2000-01-01T00:00:00{text}").utcoffset()
    return timezone(moved) if moved is not None else None
