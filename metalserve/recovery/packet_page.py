"""The page of an RMA packet: what a vendor's support asks for first, on one page of plain text. Pure."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from metalserve.recovery.parts import UNKNOWN, Part
from metalserve.recovery.values import Attempt, Subject
from metalserve.recovery.verdict import Verdict

_WIDTH: Final = 200
_SEEN: Final = 6
"""Causes of one look that are printed; the rest is in the evidence."""
_EARLIER: Final = 20
"""Earlier attempts that are printed; `history.json` has all."""

BUG_REPORT: Final = (
    "as root, as soon as the fault shows: `nvidia-bug-report.sh`; it takes minutes, allow it an hour",
    "if that hangs: `nvidia-bug-report.sh --safe-mode --extra-system-data`",
    "if both hang: power cycle the machine, keep the file, run it once more, and send both",
)
"""How NVIDIA wants its report made (docs.nvidia.com/deploy/rma-process; deploy/gpu-debug-guidelines)."""

SYSTEM_CAUSES: Final = (
    "the GPU was reseated, or moved to another slot: did the fault follow the serial number or the slot?",
    "power cables and power supplies were checked; temperatures were within limits",
    "BIOS, BMC and VBIOS are at the vendor's current version",
)
"""What NVIDIA asks to have ruled out first (docs.nvidia.com/deploy/rma-process, common system level issues)."""


def page(
    attempt: Attempt,
    parts: Sequence[Part],
    machine: Mapping[str, str],
    looks: Sequence[tuple[str, Verdict | str]],
    history: Sequence[Attempt],
    files: Sequence[str],
    simulated: bool = False,
) -> str:
    """Return the page.

    Args:
        attempt: the recovery that ended in quarantine.
        parts: what is blamed.
        machine: label -> value.
        looks: (name of a bundle, its verdict, or why it could not be read), oldest first.
        history: other attempts, any host; those that concern these parts are picked.
        files: names of the files in the packet.
        simulated: the GPUs are simulated.
    """
    lines = [_title(attempt, parts), "=" * 72, ""]
    if simulated:
        lines += ["THE GPUS OF THIS HOST ARE SIMULATED: this packet asks nobody for anything.", ""]
    lines += [
        f"Host {attempt.host}. Out of service since {_utc(attempt.ended or attempt.begun)}.",
        f"Why: {attempt.words or 'not said'}",
        "",
        "1. What is to be replaced or judged",
    ]
    for part in parts:
        lines += ["", *_table({"part": part.subject.kind, **part.rows})]
        if part.serial == UNKNOWN:
            lines.append("   The serial number could not be read: take it from the board or from the BMC's inventory.")
    if not parts:
        lines.append("   No single part is blamed: the host as a whole.")
    lines += ["", "2. The machine", "", *_table(machine)]
    lines += ["", "3. What was seen, verbatim"]
    for part in parts:
        if part.state:
            lines += ["", f"   {part.subject.name} said of itself ({part.where}):"]
            lines += [f"     {label} : {value}" for label, value in part.state.items()]
    for name, look in looks:
        lines += ["", f"   {name}:"]
        lines += [f"     {look}"] if isinstance(look, str) else _seen(look)
    lines += ["", "4. What was tried", "", *_tried(attempt)]
    lines += ["", "5. History of the same part", "", *_history(attempt, parts, history)]
    lines += ["", "6. Still to be added", "", *_missing(parts, files)]
    lines += ["", "7. Files", "", "   manifest.sha256 has a checksum of each (`sha256sum -c manifest.sha256`)."]
    lines += [f"   {name}" for name in files]
    return "\n".join(lines) + "\n"


def concerning(attempt: Attempt, parts: Sequence[Part], history: Iterable[Attempt]) -> list[Attempt]:
    """Return attempts, oldest first, that blamed the same serial numbers; where none is known, parts of the host."""
    serials = {part.serial for part in parts} - {UNKNOWN}
    names = {part.subject.name for part in parts}

    def same(other: Attempt) -> bool:
        if serials & {s.serial for s in other.subjects if s.serial}:
            return True
        if other.host != attempt.host:
            return False
        return not names or any(s.name in names and not (s.serial and serials) for s in other.subjects)

    return sorted((a for a in history if a.id != attempt.id and same(a)), key=lambda a: (a.begun, a.id))


def _title(attempt: Attempt, parts: Sequence[Part]) -> str:
    about = ", ".join(
        f"{p.subject.kind.upper() if p.subject.kind == 'gpu' else p.subject.kind} {p.serial}" for p in parts
    )
    return f"RMA request: {about or 'host'} of {attempt.host} ({', '.join(attempt.causes[:3]) or 'cause unknown'})"


def _table(rows: Mapping[str, str]) -> list[str]:
    return [f"   {label:<24}{value[:_WIDTH]}" for label, value in rows.items()]


def _seen(verdict: Verdict) -> list[str]:
    lines = []
    standing = [cause for cause in verdict.causes if not cause.explained_by]
    for cause in standing[:_SEEN]:
        about = f" [{', '.join(cause.subjects[:8])}]" if cause.subjects else ""
        past = " (in the boot before)" if cause.past else ""
        lines.append(f"     {cause.title}{about}{past}; read in: {', '.join(cause.origins)}")
        lines += [f"       | {line[:_WIDTH]}" for line in cause.lines]
        if cause.times > len(cause.lines):
            lines.append(f"       | ... {cause.times} lines in all")
    if len(standing) > _SEEN:
        lines.append(f"     ... and {len(standing) - _SEEN} more, see the evidence")
    if not lines:
        lines.append("     nothing that points to a fault")
    lines += [f"     not seen: {each}" for each in verdict.lacking]
    return lines


def _tried(attempt: Attempt) -> list[str]:
    lines = []
    for record in attempt.steps:
        on = ", ".join(_named(s) for s in record.step.subjects) or "the host"
        took = f" after {record.ended - record.begun:.0f} s" if record.ended is not None else ""
        how = f"{record.outcome or 'not known how it ended'}{took}"
        proof = {"good": "then healthy", "bad": "fault still there", "unknown": "effect unknown", None: "not looked at"}
        lines.append(f"   {_utc(record.begun)}  {record.step.rung} on {on}: {how}; {proof[record.proof]}")
        lines += [f"       {each[:_WIDTH]}" for each in (record.step.reason, record.words) if each]
    return lines or ["   No step of recovery: the verdict named none that could help."]


def _history(attempt: Attempt, parts: Sequence[Part], history: Sequence[Attempt]) -> list[str]:
    same = concerning(attempt, parts, history)
    lines = []
    for each in same[-_EARLIER:]:
        on = ", ".join(_named(s) for s in each.subjects) or "the host"
        tried = ", ".join(record.step.rung for record in each.steps) or "nothing"
        lines.append(f"   {_utc(each.begun)}  {each.host}: {', '.join(each.causes) or 'cause unknown'} on {on}")
        lines.append(f"       tried: {tried}; ended: {each.result or 'not ended'}")
    if len(same) > _EARLIER:
        lines.insert(0, f"   {len(same)} earlier recoveries; the last {_EARLIER}:")
    return lines or ["   None on record."]


def _missing(parts: Sequence[Part], files: Sequence[str]) -> list[str]:
    lines = []
    gpus = any(part.subject.kind == "gpu" for part in parts)
    if gpus and not any("nvidia-bug-report" in name for name in files):
        lines += ["   [ ] nvidia-bug-report.log.gz:", *(f"         {each}" for each in BUG_REPORT)]
    if gpus:
        lines.append(
            "   [ ] log of NVIDIA's field diagnostic (the vendor gives it out; the driver must be unloaded for it)"
        )
    if not any(name.endswith("bmc-events.json") for name in files):
        lines.append("   [ ] the BMC's event log (SEL) and its own support archive: they could not be read from here")
    lines += [f"   [ ] {each}" for each in SYSTEM_CAUSES if gpus]
    return lines or ["   Nothing."]


def _named(subject: Subject) -> str:
    return f"{subject.name} ({subject.serial})" if subject.serial else subject.name


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(seconds))
