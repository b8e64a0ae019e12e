"""What the driver and its Xids say of each GPU, by order of authority. Pure.

The driver's own GPU Recovery Action is asked first (it knows what has been reset since), then the action that Xid 154
named last, then the table of Xids. Where a lower authority would do something else, that is said.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from metalserve.catalogue.causes import Cause, CauseCatalogue
from metalserve.catalogue.loader import load_xids
from metalserve.hardware.values import Gpu, XidEvent
from metalserve.recovery.consequences import BY_ENGINES
from metalserve.recovery.evidence import Evidence
from metalserve.recovery.suspects import Suspect, from_event

_ECC_FOLLOWED = {63: "remap-pending", 64: "remap-failed"}
_CODE = re.compile(r"recovery action changed from .{1,80} to 0x([0-9a-fA-F]{1,8}) \(")
_PROGRAM = ("program-fault",)
_PREVIOUS = re.compile(r"caused by previous Xid (\d{1,4})")
"""Xid 45 of newer drivers names what it cleans up after; the line of that Xid may be gone from the log."""
_TOLD = re.compile(
    r"\bXidCriticalError: Xid=(?P<xid>\d{1,4})(?: on Device=(?P<name>[\w-]{1,80}))?"
    r"|\bDetected XID (?P<code>\d{1,4}) for GPU (?P<gpu>\d{1,3})\b"
)


@dataclass(frozen=True, slots=True)
class GpuVerdict:
    """What ails one GPU.

    Attributes:
        suspect: the cause that counts, with its line.
        authority: `the driver's recovery action`, `Xid 154` or `the Xid table`.
        lines: every line that was used, oldest first.
        disagreement: what a lower authority would do instead, in words; empty when none would.
    """

    suspect: Suspect
    authority: str
    lines: tuple[str, ...]
    disagreement: str = ""


def judge_gpus(events: Sequence[XidEvent], gpus: Iterable[Gpu], catalogue: CauseCatalogue) -> tuple[GpuVerdict, ...]:
    """Judge every GPU that an event or the driver speaks of.

    Args:
        events: of the kernel log of this boot, in its order; SXids are left to `switch_suspects`.
        gpus: as the driver shows them; none when it does not answer.
        catalogue: causes.
    """
    by_gpu: dict[str, list[XidEvent]] = {}
    for event in events:
        if event.kind != "sxid":
            by_gpu.setdefault(event.pci or "", []).append(event)
    actions = {gpu.pci: gpu.recovery_action for gpu in gpus if gpu.pci and _printed(gpu.recovery_action)}
    suspicious = _programs_on(by_gpu)
    verdicts = []
    for pci in sorted(by_gpu.keys() | {p for p, a in actions.items() if (a or "").strip().lower() != "none"}):
        verdict = _judge(pci, by_gpu.get(pci, []), actions.get(pci), catalogue, alone=pci in suspicious)
        if verdict is not None:
            verdicts.append(verdict)
    return tuple(verdicts)


def switch_suspects(events: Iterable[XidEvent], catalogue: CauseCatalogue) -> list[Suspect]:
    """Return the fatal errors of NVSwitches; those that are not fatal are information (Fabric Manager User Guide)."""
    source = load_xids().sources["sxid"]
    return [
        from_event(event, "switch-fatal", catalogue, source)
        for event in events
        if event.kind == "sxid" and event.severity == "Fatal"
    ]


def told_suspects(evidence: Evidence, catalogue: CauseCatalogue) -> list[Suspect]:
    """Return the Xids that Kubernetes' device plugin and DCGM tell of; the kernel's own line says more of them."""
    logs = [("kernel log", evidence.kernel or "")]
    logs += [(f"{BY_ENGINES}{name}", text) for name, text in evidence.engines.items()]
    return [
        of_xid(XidEvent("xid", int(told["xid"] or told["code"]), told["name"] or told["gpu"], line), catalogue, origin)
        for origin, text in logs
        for line in text.splitlines()
        if (told := _TOLD.search(line)) is not None
    ]


def _printed(action: str | None) -> bool:
    return action is not None and action.strip().lower() not in ("n/a", "[n/a]", "", "not supported")


def _judge(
    pci: str, events: Sequence[XidEvent], action: str | None, catalogue: CauseCatalogue, *, alone: bool
) -> GpuVerdict | None:
    since = _since_the_last_recovery(events)
    table = _by_table(since, catalogue, alone=alone)
    named = next((e for e in reversed(events) if e.kind == "recovery-action" and e.action), None)
    if named is not None and named.action == "None" and table is not None:
        named = None  # it spoke of what was before it; a GPU that is gone since has nobody to ask for more
    text = _by_action(named.action or "", pci, named.message, "kernel log", catalogue) if named else None
    live = _by_action(action, pci, f"GPU Recovery Action : {action}", "nvidia-smi", catalogue) if action else None
    lines = tuple(event.message for event in events)
    ranked = [
        (authority, suspect)
        for authority, suspect in (("the driver's recovery action", live), ("Xid 154", text), ("the Xid table", table))
        if suspect is not None
    ]
    if not ranked:
        return None
    authority, chosen = ranked[0]
    if chosen.cause.id == "gpu-well" and table is not None and table.cause.id in _PROGRAM:
        # the GPU needs nothing, as the driver says; the program that it stopped does
        authority, chosen = "the Xid table", table
    others = [(name, s) for name, s in ranked if s.cause.rung != chosen.cause.rung and s is not chosen]
    said = "; ".join(f"{name} would have: {s.cause.rung} ({s.cause.title})" for name, s in others)
    return GpuVerdict(chosen, authority, lines or (chosen.line,), said)


def _since_the_last_recovery(events: Sequence[XidEvent]) -> Sequence[XidEvent]:
    """Events after the driver last said that nothing is left to do."""
    last = max((n for n, e in enumerate(events) if e.kind == "recovery-action" and e.action == "None"), default=-1)
    return events[last + 1 :]


def _by_action(action: str, pci: str, line: str, origin: str, catalogue: CauseCatalogue) -> Suspect:
    known = catalogue.recovery_actions.get(action.strip().lower())
    code = _CODE.search(line)
    if known is None and code is not None:  # drivers rename their actions, and keep the numbers of NVML
        named = next((a.name for a in load_xids().recovery_actions if a.code == int(code[1], 16)), "")
        known = catalogue.recovery_actions.get(named.lower())
    cause = catalogue.cause(known or "unknown-action")
    return Suspect(cause, pci, line, origin, cause.source)


def _by_table(events: Sequence[XidEvent], catalogue: CauseCatalogue, *, alone: bool) -> Suspect | None:
    suspects = [_of_event(event, catalogue) for event in events if event.kind != "recovery-action"]
    if not suspects:
        return None
    followed = [_ECC_FOLLOWED[e.xid] for e in events if e.xid in _ECC_FOLLOWED]
    worst = max(suspects, key=lambda s: (s.cause.id != "clean-up", _weight(s.cause, catalogue)))
    if worst.cause.id == "gpu-memory-error" and "remap-failed" in followed:
        worst = next(s for s in suspects if s.cause.id == "remap-failed")
    if worst.cause.id == "clean-up" and all(event.process for event in events):
        # solo, with the name of a program: it was killed or crashed; only without one fabric manager is suspected
        cause = catalogue.cause("note-and-watch")
        return Suspect(cause, worst.subject, worst.line, worst.origin, worst.source)
    if worst.cause.id in _PROGRAM and alone:
        cause = catalogue.cause("program-fault-hardware")
        return Suspect(cause, worst.subject, worst.line, worst.origin, cause.source)
    return worst


def _weight(cause: Cause, catalogue: CauseCatalogue) -> int:
    return catalogue.height(cause.rung)


def of_xid(event: XidEvent, catalogue: CauseCatalogue, origin: str) -> Suspect:
    """Return what the table says of one Xid that somebody else than the kernel log tells of."""
    suspect = _of_event(event, catalogue)
    return Suspect(suspect.cause, suspect.subject, suspect.line, origin, suspect.source)


def _of_event(event: XidEvent, catalogue: CauseCatalogue) -> Suspect:
    if event.kind == "off-bus":
        return from_event(event, "gpu-off-bus", catalogue, catalogue.sources["no-xid"])
    code = event.xid if event.xid is not None else -1
    if code == 45 and (previous := _PREVIOUS.search(event.message)):
        code = int(previous.group(1))
    if 144 <= code <= 150:
        for rule in catalogue.nvlink5:
            if (
                (rule.xid is None or rule.xid == code)
                and (rule.unit is None or (event.unit or "").startswith(rule.unit))
                and (rule.text is None or rule.text in event.message)
                and (rule.severity is None or rule.severity == event.severity)
            ):
                return from_event(event, rule.cause, catalogue, rule.source)
        return from_event(event, "nvlink-fault", catalogue, catalogue.sources["catalogue"])
    for words in catalogue.xid_texts:
        if words.xid == code and words.text in event.message:
            return from_event(event, words.cause, catalogue, words.source)
    known = load_xids().by_code(code)
    if known is None or known.severity == "unused":
        return from_event(event, "unknown-xid", catalogue, catalogue.sources["catalogue"])
    cause_id = catalogue.xids.get(code) or catalogue.xid_actions[known.action]
    if cause_id == "vendor" and known.severity != "fatal":
        cause_id = "ask-vendor"  # a node is not taken out of service for a question
    return from_event(event, cause_id, catalogue, known.source)


def _programs_on(by_gpu: dict[str, list[XidEvent]]) -> set[str]:
    """GPUs on which programs of two kinds or more failed while no other GPU had such a fault (NVSentinel's rule)."""
    table = load_xids()
    failed: dict[str, set[str]] = {}
    for pci, events in by_gpu.items():
        names = {
            event.process
            for event in events
            if event.process and event.process != "<unknown>" and (known := table.by_code(event.xid or -1)) is not None
            and known.severity == "app"
        }  # fmt: skip
        if names:
            failed[pci] = names
    if len(failed) != 1:
        return set()
    return {pci for pci, names in failed.items() if len(names) > 1}
