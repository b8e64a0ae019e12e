"""From what is recorded and seen of a host in trouble to the next move; the ladder decides. Pure."""

from __future__ import annotations

from metalserve.catalogue.causes import load_causes
from metalserve.catalogue.ladder import load_ladder
from metalserve.desired.diff import Change
from metalserve.desired.model import Action, File, Reboot
from metalserve.desired.node import Node
from metalserve.errors import MetalserveError
from metalserve.recovery.bundle import collecting_script
from metalserve.recovery.case import Case
from metalserve.recovery.host_steps import ON_HOST, step_change
from metalserve.recovery.ladder import Finish, next_step
from metalserve.recovery.look import Seen
from metalserve.recovery.ports import Looked
from metalserve.recovery.record import EVIDENCE, KEPT, RECORD, Made, Record
from metalserve.recovery.rules import rules_of
from metalserve.recovery.values import Outcome, Proof, Step
from metalserve.upgrade.moves import Act, End, Move, Pause, Trace
from roles.recovery.seen import look_of, record_of

SETTLE_S, FABRIC_S = 20.0, 150.0
"""Seconds that a bad sign may last after a step before it counts; the NVLink fabric takes up to two minutes."""

MINIMAL_S = 8
"""Seconds that the bundle may take which is kept before a step: a host in trouble is not to be kept waiting."""

BUNDLES = 10
"""Bundles kept on the host."""

NOT_FROM_HERE = "needs more than the host: `metalserve recover INVENTORY HOST`"
_LOOK_S = 3.0


def next_move(node: Node, trace: Trace, failure: str = "") -> Move:
    """Return what to do next.

    Args:
        node: the newest observation.
        trace: what this run did so far.
        failure: why the last step failed, "" when it did not.

    Raises:
        MetalserveError: the host tells nothing, or an upgrade of it is unfinished.
    """
    record = record_of(node)
    if record is not None and record.result:
        if trace.acted["finish"]:
            return _ended(record)
        record = None
    steps = list(record.steps) if record is not None else []
    since = max((s.begun for s in steps), default=last_end(node))
    seen, look = look_of(node, since)
    if seen.upgrading:
        raise MetalserveError(f"an upgrade is unfinished: {seen.upgrading}", remedy="run deploys/upgrade.py first")
    if steps and steps[-1].ended is None:
        judged = _judged(node, steps[-1], seen, look, trace, failure)
        if isinstance(judged, Pause):
            return judged
        steps[-1] = judged
    move = decided(node, seen, look, steps)
    record = record or Record(begun=seen.now, controller=trace.controller)
    record = record.model_copy(update={"controller": trace.controller, "steps": tuple(steps)[-KEPT:]})
    if isinstance(move, Step):
        return _step(node, record, move, seen)
    if not steps:
        return _nothing_done(move)
    return _finish(record, move, seen, trace)


def last_end(node: Node) -> float:
    """Return when the last recovery ended that the host's record tells of; what happened before is over."""
    record = record_of(node)
    return record.ended if record is not None and record.result == "recovered" else 0.0


def decided(node: Node, seen: Seen, look: Looked, steps: list[Made]) -> Step | Finish:
    """Return the ladder's word: of the steps that run on the host, and of those that the setting leaves."""
    told = tuple(made.record(number) for number, made in enumerate(steps))
    cannot: dict[str, str] = {}
    while True:
        case = Case(
            node.name, look, look, told, (), rules_of(node.settings.recovery), steps[0].begun if steps else seen.now,
            seen.now, cannot,
        )  # fmt: skip
        move = next_step(case)
        if not isinstance(move, Step) or move.rung in cannot:
            return move
        cannot[move.rung] = why_not(node, seen, move.rung)
        if not cannot[move.rung]:
            return move


def why_not(node: Node, seen: Seen, rung: str) -> str:
    """Return why a rung is not made on this host; empty when it can be."""
    if rung not in ON_HOST:
        return NOT_FROM_HERE
    only = node.settings.recovery.only
    if only is not None and rung != only:
        return f"only {only} is asked for"
    if rung == "reboot" and node.settings.driver.reboot == "never":
        return "driver.reboot is 'never'"
    if rung == "restart-engine" and not seen.tokens:
        return "it has no engine yet"
    if rung in ("reset-gpu", "reload-driver", "reboot") and seen.strangers:
        return f"its GPUs are in use by {', '.join(seen.strangers[:3])}, and nobody ends that but its owner"
    if rung == "reset-gpu" and seen.reset is not None and seen.reset.together == "never":
        return seen.reset.why
    return load_ladder().lacks(rung, {"ssh", "driver"} if "NVRM" in seen.texts.get("driver.txt", "") else {"ssh"})


def _judged(node: Node, made: Made, seen: Seen, look: Looked, trace: Trace, failure: str) -> Made | Pause:
    """Judge the step in flight by what is seen; a good sign counts at once, a bad one when it lasts."""
    assert look.verdict is not None
    outcome: Outcome = "failed" if failure else "done" if trace.acted[_key(made)] else "unknown"
    ill = load_causes().height(look.verdict.rung) > 0
    same_boot = made.rung == "reboot" and made.boot == seen.boot
    proof: Proof = "good" if not ill and look.serving is True and not same_boot else "bad"
    if proof == "bad" and not failure and not same_boot and trace.paused_s < _patience(node, seen, look, ill):
        return Pause(_LOOK_S, look.words)
    words = "; ".join(filter(None, (failure[:300], "it is still in the boot from before" if same_boot else look.words)))
    return made.model_copy(update={"ended": seen.now, "outcome": outcome, "proof": proof, "words": words})


def _patience(node: Node, seen: Seen, look: Looked, ill: bool) -> float:
    assert look.verdict is not None
    causes = [c for c in look.verdict.causes if not c.explained_by and not c.past]
    if ill and any(load_causes().cause(c.id).subject == "fabric" for c in causes):
        return FABRIC_S
    return float(node.settings.engine.start_timeout_s) if not ill and seen.starting else SETTLE_S


def _key(made: Made) -> str:
    return f"{made.rung} at {made.begun:.3f}"


def _step(node: Node, record: Record, step: Step, seen: Seen) -> Move:
    if step.rung == "converge":
        return End(
            {}, failed=f"the main job is the next step: {step.reason}",
            remedy=f"pyinfra INVENTORY deploys/gpu_node.py --limit {node.name}",
        )  # fmt: skip
    made = Made(
        rung=step.rung,
        subjects=tuple((s.kind, s.name, s.serial) for s in step.subjects),
        reason=step.reason,
        boot=seen.boot,
        begun=seen.now,
    )
    written = record.model_copy(update={"steps": (*record.steps, made)})
    changes = [Change(File(RECORD, written.text()), f"record: {step.rung}: {step.reason}")]
    if load_ladder().rung(step.rung).destroys_evidence:
        changes.insert(0, kept_evidence(step.rung))
    if step.rung == "reboot":
        reboot = Reboot(step.reason, node.settings.driver.reboot_timeout_s)
        return Act(step.rung, tuple(changes), _key(made), reboot=reboot)
    together = seen.reset is None or seen.reset.together != "alone"
    changes.append(step_change(step.rung, step.subjects, together=together))
    return Act(step.rung, tuple(changes), _key(made))


def kept_evidence(rung: str) -> Change:
    """Return what keeps a small bundle on the host, in seconds, before a step that destroys evidence."""
    script = (
        f"mkdir -p -m 0700 {EVIDENCE}\nms_bundle={EVIDENCE}/$(date -u +%Y%m%dT%H%M%SZ)-before-{rung}.tar\n"
        f"sh -s >\"$ms_bundle\" 2>/dev/null <<'MS_COLLECT' || echo 'the evidence is not whole'\n"
        f"{collecting_script(limit_s=MINIMAL_S - 2, deadline_s=MINIMAL_S)}\nMS_COLLECT\n"
        f'sync "$ms_bundle"; echo "evidence: $ms_bundle"\n'
        f"ls -1t {EVIDENCE}/*.tar | tail -n +{BUNDLES + 1} | xargs -r rm -f\n"
    )
    words = f"keep the evidence in {EVIDENCE}"
    return Change(Action(words, lambda seen: False, script), words)


def _nothing_done(move: Finish) -> End:
    if move.next in ("well", "accept"):
        return End({"recovery": move.reason})
    return End({}, failed=f"{move.next}: {move.reason}", remedy=move.person or "see `metalserve diagnose`")


def _finish(record: Record, move: Finish, seen: Seen, trace: Trace) -> Act:
    good = move.next in ("well", "accept", "restore", "recovered")
    words = move.reason
    if good and move.depth != "quick":
        words += f"; prove it deeper with deploys/verify.py --data depth={move.depth}"
    elif not good:
        words += f" -> {move.person or NOT_FROM_HERE}"
    result = "recovered" if good else "quarantine" if move.next == "quarantine" else "stopped"
    ended = record.model_copy(update={"result": result, "words": words, "ended": seen.now})
    return Act("finish", (Change(File(RECORD, ended.text()), f"record: {result}: {move.reason}"),), "finish")


def _ended(record: Record) -> End:
    made = ", ".join(f"{s.rung} ({s.proof})" for s in record.steps)
    if record.result == "recovered":
        return End({"recovery": f"{made}: {record.words}"})
    what, _, remedy = record.words.partition(" -> ")
    return End({}, failed=f"{record.result}: {what} (made: {made})", remedy=remedy)
