"""Checks of the kernel log: Xids and SXids of this boot, judged by the catalogue."""

from __future__ import annotations

import re
from collections import Counter

from metalserve.catalogue.loader import load_xids, threshold
from metalserve.catalogue.models import XidCatalogue
from metalserve.hardware.node import NodeHardware, XidEvent
from metalserve.verify.finding import Finding, Status

_LOG = "kernel log of this boot"
_JOURNAL = "kernel messages in the journal, last 30 days"
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}(?=T)")
_CLEAN = "no Xid that calls for action in the kernel log of this boot"


def check_xids(hardware: NodeHardware) -> list[Finding]:
    """Judge the events of the kernel log; one finding per GPU (or NVSwitch) and kind of event."""
    if "kernel-log" in hardware.unread:
        return [
            Finding(
                "xid",
                "unknown",
                "host",
                _CLEAN,
                "the kernel log could not be read",
                "past errors of the GPUs are not known",
                "run `dmesg` as root on the host and read what it says",
                _LOG,
            )
        ]
    catalogue = load_xids()
    recovered = _recovered(hardware.xids)
    grouped: dict[tuple[str, int | None, str | None, bool], list[XidEvent]] = {}
    for number, event in enumerate(hardware.xids):
        key = (event.kind, event.xid, event.pci, number < recovered.get(event.pci or "", -1))
        grouped.setdefault(key, []).append(event)
    findings = [_judge(events, hardware, catalogue, since=key[3]) for key, events in grouped.items()]
    calling = [f for f in findings if f.status != "ok"]
    if calling:
        return calling
    seen = Counter(f"Xid {e.xid}" for e in hardware.xids)
    observed = ", ".join(f"{n} x {name}" for name, n in seen.items()) or "none"
    return [Finding("xid", "ok", "host", _CLEAN, observed, source=_LOG)]


def check_xid_history(hardware: NodeHardware) -> list[Finding]:
    """Find GPUs whose fatal events return on several days of the last 30: what a reset did not cure is hardware."""
    if hardware.xid_history is None:
        return []
    catalogue = load_xids()
    limit = threshold("xid-days")
    days: dict[tuple[str | None, str], list[XidEvent]] = {}
    for event in hardware.xid_history:
        status, name, _, _ = _verdict(event, catalogue)
        if status == "fail" and event.kind != "recovery-action":  # that only asks for what another event is about
            days.setdefault((event.pci, name), []).append(event)
    wanted = f"no fatal event on {limit.value:.0f} days or more of the last 30"
    findings = []
    for (_, name), events in days.items():
        dates = sorted({found.group() for e in events if (found := _DATE.match(e.message))})
        if len(dates) < limit.value:
            continue
        findings.append(
            Finding(
                "xid-history",
                "warn",
                _subject(events[-1], hardware),
                wanted,
                f"{name}: {len(events)} times on {len(dates)} days, last on {dates[-1]}",
                "it comes back though it was reset: the node will fail again",
                "check seating, power and heat; run NVIDIA's field diagnostic; have the GPU replaced",
                _JOURNAL,
                events[-1].message,
                limit,
            )
        )
    if not findings:
        seen = f"{len(hardware.xid_history)} event(s), none fatal on several days"
        findings.append(Finding("xid-history", "ok", "host", wanted, seen, source=_JOURNAL))
    return findings


def _recovered(events: tuple[XidEvent, ...]) -> dict[str, int]:
    """GPU -> number of the last event by which the driver said that nothing is left to do."""
    return {
        e.pci: n for n, e in enumerate(events) if e.kind == "recovery-action" and e.pci and (e.action or "") == "None"
    }


def _judge(events: list[XidEvent], hardware: NodeHardware, catalogue: XidCatalogue, *, since: bool) -> Finding:
    event = events[-1]
    status, name, remedy, source = _verdict(event, catalogue)
    if since and status == "fail":
        status, remedy = "warn", "the driver has since asked for nothing more; watch for repeats"
    times = f"{len(events)} times, last: " if len(events) > 1 else ""
    return Finding(
        "xid",
        status,
        _subject(event, hardware),
        _CLEAN,
        f"{name}: {times}{event.message[:200]}",
        "" if status == "ok" else _impact(status),
        "" if status == "ok" else remedy,
        source,
        event.message,
    )


def _verdict(event: XidEvent, catalogue: XidCatalogue) -> tuple[Status, str, str, str]:
    if event.kind == "off-bus":
        known = catalogue.by_code(79)
        assert known is not None
        return "fail", "GPU has fallen off the bus", known.remedy, known.source
    if event.kind == "sxid":
        source = catalogue.sources["sxid"]
        if event.severity == "Fatal":
            remedy = "stop all GPU programs and fabric manager, reset all GPUs, start fabric manager"
            return "fail", f"NVSwitch SXid {event.xid} (fatal)", remedy, source
        return "ok", f"NVSwitch SXid {event.xid}", "", source
    known = catalogue.by_code(event.xid) if event.xid is not None else None
    if known is None:
        return "warn", f"Xid {event.xid} (not in the catalogue)", "look the Xid up and ask the vendor", _LOG
    words = known.meaning or known.name
    name = f"Xid {known.code} ({words})"
    if event.kind == "recovery-action":
        action = catalogue.recovery(event.action or "")
        if action is None:
            return "fail", name, f"do what it asks: {event.action}", known.source
        return action.status, name, action.remedy, action.source
    if known.severity == "decode":
        return ("fail" if event.severity == "Fatal" else "warn"), name, known.remedy, known.source
    by_severity: dict[str, Status] = {"fatal": "fail", "warning": "warn", "follow": "warn", "unused": "warn"}
    return by_severity.get(known.severity, "ok"), name, known.remedy, known.source


def _impact(status: Status) -> str:
    return "the GPU must not serve until this is cured" if status == "fail" else "may grow worse"


def _subject(event: XidEvent, hardware: NodeHardware) -> str:
    if event.pci is None:
        return "host"
    if event.kind == "sxid":
        return f"NVSwitch {event.pci}"
    gpu = next((g for g in hardware.gpus if g.pci == event.pci), None)
    return f"GPU {gpu.index} ({event.pci})" if gpu else f"GPU {event.pci}"
