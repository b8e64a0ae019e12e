"""Drives one host through its recovery: whatever is done is written down before, and seen by a look after.

The controller may die between any two lines of this file. What the store then holds is enough for the next one: it
looks first, proves the step that was in flight, and goes on.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Final

from metalserve.catalogue.ladder import load_ladder
from metalserve.recovery.case import STAGES, Case, counting, last_recovery, remembered, same_part
from metalserve.recovery.clock import Clock
from metalserve.recovery.in_flight import in_flight
from metalserve.recovery.ladder import Finish, next_step
from metalserve.recovery.ports import Forbidden, Hands, Looked, Remembers
from metalserve.recovery.rules import Rules
from metalserve.recovery.values import Attempt, Mark, Outcome, Proof, Result, Step, StepRecord

LOCK_S: Final = 900.0
"""Seconds that a host is held beyond the deadline of the step that is made, so that nobody takes over a live one."""

DEAD_DRAIN_S: Final = 10.0
"""Seconds that requests are waited for on a host that does not serve: they will not end."""

_RESULTS: Final[dict[str, Result]] = {
    "well": "recovered", "recovered": "recovered", "quarantine": "quarantined", "stop": "stopped",
}  # fmt: skip


class NotBegun(Forbidden):
    """Nothing was done to the host: another holds it, or a mark forbids it."""


class Lost(Forbidden):
    """The host was taken over by another controller; it goes on there, not here."""


def recover_host(
    host: str, hands: Hands, store: Remembers, rules: Rules, clock: Clock, *, group: str, actor: str
) -> Attempt:
    """Recover one host, or go on where a dead controller left it, and return the attempt as it ended.

    Raises:
        NotBegun: another holds the host, or a mark forbids it; nothing was done.
        Lost: another controller took the host over meanwhile.
        Forbidden: the store does not let it begin (the breaker is open); nothing was done.
        MetalserveError: the store failed; the attempt stays open and the next run takes it over.
    """
    if held := store.take(host, actor, clock.now(), LOCK_S):
        raise NotBegun(held, where=host, remedy="wait for it, or see `metalserve recover status`")
    recovery = _Recovery(host, hands, store, rules, clock, actor)
    try:
        left = next((attempt for attempt in store.open_attempts() if attempt.host == host), None)
        if left is None:
            recovery.begin(group)
        else:
            recovery.take_over(left)
        return recovery.go_on()
    except BaseException:
        with suppress(Exception):
            store.let_go(host, actor)
        raise


class _Recovery:
    """One attempt, as its conductor holds it; all that must outlive the conductor is in the store."""

    def __init__(self, host: str, hands: Hands, store: Remembers, rules: Rules, clock: Clock, actor: str) -> None:
        self.host, self.hands, self.store, self.rules, self.clock, self.actor = host, hands, store, rules, clock, actor
        self.steps: list[StepRecord] = []
        self.attempt: Attempt
        self.first: Looked
        self.latest: Looked
        self.begun = clock.now()  # of this controller's part: the time that a host lay with a dead one does not count
        self.asked_for_evidence = False

    def begin(self, group: str) -> None:
        """Look, and write down that an attempt begins."""
        if why := self._forbidden():
            raise NotBegun(why, where=self.host, remedy="see `metalserve recover status`")
        self.first = self.latest = self._look(last_recovery(self.store.attempts(self.host)), self.rules.looks)
        causes = [cause.id for cause in counting(self.first.verdict)]
        rung = self.first.verdict.rung if self.first.verdict is not None else load_ladder().unreachable.powered
        self.attempt = self.store.begin(
            self.host, group, self.actor, causes, self.first.subjects, rung, self.first.evidence, self.clock.now()
        )

    def take_over(self, left: Attempt) -> None:
        """Look first; then judge the step that was in flight by what is seen, since nobody knows how it ended."""
        self.attempt, self.steps = left, list(left.steps)
        self.first = remembered(left)
        stays = bool(self._forbidden()) or self._in_quarantine()
        self.latest = self.first if stays else self._look(self._since(), self.rules.looks)
        for number, record in enumerate(self.steps):
            if record.ended is not None:
                continue
            proof: Proof | None = "unknown" if record.step.rung == "accept" else None
            words = "the controller died while it was made"
            if record.step.rung not in STAGES and not stays:
                proof, seen = self._prove(record, replace(self.first, boot=record.step.boot), sure=False)
                words = f"{words}; {seen}"
            self.steps[number] = self._ended(record, "unknown", proof, words)

    def go_on(self) -> Attempt:
        """Make step after step until the ladder says how it ends."""
        if self._in_quarantine() and not self._forbidden():
            return self._end(Finish("quarantine", "a controller died while it was put into quarantine"))
        while True:
            move, ending = self._decide(), None
            if isinstance(move, Step):
                ending = self._make(move)
            elif move.next == "accept":
                ending = self._accept(move)
            elif move.next == "restore":
                self._restore(move)
            else:
                ending = move
            if ending is not None:
                return self._end(ending)

    def _decide(self) -> Step | Finish:
        """Ask the ladder; what it would try is asked of the hands first, and left out when it cannot be."""
        cannot: dict[str, str] = {}
        now = self.clock.now()
        earlier = self._earlier(now)
        while True:
            case = Case(
                self.host, self.first, self.latest, tuple(self.steps), earlier, self.rules, self.begun, now,
                cannot, self._forbidden(),
            )  # fmt: skip
            move = next_step(case)
            if not isinstance(move, Step) or move.rung in cannot:
                return move
            cannot[move.rung] = self.hands.can(self.host, move.rung)
            if not cannot[move.rung]:
                return move

    def _make(self, step: Step) -> Finish | None:
        known = load_ladder().rung(step.rung)
        if known.drain and not self._drained():
            if refused := self._drain():
                return refused
            self._look_anew()
            return None  # decide anew: that took minutes, and the host may have changed
        if known.destroys_evidence and not self.latest.evidence and not self.asked_for_evidence:
            self.asked_for_evidence = True
            self._look_anew()
            return None
        self._hold(step.deadline_s)
        before = self.latest
        try:
            record = self._begun(step)
        except Forbidden:
            if self._forbidden():
                return None  # somebody marked the host a moment ago: decide anew
            raise
        done = self.hands.act(self.host, step)
        proof: Proof | None = None
        seen = ""
        if done.outcome != "refused":
            proof, seen = self._prove(record, before, sure=done.outcome != "unknown")
        kept = "no evidence could be kept" if known.destroys_evidence and not before.evidence else ""
        words = "; ".join(each for each in (done.words, seen, kept) if each)
        self.steps.append(self._ended(record, done.outcome, proof, words))
        self.asked_for_evidence = False
        self._look_anew()
        return None

    def _accept(self, finish: Finish) -> Finish | None:
        if finish.depth != "quick" and (refused := self._drain()):
            return refused
        step = Step("accept", (), f"{finish.reason}: verify {finish.depth}", load_ladder().depths[finish.depth])
        self._hold(step.deadline_s)
        record = self._begun(step)
        proof, words = self.hands.accept(self.host, finish.depth)
        self.steps.append(self._ended(record, "unknown" if proof == "unknown" else "done", proof, words))
        if proof != "good":
            self._look_anew()
        return None

    def _restore(self, finish: Finish) -> None:
        if any(step.step.rung == "restore" for step in self.steps[-1:]):
            self.clock.sleep(self.rules.pause_s)
        record = self._begun(Step("restore", (), finish.reason, self.rules.drain_s))
        done = self.hands.restore(self.host)
        self.steps.append(self._ended(record, done.outcome, None, done.words))

    def _drain(self) -> Finish | None:
        """Take the host out of the router, once; returns how it ends when the router does not let it go."""
        if self._drained():
            return None
        seconds = DEAD_DRAIN_S if self.latest.serving is False else self.rules.drain_s
        self._hold(seconds)
        record = self._begun(Step("drain", (), "before the host is disturbed", seconds))
        done = self.hands.drain(self.host, seconds)
        self.steps.append(self._ended(record, done.outcome, None, done.words))
        if done.outcome == "refused":
            return Finish("stop", f"the router does not let it go: {done.words}")
        return None

    def _drained(self) -> bool:
        ends = [step.outcome for step in self.steps if step.step.rung == "drain"]
        return "done" in ends or "failed" in ends or len(ends) >= self.rules.looks

    def _end(self, finish: Finish) -> Attempt:
        words = finish.reason + (f" -> {finish.person}" if finish.person else "")
        if finish.next == "quarantine":
            words = self._quarantine(words)
        now, result = self.clock.now(), _RESULTS[finish.next]
        self.store.end(self.attempt.id, result, words, now)
        return replace(self.attempt, ended=now, result=result, words=words, steps=tuple(self.steps))

    def _quarantine(self, words: str) -> str:
        if not self._in_quarantine():
            self._drain()  # a router that refuses cannot keep a host in service that is not fit for it
        record = self._begun(Step("quarantine", (), words, self.rules.drain_s))
        self.store.mark(Mark(self.host, "quarantine", self.actor, words, self.clock.now()))
        self._hold(0.0)
        packet = self.hands.quarantine(self.host, replace(self.attempt, steps=tuple(self.steps), words=words))
        outcome: Outcome = "done" if packet else "failed"
        self.steps.append(self._ended(record, outcome, None, packet or "the packet could not be written"))
        return f"{words}; packet: {packet}" if packet else f"{words}; its packet could not be written"

    def _look_anew(self) -> None:
        """Look after something was done; a host without any evidence before is asked once, not again and again."""
        self.latest = self._look(self._since(), 1 if self.latest.verdict is None else self.rules.looks)

    def _look(self, since: float, times: int) -> Looked:
        """Look; a look without any evidence is repeated, since nobody should reboot a host for a lost packet."""
        self._hold(0.0)
        look = self.hands.look(self.host, since=since)
        for _ in range(times - 1):
            if look.verdict is not None:
                break
            self.clock.sleep(self.rules.pause_s)
            look = self.hands.look(self.host, since=since)
        return look

    def _prove(self, record: StepRecord, before: Looked, *, sure: bool) -> tuple[Proof, str]:
        """See whether a step helped. When nobody is sure that it has ended, it has time to do so.

        A host that boots, or is being written anew, looks as dead as before: to act on that would break it off.
        """
        asked = 0
        while True:
            proof, words = self.hands.prove(self.host, record.step, before)
            asked += 1
            over = sure or not in_flight(record, self.host, self.hands, self.clock.now())
            if proof == "good" or (over and (proof == "bad" or asked >= self.rules.looks)):
                return proof, words
            self._hold(self.rules.pause_s)
            self.clock.sleep(self.rules.pause_s)

    def _begun(self, step: Step) -> StepRecord:
        return self.store.begin_step(self.attempt.id, step, self.clock.now())

    def _ended(self, record: StepRecord, outcome: Outcome, proof: Proof | None, words: str) -> StepRecord:
        now = self.clock.now()
        self.store.end_step(record.id, outcome, proof, words, now)
        return replace(record, ended=now, outcome=outcome, proof=proof, words=words)

    def _hold(self, seconds: float) -> None:
        if held := self.store.take(self.host, self.actor, self.clock.now(), seconds + LOCK_S):
            raise Lost(f"another controller goes on with it: {held}", where=self.host)

    def _forbidden(self) -> str:
        for mark in self.store.marks(self.clock.now()):
            if mark.host == self.host and not (mark.kind == "quarantine" and self._in_quarantine()):
                return f"marked {mark.kind} by {mark.by}: {mark.why}"
        return ""

    def _in_quarantine(self) -> bool:
        """Whether this attempt has begun to put the host into quarantine: that mark is its own."""
        return any(step.step.rung == "quarantine" for step in self.steps)

    def _earlier(self, now: float) -> tuple[Attempt, ...]:
        blamed = [*self.latest.subjects, *self.first.subjects]
        return tuple(
            attempt
            for attempt in self.store.attempts(since=now - self.rules.window_s)
            if attempt.id != self.attempt.id and attempt.ended is not None
            and (attempt.host == self.host or any(same_part(a, b) for a in blamed for b in attempt.subjects))
        )  # fmt: skip

    def _since(self) -> float:
        rungs = [step.begun for step in self.steps if step.step.rung not in STAGES]
        return max(rungs, default=last_recovery(self.store.attempts(self.host)))
