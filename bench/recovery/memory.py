"""The recovery's memory, held in this process: for simulations and tests, where nothing must outlive it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from metalserve.errors import MetalserveError
from metalserve.recovery.memory import Lock, Memory
from metalserve.recovery.values import (
    Attempt,
    BreakerState,
    Mark,
    Outcome,
    Proof,
    Result,
    Sighting,
    Step,
    StepRecord,
    Subject,
)


@dataclass
class InMemory:
    """Implements `Remembers`; the same promises as the store, but for the disk."""

    ended: list[Attempt] = field(default_factory=list)
    going: dict[int, Attempt] = field(default_factory=dict)
    locks: dict[str, tuple[str, float]] = field(default_factory=dict)
    held: dict[tuple[str, str], Mark] = field(default_factory=dict)
    seen: list[Sighting] = field(default_factory=list)
    of_host: dict[str, list[Attempt]] = field(default_factory=dict)
    in_flight: dict[int, StepRecord] = field(default_factory=dict)
    breaker: BreakerState = field(default_factory=BreakerState)
    last_ended: dict[str, float] = field(default_factory=dict)
    recovered: dict[str, float] = field(default_factory=dict)
    numbers: int = 0

    def begin(
        self,
        host: str,
        group: str,
        actor: str,
        causes: Sequence[str],
        subjects: Sequence[Subject],
        rung: str,
        evidence: str,
        now: float,
    ) -> Attempt:
        """Note that an attempt begins."""
        if any(attempt.host == host for attempt in self.going.values()):
            raise MetalserveError("an attempt is open", where=host)
        if self.locks.get(host, ("", 0.0))[0] != actor:
            raise MetalserveError("the host is not held", where=host)
        attempt = Attempt(self._number(), host, group, actor, tuple(causes), tuple(subjects), rung, evidence, now)
        self.going[attempt.id] = attempt
        return attempt

    def begin_step(self, attempt: int, step: Step, now: float) -> StepRecord:
        """Note a step before it is made."""
        record = StepRecord(self._number(), attempt, step, now)
        self.going[attempt] = replace(self.going[attempt], steps=(*self.going[attempt].steps, record))
        self.in_flight[record.id] = record
        return record

    def end_step(self, step: int, outcome: Outcome, proof: Proof | None, words: str, now: float) -> None:
        """Note how a step ended."""
        record = self.in_flight.pop(step)
        ended = replace(record, ended=now, outcome=outcome, proof=proof, words=words)
        attempt = self.going[record.attempt]
        steps = tuple(ended if each.id == step else each for each in attempt.steps)
        self.going[attempt.id] = replace(attempt, steps=steps)

    def end(self, attempt: int, result: Result, words: str, now: float) -> None:
        """Note how an attempt ended, and let go of the host."""
        done = replace(self.going.pop(attempt), ended=now, result=result, words=words)
        self.ended.append(done)
        self.of_host.setdefault(done.host, []).append(done)
        self.locks.pop(done.host, None)
        self.last_ended[done.group] = now
        if result == "recovered":
            self.recovered[done.host] = now

    def moment(self, now: float) -> Memory:
        """Return what a decision about the fleet is made from."""
        locks = tuple(Lock(host, actor, now, until, until > now) for host, (actor, until) in self.locks.items())
        return Memory(
            now, tuple(self.going.values()), locks, tuple(self.marks(now)), self.breaker, self.last_ended,
            self.recovered,
        )  # fmt: skip

    def open_attempts(self) -> list[Attempt]:
        """Return attempts that have not ended."""
        return list(self.going.values())

    def attempts(self, host: str | None = None, since: float = 0.0) -> list[Attempt]:
        """Return attempts, the newest first; `since` is about when they ended, or began while they go on."""
        ended = self.ended if host is None else self.of_host.get(host, [])
        found = [attempt for attempt in self.going.values() if host in (None, attempt.host)]
        for attempt in reversed(ended):  # they end in order of time
            if (attempt.ended or 0.0) < since:
                break
            found.append(attempt)
        return found

    def take(self, host: str, actor: str, now: float, ttl_s: float) -> str:
        """Take a host's lock, or renew it."""
        holder, until = self.locks.get(host, ("", 0.0))
        if holder and holder != actor and until > now:
            return f"held by {holder} for {until - now:.0f} s more"
        self.locks[host] = (actor, now + ttl_s)
        return ""

    def let_go(self, host: str, actor: str) -> None:
        """Give a host's lock back."""
        if self.locks.get(host, ("", 0.0))[0] == actor:
            del self.locks[host]

    def mark(self, mark: Mark) -> None:
        """Set a mark."""
        self.held[mark.host, mark.kind] = mark

    def unmark(self, host: str, kind: str) -> bool:
        """Take a mark away."""
        return self.held.pop((host, kind), None) is not None

    def marks(self, now: float) -> list[Mark]:
        """Return marks that are in force."""
        return [mark for mark in self.held.values() if mark.until is None or mark.until > now]

    def saw(self, sighting: Sighting) -> None:
        """Note that a host was seen unhealthy."""
        self.seen.append(sighting)

    def sightings(self, since: float) -> list[Sighting]:
        """Return what was seen since then."""
        first = bisect_left(self.seen, since, key=lambda sighting: sighting.at)
        return self.seen[first:]

    def latest(self, since: float) -> list[Sighting]:
        """Return the last sighting of each host since then."""
        return list({sighting.host: sighting for sighting in self.sightings(since)}.values())

    def _number(self) -> int:
        self.numbers += 1
        return self.numbers
