"""One host's recovery so far, as a value, and the questions that the ladder asks of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from metalserve.catalogue.causes import load_causes
from metalserve.recovery.ports import Looked
from metalserve.recovery.rules import Rules
from metalserve.recovery.values import Attempt, StepRecord, Subject
from metalserve.recovery.verdict import Found, Verdict

STAGES: Final = ("drain", "accept", "restore", "quarantine")
"""What is recorded like a step and is no rung: each may be done twice without harm."""


@dataclass(frozen=True, slots=True)
class Case:
    """All that decides what comes next.

    Attributes:
        host: the host's name.
        first: the look before the first step.
        latest: the look after the last step; the first one when there is none.
        steps: steps and stages of this attempt, in order; one without an outcome counts as unknown.
        earlier: ended attempts that count: of this host, and of the parts that are blamed wherever they were.
        cannot: rung -> why it cannot be tried; a rung that is missing or empty can be.
        rules: see `Rules`.
        begun: when the controller that has it now began with it, seconds since the epoch.
        now: seconds since the epoch.
        forbidden: why nothing may be done to the host now (a mark, another holder); empty when it may.
    """

    host: str
    first: Looked
    latest: Looked
    steps: tuple[StepRecord, ...]
    earlier: tuple[Attempt, ...]
    rules: Rules
    begun: float
    now: float
    cannot: Mapping[str, str] = field(default_factory=dict)
    forbidden: str = ""

    @property
    def rungs(self) -> tuple[StepRecord, ...]:
        """The steps that are rungs, in order."""
        return tuple(step for step in self.steps if step.step.rung not in STAGES)

    @property
    def last(self) -> StepRecord | None:
        """The last step that tells something: a rung, an acceptance or a return to the router."""
        told = [step for step in self.steps if step.step.rung not in ("drain", "quarantine")]
        return told[-1] if told else None

    def in_a_row(self, rung: str) -> int:
        """Return how many of the last steps that tell something were this one."""
        count = 0
        for step in reversed([each for each in self.steps if each.step.rung not in ("drain", "quarantine")]):
            if step.step.rung != rung:
                break
            count += 1
        return count


def counting(verdict: Verdict | None) -> tuple[Found, ...]:
    """Return the causes that a step is taken for: not of the boot before, not a consequence, and not only a hint."""
    if verdict is None:
        return ()
    alone = tuple(cause for cause in verdict.causes if not cause.explained_by and not cause.past)
    return tuple(cause for cause in alone if cause.confidence != "low") or alone


def causes_of(case: Case) -> tuple[Found, ...]:
    """Return the causes that were seen in this attempt, each once: those of the latest look first."""
    found: dict[str, Found] = {}
    for cause in (*counting(case.latest.verdict), *counting(case.first.verdict)):
        found.setdefault(cause.id, cause)
    return tuple(found.values())


def subjects_of(case: Case) -> tuple[Subject, ...]:
    """Return the parts that are blamed now, or were at first when the latest look blames none."""
    return case.latest.subjects or case.first.subjects


def same_part(one: Subject, other: Subject) -> bool:
    """Say whether two parts are one by their serial numbers, wherever they are built in."""
    return bool(one.serial) and one.kind == other.kind and one.serial == other.serial


def heavy(attempt: Attempt) -> bool:
    """Say whether an attempt was about more than the engine: programs that fail do not make a GPU bad."""
    least = load_causes().height("restart-services")
    rungs = [step.step.rung for step in attempt.steps if step.step.rung not in STAGES]
    return attempt.result == "quarantined" or any(load_causes().height(rung) >= least for rung in rungs)


def lately(case: Case) -> tuple[Attempt, ...]:
    """Return the earlier attempts that ended within the window and in which something was done."""
    since = case.now - case.rules.window_s
    return tuple(
        attempt for attempt in case.earlier
        if attempt.ended is not None and attempt.ended >= since
        and (attempt.result == "quarantined" or any(step.step.rung not in STAGES for step in attempt.steps))
    )  # fmt: skip


def of_part(case: Case, subject: Subject) -> tuple[Attempt, ...]:
    """Return the late attempts that blamed this part by its serial number, on whatever host it was then."""
    return tuple(each for each in lately(case) if any(same_part(subject, blamed) for blamed in each.subjects))


def of_host(case: Case) -> tuple[Attempt, ...]:
    """Return the late attempts on this host since a person last had it, that is, since its last quarantine."""
    mine = [attempt for attempt in lately(case) if attempt.host == case.host]
    ends = [attempt.ended for attempt in mine if attempt.result == "quarantined" and attempt.ended is not None]
    return tuple(a for a in mine if a.result != "quarantined" and (a.ended or 0.0) > max(ends, default=0.0))


def remembered(attempt: Attempt) -> Looked:
    """Return what the first look of a dead controller found, as far as it was written down."""
    causes = tuple(
        Found(c.id, c.title, (), c.rung, c.confidence, c.person, c.then, (), 0, (), (c.source,))
        for c in load_causes().causes
        if c.id in attempt.causes
    )
    verdict = Verdict(causes, attempt.rung, any(c.person for c in causes)) if causes else None
    return Looked(
        False, None, verdict, None, evidence=attempt.evidence, subjects=attempt.subjects, words="before the take-over"
    )
