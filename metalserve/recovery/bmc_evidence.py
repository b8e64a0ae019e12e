"""What a BMC saw of a host, from the files `bmc-*.json` of a bundle: all there is when the host is silent. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from metalserve.catalogue.causes import CauseCatalogue, load_causes
from metalserve.hardware.parsers.text import clean
from metalserve.hardware.values import XidEvent
from metalserve.recovery.bmc_values import BmcEvent, BmcEvidence
from metalserve.recovery.gpus import of_xid
from metalserve.recovery.newest_first import in_order_of_time
from metalserve.recovery.suspects import LINE_LIMIT, Suspect

FILES: Final = ("bmc-power.json", "bmc-sensors.json", "bmc-events.json", "bmc-gpu.json")
ORIGIN: Final = "BMC"
EVENT_LOG: Final = "BMC's event log"
RECENT_S: Final = 86_400.0
"""Seconds that an entry speaks of the present: these logs go back for years, and are seldom cleared."""

_XID = re.compile(r"\bXID[ :]{1,2}(\d{1,3})\b", re.IGNORECASE)
_DEVICE = re.compile(r"\b(?:HGX_)?(GPU_(?:SXM_)?\d{1,2})\b")
_OVER = re.compile(
    r"deassert|restored|returned to (?:a )?normal|is within range|no longer|cleared|regained|(?<!from )fully redundant"
    r"|less severe state|upper critical going low|lower critical going high|\b(?<!not )(?<!not be )repaired\b",
    re.IGNORECASE,
)
_WELL = re.compile(r"\|\s{0,8}(?:ok|ns)\s{0,8}(?:\|[^|]{0,12}\|\s{0,8})?$|\|\s{0,8}discrete\s{0,8}\|\s{0,8}0x00[08]0\b")
"""Rows of `ipmitool sdr` and `sensor` of what is well, or is not read: a sensor's name alone says nothing of it."""
_BAD = ("Critical", "Warning", "")
_SENSORS: Final = {"Temperature": "overheated", "Rotational": "fan-failed", "Percent": "fan-failed"}
_SUPPLY = re.compile(r"\b(?:PSU|PWS|PS|Power ?Supply)[ _-]?\d?", re.IGNORECASE)


def read_bmc(texts: Mapping[str, str], *, alone: bool = False, now: float = 0.0) -> BmcEvidence | None:
    """Read the files of a BMC; `None` when there are none.

    Args:
        texts: name of a file -> what it holds; others than `FILES` are left alone.
        alone: the host itself gave nothing.
        now: when it was asked, seconds since the epoch; the time of the newest entry when 0.
    """
    bodies: dict[str, Any] = {}
    missed = []
    for name in FILES:
        if name not in texts:
            continue
        try:
            body = json.loads(texts[name])
        except ValueError:
            body = {"error": "is no JSON"}
        body = body if isinstance(body, dict) else {"error": "is no JSON object"}
        bodies[name] = body
        if body.get("error"):
            missed.append(f"{name}: {str(body['error'])[:LINE_LIMIT]}")
        missed += [f"{name}: {each}" for each in _words(body.get("missed"))]
    if not bodies:
        return None
    identity = _map(bodies.get("bmc-power.json", {}).get("identity"))
    body = bodies.get("bmc-power.json", {})
    power = str(body.get("power") or body.get("PowerState") or "unknown").lower()
    if power == "off" and not alone:
        missed.append("the BMC says that the machine is off, and the host answers: it is another machine's BMC")
    events = list(_events(bodies.get("bmc-events.json", {})))
    stamps = [e.at for e in events if e.at is not None]
    if stamps and stamps[0] > stamps[-1]:
        events.reverse()  # the newest stand first, those of one second too
    events.sort(key=lambda e: e.at or 0.0)
    oldest = (now or max(stamps, default=0.0)) - RECENT_S
    return BmcEvidence(
        power=power,
        events=tuple(e for e in events if e.at is None or e.at >= oldest),
        bad=tuple(_bad_ones(bodies)),
        simulated=bool(identity.get("simulated")),
        missed=tuple(missed),
        alone=alone,
    )


def read_event_log(text: str) -> BmcEvidence | None:
    """Read a BMC's event log as `ipmitool sel list` and the vendors print it; `None` when nothing in it is a sign.

    It counts whole: what the text does not say of its own age, nobody knows.
    """
    signs = [sign for sign in load_causes().signs if sign.log == "bmc"]
    lines = [line.strip()[:2000] for line in in_order_of_time(clean(text)).splitlines()]
    lines = [line for line in lines if not _WELL.search(line)]
    if not any(sign.search(line) for line in lines for sign in signs):
        return None
    beside = [pattern for sign in signs for pattern in (sign.head, sign.ends) if pattern is not None]
    told = [line for line in lines if any(s.search(line) for s in signs) or any(b.search(line) for b in beside)]
    events = tuple(BmcEvent(None, "", line, "", "") for line in told)
    return BmcEvidence(power="unknown", events=events, bad=(), simulated=False, missed=(), alone=False)


def from_bmc(bmc: BmcEvidence, catalogue: CauseCatalogue, *, kernel: bool) -> list[Suspect]:
    """Find what the BMC speaks for.

    Args:
        bmc: what it said.
        catalogue: causes and signs.
        kernel: the host's own kernel log is there: it names GPUs and Xids better.
    """
    simulated = " (simulated BMC)" if bmc.simulated else ""
    found = _of_events(bmc.events, catalogue, kernel=kernel)
    for kind, name, words in bmc.bad:
        cause = catalogue.cause(kind)
        found.append(Suspect(cause, name, words[:LINE_LIMIT], ORIGIN, cause.source))
    if bmc.power == "off" and bmc.alone:
        cause = catalogue.cause("switched-off")
        found.append(Suspect(cause, "", f"power: off{simulated}", ORIGIN, cause.source))
    elif bmc.alone and bmc.power == "on":
        cause = catalogue.cause("host-silent")
        found.append(
            Suspect(cause, "", f"power: on{simulated}; the host itself gave no evidence", ORIGIN, cause.source)
        )
    elif bmc.alone:
        cause = catalogue.cause("all-silent")
        words = f"power: {bmc.power}; {'; '.join(bmc.missed) or 'the BMC does not say'}"
        found.append(Suspect(cause, "", words[:LINE_LIMIT], ORIGIN, cause.source))
    return found


def _of_events(events: Sequence[BmcEvent], catalogue: CauseCatalogue, *, kernel: bool) -> list[Suspect]:
    """Signs in the log, in its order: what it says is over again is not a suspect any more."""
    signs = [sign for sign in catalogue.signs if sign.log == "bmc"]
    found: list[Suspect] = []
    headed: dict[int, int] = {}
    for number, event in enumerate(events):
        line = f"{event.code} {event.message}".strip()[:2000]
        xid, device = _XID.search(event.message), _DEVICE.search(event.message)
        if xid is not None and device is not None:
            if not kernel:
                name = device[1]
                found.append(of_xid(XidEvent("xid", int(xid[1]), name, line), catalogue, EVENT_LOG))
            continue
        for sign in signs:
            if sign.head is not None and sign.head.search(line):
                headed[id(sign)] = number
            if sign.ends is not None and (end := sign.ends.search(line)):
                headed.pop(id(sign), None)
                of_it = (sign.cause, sign.source, end.groupdict().get("subject"))
                found = [s for s in found if (s.cause.id, s.source, s.subject) != of_it]
        for sign in signs:
            match = sign.search(line)
            if match is None or (
                sign.head is not None and not 0 < number - headed.get(id(sign), number) <= sign.within
            ):
                continue
            subject = (match.groupdict().get("subject") or "").strip()
            if event.severity == "OK" or _OVER.search(line):
                found = [s for s in found if not (s.cause.id == sign.cause and s.subject in ("", subject))]
            elif event.severity in _BAD:
                found.append(Suspect(catalogue.cause(sign.cause), subject, line[:LINE_LIMIT], EVENT_LOG, sign.source))
            break
    return found


def _events(body: Mapping[str, Any]) -> Iterator[BmcEvent]:
    """Entries as they are kept in a bundle (`items`), or of a Redfish collection (`Members`)."""
    for row in _rows(body.get("items")) or _rows(body.get("Members")):
        at = row.get("at", row.get("Created"))
        yield BmcEvent(
            at=float(at) if isinstance(at, int | float) and not isinstance(at, bool) else _moment(at),
            severity=str(row.get("severity") or row.get("Severity") or ""),
            message=str(row.get("message") or row.get("Message") or ""),
            code=str(row.get("code") or row.get("MessageId") or ""),
            log=str(row.get("log") or ""),
        )


def _bad_ones(bodies: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for row in _rows(bodies.get("bmc-sensors.json", {}).get("items")):
        if row.get("health") != "Critical":
            continue
        name, kind = str(row.get("name") or "?"), str(row.get("kind") or "")
        cause = "psu-lost" if _SUPPLY.search(name) and kind != "Temperature" else _SENSORS.get(kind, "board-power")
        yield cause, name, f"{name}: {row.get('value')} {row.get('unit') or ''}, health: Critical"
    for row in _rows(bodies.get("bmc-gpu.json", {}).get("items")):
        if row.get("health") == "Critical":
            name = str(row.get("name") or "?")
            yield "baseboard-fault", name, f"{name} (serial {row.get('serial') or 'unknown'}): health: Critical"


def _moment(text: object) -> float | None:
    if not isinstance(text, str):
        return None
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
    except (ValueError, OverflowError, OSError):
        return None


def _rows(value: object) -> list[dict[str, Any]]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def _words(value: object) -> list[str]:
    return [str(each)[:LINE_LIMIT] for each in value] if isinstance(value, list) else []


def _map(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
