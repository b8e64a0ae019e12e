"""What to do next with a host in recovery: the next rung, or how it ends. Pure.

The ladder starts at the rung that the verdict names and falls through only when the proof is bad. What cannot be tried
is left out and named. It ends for certain: a rung is made at most once more than `tries` says, and after it only higher
ones follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from metalserve.catalogue.causes import load_causes
from metalserve.catalogue.ladder import DEPTHS, Depth, load_ladder
from metalserve.recovery.case import STAGES, Case, causes_of, counting, heavy, of_host, of_part, subjects_of
from metalserve.recovery.values import Attempt, Step, StepRecord
from metalserve.recovery.verdict import Found

Ending = Literal["well", "accept", "restore", "recovered", "quarantine", "stop"]

_RUNGS: Final = tuple(rung.name for rung in load_ladder().rungs)
_height = load_causes().height


@dataclass(frozen=True, slots=True)
class Finish:
    """No further rung, or none for now.

    Attributes:
        next: `well`: nothing is wrong; `accept`: verify it at `depth`; `restore`: back into the router; `recovered`:
            all is done; `quarantine`: keep it out of service; `stop`: leave it, a person must act.
        reason: why, in words.
        person: what a person must do; empty when nothing.
        depth: of the verify that accepts.
    """

    next: Ending
    reason: str
    person: str = ""
    depth: Depth = "quick"


def next_step(case: Case) -> Step | Finish:
    """Decide what comes next. The same case gives the same answer; every way through it ends."""
    if case.forbidden:
        return Finish("stop", case.forbidden)
    last = case.last
    if last is None:
        return _first(case)
    if last.step.rung == "restore":
        return _after_restore(case, last)
    if last.step.rung == "accept":
        return _after_accept(case, last)
    return _after_rung(case, last)


def _first(case: Case) -> Step | Finish:
    look, causes = case.latest, counting(case.latest.verdict)
    if look.serving is True and look.reachable and _wanted(case) == "nothing" and case.steps:
        return Finish("accept", "it serves again, and is out of the router", depth=_depth(case))  # drained in vain
    if look.serving is True and not look.reachable:
        return Finish("stop", "the engines serve but SSH does not answer", "look at sshd and the network between")
    if look.serving is True and causes and all(cause.confidence == "low" for cause in causes):
        return Finish("stop", f"it serves, and there are only hints: {_titles(causes)}", _todo(causes))
    if why := _recurs(case):
        return Finish("quarantine", why, _todo(causes))
    wanted = _wanted(case)
    if wanted == "nothing" and look.serving is True:
        if any(cause.person for cause in causes):
            return Finish("stop", _titles(causes), _todo(causes))
        return Finish("well", "nothing is wrong that a step could cure")
    if wanted == "nothing" and look.serving is None:
        return Finish("accept", "nothing was found; whether it serves could not be asked", depth=_depth(case))
    if wanted == "nothing":
        wanted = "restart-engine"
    return _climb(case, _started_higher(case, wanted), wanted)


def _after_rung(case: Case, last: StepRecord) -> Step | Finish:
    wanted, top = _wanted(case), _top(case)
    if last.outcome != "refused" and last.proof == "good":
        if _height(wanted) > top:
            return _climb(case, wanted)
        return Finish("accept", f"{last.step.rung}: {last.words or 'proven'}", depth=_depth(case))
    if last.proof != "bad" and wanted == "nothing" and case.latest.verdict is not None and case.latest.reachable:
        return Finish("accept", f"{last.step.rung}: nobody saw the proof; verify decides", depth=_depth(case))
    # What is known not to have happened may be done again; what nobody knows of, once more and only after this look.
    unseen = last.outcome == "unknown"  # its controller died
    limit = load_ladder().rung(last.step.rung).tries + (1 if unseen else 0)
    may_repeat = case.in_a_row(last.step.rung) < limit
    asked_again = unseen and wanted == last.step.rung and may_repeat
    if case.latest.serving is True and case.latest.reachable and last.outcome != "refused" and not asked_again:
        return Finish("accept", f"{last.step.rung} did not help, but it serves: verify decides", depth=_depth(case))
    again = last.outcome in ("failed", "unknown") and _height(wanted) <= top
    if again and may_repeat:
        return _climb(case, last.step.rung, repeat=True)
    return _climb(case, _higher(top, wanted))


def _after_accept(case: Case, last: StepRecord) -> Step | Finish:
    if last.proof == "good":
        return Finish("restore", "accepted")
    look = case.latest
    if last.proof != "bad":
        trouble = look.verdict is None or _height(_wanted(case)) > _top(case)
        if case.in_a_row("accept") < case.rules.looks and not trouble:
            return Finish("accept", "the last verify has no result", depth=_depth(case))
        if not trouble:
            return Finish("stop", f"verify came to no result: {last.words}", "run verify by hand and see why")
    causes = counting(look.verdict)
    if causes and all(_of_setup(cause) for cause in causes) and case.rungs:
        return Finish("stop", _titles(causes), _todo(causes))
    if not case.rungs:
        wanted = _wanted(case)
        return _climb(case, "restart-engine" if wanted == "nothing" else wanted)
    return _climb(case, _higher(_top(case), _wanted(case)))


def _after_restore(case: Case, last: StepRecord) -> Finish:
    if last.outcome == "done":
        return Finish("recovered", "accepted, and back in the router")
    # A controller that died over it is no word of the router's; but a router that never says anything ends it, too.
    if case.in_a_row("restore") < case.rules.looks * (3 if last.outcome == "unknown" else 1):
        return Finish("restore", f"the router did not take it back: {last.words}")
    return Finish("stop", f"accepted, but not back in the router: {last.words}", "put it back by hand")


def _wanted(case: Case) -> str:
    """The rung that the latest look asks for; without any evidence, the first for a host that is dead."""
    look = case.latest
    if look.verdict is not None:
        return look.verdict.rung
    dead = load_ladder().unreachable
    return dead.unpowered if look.powered is False else dead.powered


def _top(case: Case) -> int:
    return max((_height(step.step.rung) for step in case.rungs), default=0)


def _higher(top: int, wanted: str) -> str:
    names = [rung.name for rung in load_causes().rungs]
    return wanted if _height(wanted) > top else names[min(top + 1, len(names) - 1)]


def _started_higher(case: Case, wanted: str) -> str:
    """A cause that has come back within the window starts where its first cure did not reach."""
    highest = wanted
    for cause in counting(case.latest.verdict):
        rung = load_ladder().rung_again(cause.id)
        if rung and _height(rung) > _height(highest) and any(cause.id in each.causes for each in _same(case)):
            highest = rung
    return highest


def _same(case: Case) -> list[Attempt]:
    """Late attempts on the same parts; on this host when the parts have no serial numbers."""
    parts = [subject for subject in subjects_of(case) if subject.serial]
    if not parts:
        return list(of_host(case))
    return [attempt for part in parts for attempt in of_part(case, part)]


def _recurs(case: Case) -> str:
    if _height(_wanted(case)) < _height("restart-services"):
        return ""
    days = case.rules.window_s / 86400
    for part in subjects_of(case):
        before = [attempt for attempt in of_part(case, part) if heavy(attempt)]
        if len(before) + 1 >= case.rules.recurrence or any(each.result == "quarantined" for each in before):
            hosts = ", ".join(sorted({attempt.host for attempt in before}))
            return f"{part.kind} {part.serial}: failure {len(before) + 1} in {days:g} days (before on {hosts})"
    before = [attempt for attempt in of_host(case) if heavy(attempt)]
    if len(before) + 1 >= case.rules.host_recurrence:
        return f"the host failed {len(before) + 1} times in {days:g} days"
    return ""


def _climb(case: Case, floor: str, fallback: str = "", *, repeat: bool = False) -> Step | Finish:
    """The cheapest rung from `floor` up that can be tried; `fallback`: where to look when there is none."""
    left_out: list[str] = []
    if floor == "quarantine":
        return _give_up(case, "the verdict asks for it")
    if _height(floor) <= _height(_ceiling(case)):
        spent = _spent(case)
        if spent:
            return _give_up(case, spent)
        for rung in _RUNGS:
            if not _height(floor) <= _height(rung) <= _height(_ceiling(case)):
                continue
            if why := _cannot(case, rung):
                left_out.append(f"{rung}: {why}")
                continue
            return _step(case, rung, left_out, repeat)
    if fallback and fallback != floor:
        return _climb(case, fallback)
    return _give_up(case, "; ".join(["no rung is left", *left_out]))


def _cannot(case: Case, rung: str) -> str:
    if rung == "reimage" and not case.rules.reimage:
        return "re-imaging this host is not allowed"
    return case.cannot.get(rung, "")


def _spent(case: Case) -> str:
    if case.now - case.begun > case.rules.attempt_s:
        return f"the attempt took longer than {case.rules.attempt_s:.0f} s"
    if len(case.rungs) >= case.rules.steps:
        return f"{len(case.rungs)} steps did not help"
    return ""


def _ceiling(case: Case) -> str:
    """How far up it may go for what is blamed; the verdict's own rung is always allowed."""
    ladder, causes = load_ladder(), _uncured(case)
    if case.latest.verdict is None:
        return ladder.unreachable.ceiling
    if causes and all(_of_setup(cause) for cause in causes):
        return _highest([ladder.setup.ceiling, *(cause.rung for cause in causes)])
    if case.latest.serving is True:
        return _highest([ladder.serving_ceiling, *(cause.rung for cause in causes)])
    subjects = {load_causes().cause(cause.id).subject for cause in causes if not _of_setup(cause)} or {"engine"}
    return _highest([*(ladder.ceilings[each] for each in subjects), _wanted(case)])


def _uncured(case: Case) -> tuple[Found, ...]:
    """The causes that are still there: when a rung is proven and another cause shows, it is that one."""
    last = case.last
    now = counting(case.latest.verdict)
    if now and last is not None and (last.proof == "good" or last.step.rung in STAGES):
        return now
    return causes_of(case)


def _highest(rungs: Sequence[str]) -> str:
    return max((rung for rung in rungs if rung in _RUNGS), key=_height, default=_RUNGS[0])


def _step(case: Case, rung: str, left_out: Sequence[str], repeat: bool) -> Step:
    known = load_ladder().rung(rung)
    target = tuple(subject for subject in subjects_of(case) if subject.kind == known.target) if known.target else ()
    reason = _titles(causes_of(case)) or _without_cause(case)
    if repeat:
        reason = f"once more, since it did not take effect: {reason}"
    if left_out:
        reason = f"{reason} (left out: {'; '.join(left_out)})"
    return Step(rung, target, reason, case.rules.deadlines.get(rung, known.deadline_s), case.latest.boot)


def _without_cause(case: Case) -> str:
    if case.latest.verdict is not None:
        return "an engine does not serve, and no cause was found"
    if case.latest.reachable:
        return "SSH answers, but no evidence could be collected"
    return "the host is switched off" if case.latest.powered is False else "the host does not answer"


def _give_up(case: Case, why: str) -> Finish:
    causes = _uncured(case)
    if causes and all(_of_setup(cause) for cause in causes):
        return Finish("stop", f"{_titles(causes)}; {why}", _todo(causes))
    if not case.rungs and case.latest.verdict is None:
        return Finish("stop", f"{_without_cause(case)}, and nothing can be tried: {why}", "go to the host")
    reason = _titles(causes) or _without_cause(case)
    return Finish("quarantine", f"{reason}; {why}", _todo(causes))


def _depth(case: Case) -> Depth:
    """The deepest of what the rungs made want; one deeper for what has come back."""
    made = [step.step.rung for step in case.rungs]
    depths = [case.rules.depth, *(case.rules.depths.get(rung, load_ladder().rung(rung).depth) for rung in made)]
    level = max(DEPTHS.index(depth) for depth in depths)
    if level == DEPTHS.index("standard") and any(heavy(attempt) for attempt in _same(case)):
        level += 1
    return DEPTHS[level]


def _of_setup(cause: Found) -> bool:
    return cause.id in load_ladder().setup.causes


def _titles(causes: Sequence[Found]) -> str:
    return ", ".join(
        f"{cause.title}{' (' + ', '.join(cause.subjects) + ')' if cause.subjects else ''}" for cause in causes
    )


def _todo(causes: Sequence[Found]) -> str:
    return "; ".join(dict.fromkeys(cause.then for cause in causes if cause.then))
