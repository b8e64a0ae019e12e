"""From what is recorded and seen of a host to the next move of its upgrade. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from metalserve.desired.diff import Change, difference
from metalserve.desired.model import File
from metalserve.desired.node import Node
from metalserve.errors import MetalserveError
from metalserve.upgrade.machine import Do, Fail, Finish, after_failure, next_step, resumed
from metalserve.upgrade.moves import Act, End, Move, Pause, Trace
from metalserve.upgrade.record import CURRENT, RECORD, Current, Record
from roles.upgrade.seen import (
    complaint_of,
    findings_of,
    has_engines,
    key_of,
    machine_findings,
    now_of,
    record_of,
    refuse,
    release_on,
    seen,
    settled,
)
from roles.upgrade.steps import Stage, fetch, held_by, not_started, on, stages

LOOK_S = 3.0
"""Seconds between two looks at checks that may still become good."""


def next_move(node: Node, trace: Trace, failure: str = "") -> Move:
    """Return what to do next.

    Args:
        node: the newest observation; its release is the one that the inventory names.
        trace: what this run did so far.
        failure: why the last move failed, "" when it did not.

    Raises:
        MetalserveError: this host cannot be upgraded, or not brought back either.
    """
    record = record_of(node)
    if record is None or record.finished:
        return _begin(node, record, trace, failure)
    turned = taken_up(node, record, trace)
    if turned.direction != record.direction:
        return _turn(turned)
    if failure:
        return _turn_back(node, turned, failure)
    try:
        return _go_on(on(node, turned.goal), turned, trace)
    except MetalserveError as error:
        return _turn_back(node, turned, str(error))


def taken_up(node: Node, record: Record, trace: Trace) -> Record:
    """Return an unfinished record as this run goes on with it: turned back when the inventory names its origin.

    Raises:
        MetalserveError: the inventory names a third release.
    """
    if trace.resumed:
        return record
    trace.resumed = True
    wanted = node.release.name
    if wanted not in (record.target.name, record.origin.name):
        raise MetalserveError(
            f"an upgrade is unfinished: {record.words}; release {wanted} has to wait until it is over",
            remedy=command(node, record),
        )
    if wanted != record.target.name and record.direction == "forward":
        return record.back(f"asked to go back to {record.origin.name}")
    return resumed(record, trace.controller)


def command(node: Node, record: Record) -> str:
    """Return the command that goes on with an unfinished upgrade, for people."""
    both = "" if record.direction == "back" else f" (or release={record.origin.name} to go back)"
    return (
        f"pyinfra INVENTORY deploys/upgrade.py --limit {node.name} --data release={record.target.name}"
        f" goes on with it{both}"
    )


def _begin(node: Node, before: Record | None, trace: Trace, failure: str) -> Move:
    if failure:
        raise MetalserveError(failure, remedy="nothing was stopped or installed: mend it, then run again")
    if before is not None and trace.resumed:
        return _ended(node, before)
    origin = release_on(node)
    if settled(node, origin):
        return End({"upgrade": f"nothing to do: {node.release.name} is in place", "release": node.release.name})
    refuse(node)
    serving = has_engines(node)
    found = _pending(node, fetch(node, origin, serving=serving), "fetch", trace)
    if found is not None:
        return found
    now = now_of(node)
    record = Record(
        origin=origin,
        target=node.release,
        started=now,
        controller=trace.controller,
        serving=serving,
        excused=tuple(key_of(f) for f in machine_findings(node) if f.failing),
        history=before.past() if before is not None else (),
    )
    trace.resumed = True
    return _go_on(node, record, trace)


def _go_on(node: Node, record: Record, trace: Trace) -> Move:
    decision = next_step(record, seen(node, record, trace))
    if isinstance(decision, Fail):
        return _turn_back(node, record, decision.reason)
    if isinstance(decision, Finish):
        return _finish(node, decision.record)
    if not isinstance(decision, Do):
        return Pause(LOOK_S, complaint_of(findings_of(node, record), record) or "waiting for the checks")
    new = decision.record
    if new.step == "free":
        new = new.model_copy(update={"stopped": tuple(dict.fromkeys((*new.stopped, *held_by(node.observed))))})
    move = _pending(node, stages(new.step, new), new.step, trace, first=(_written(new),))
    if move is None:
        raise MetalserveError(f"nothing is left to do in step {new.step}, and yet the host is not as wanted")
    return move


def _pending(node: Node, parts: Sequence[Stage], step: str, trace: Trace, first: tuple[Change, ...] = ()) -> Act | None:
    """Return the first part of a step that differs from what it wants; None when nothing does.

    Raises:
        MetalserveError: it was carried out before, and still differs.
    """
    # Packages start their services when they are configured: what was stopped before is stopped again after each.
    count = sum(trace.acted[k] for k in trace.acted if k.startswith("install ")) if step in ("drain", "free") else 0
    for part in parts:
        key = f"{step} / {part.name}" + (f" after {count}" if count else "")
        if part.once and trace.acted[key]:
            continue
        changes = difference(part.decide(node), node.observed)
        if not changes:
            continue
        if trace.acted[key]:
            words = "; ".join(c.summary for c in changes[:3])
            raise MetalserveError(f"{key}: still not as wanted after the change: {words}")
        reboot = part.decide(node).reboot
        return Act(step, (*first, *changes), key, reboot=reboot, anew=reboot is not None)
    return None


def _turn(record: Record) -> Act:
    return Act("go back", (_written(record),), anew=True)


def _turn_back(node: Node, record: Record, reason: str) -> Act:
    back = after_failure(record, f"{record.step}: {reason}")
    if back is None:
        raise MetalserveError(
            f"the upgrade to {record.target.name} failed ({record.reason}), and so did the way back to "
            f"{record.origin.name}, at step {record.step}: {reason}",
            remedy=f"mend what it names; then {command(node, record)}",
        )
    return _turn(back)


def _finish(node: Node, record: Record) -> Act:
    ended = record.end(now_of(node))
    current = File(CURRENT, Current(release=record.goal).text())
    return Act("finish", (_written(ended), Change(current, f"record: {record.goal.name} is proved")))


def _written(record: Record) -> Change:
    return Change(File(RECORD, record.text()), f"record: {record.words}")


def _ended(node: Node, record: Record) -> End:
    same = record.origin == record.target  # a repair: both ways lead to the same place
    if record.result == "rolled back" and not same:
        if node.release == record.origin:  # which is what this run was asked for
            return End({"upgrade": f"back on {record.origin.name}", "release": record.origin.name})
        return End(
            {"upgrade": f"rolled back to {record.origin.name}", "release": record.origin.name},
            failed=f"the upgrade to {record.target.name} failed at step {record.reason}; rolled back to "
            f"{record.origin.name}, which is proved again",
            remedy=f"mend what it names, then run again; to stay, give the host release {record.origin.name}",
        )
    words = f"{record.target.name} repaired" if same else f"{record.origin.name} -> {record.target.name}"
    gone = not_started(record, node.observed)
    warnings = [f"{unit} ran before the upgrade and does not now" for unit in gone]
    warnings += [str(f) for f in machine_findings(node) if f.failing and key_of(f) in record.excused]
    return End({"upgrade": words, "release": record.target.name}, tuple(warnings))
