"""Which step comes next: from what is recorded and what is seen, never from what was meant to have happened. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from metalserve.upgrade.record import Record

Verdict = Literal["good", "bad", "waiting"]


@dataclass(frozen=True, slots=True)
class Seen:
    """What an observation says about the release that a record leads to.

    Attributes:
        engines: an engine runs, starts or stops.
        held: units that have the driver open run, beside the engines.
        strangers: who else has the GPUs open, in words; never stopped by us.
        installed: every package is there, and the module that the next load takes.
        loaded: the kernel runs the module of that release, of the right kind.
        in_use: why the modules cannot be exchanged now ("" when nothing holds them).
        may_reboot: settings allow a reboot.
        boot_id: this boot.
        started: services and engines are as that release wants them.
        verdict: what the checks say; `waiting` while they may still become good.
        complaint: the first bad check, in words.
    """

    engines: bool
    held: bool
    strangers: tuple[str, ...]
    installed: bool
    loaded: bool
    in_use: str
    may_reboot: bool
    boot_id: str
    started: bool
    verdict: Verdict
    complaint: str = ""


@dataclass(frozen=True, slots=True)
class Do:
    """Write the record, then do its step."""

    record: Record


@dataclass(frozen=True, slots=True)
class Wait:
    """Look again in a moment."""

    record: Record


@dataclass(frozen=True, slots=True)
class Fail:
    """This direction leads no further."""

    reason: str


@dataclass(frozen=True, slots=True)
class Finish:
    """Write the finished record: the host is proved to be on its goal."""

    record: Record


Decision = Do | Wait | Fail | Finish


def next_step(record: Record, seen: Seen) -> Decision:
    """Return what to do next in the record's direction.

    A step is only ever chosen because its effect is not seen; what an interruption left half-way is thereby either
    found done or done again. A reboot is asked for once in a direction.
    """
    if not (seen.installed and seen.loaded):
        return _change(record, seen)
    if not seen.started:
        return Do(record.at("start"))
    if seen.verdict == "bad":
        return Fail(seen.complaint)
    here = record.at("verify")
    return Finish(here) if seen.verdict == "good" else Wait(here)


def _change(record: Record, seen: Seen) -> Decision:
    if seen.strangers:
        return Fail(f"the GPUs are in use by {', '.join(seen.strangers[:5])}")
    rebooted = record.rebooted_from not in ("", seen.boot_id)
    if seen.installed and rebooted and record.reload_tried:
        return Fail(f"driver {record.goal.driver.version} is not loaded after a reboot either")
    if seen.engines:
        return Do(record.at("drain"))
    if seen.held:
        return Do(record.at("free"))
    if not seen.installed:
        return Do(record.at("install"))
    if not seen.in_use and not record.reload_tried:
        return Do(record.at("reload").model_copy(update={"reload_tried": True}))
    if rebooted:
        return Fail(f"driver {record.goal.driver.version} is not loaded after a reboot, and {_held(seen)}")
    if not seen.may_reboot:
        return Fail(f"{_held(seen)}, and driver.reboot is 'never'")
    return Do(record.at("reboot").model_copy(update={"rebooted_from": seen.boot_id}))


def _held(seen: Seen) -> str:
    return seen.in_use or "the modules could not be exchanged"


def after_failure(record: Record, reason: str) -> Record | None:
    """Return the record of the way back after a step failed; None when it was on the way back already."""
    return record.back(reason) if record.direction == "forward" else None


def resumed(record: Record, controller: str) -> Record:
    """Return the record as the next run takes it up.

    The way back is tried anew from what is seen. On the way forward it is remembered that a reboot did not help: a
    driver that brings the host down again and again must not be tried for ever.
    """
    anew = {"reload_tried": False, "rebooted_from": ""} if record.direction == "back" else {}
    return record.model_copy(update={"controller": controller, **anew})
