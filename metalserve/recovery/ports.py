"""What a recovery needs of the world: hands that act on hosts, and a store that remembers. Interfaces only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from metalserve.errors import MetalserveError
from metalserve.recovery.values import Attempt, Mark, Outcome, Proof, Result, Sighting, Step, StepRecord, Subject
from metalserve.recovery.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Looked:
    """What one look at a host found.

    Attributes:
        reachable: SSH answered.
        powered: what the BMC says; `None` when there is no BMC or it does not answer.
        verdict: what ails it; `None` when there was no evidence at all.
        serving: every engine that is wanted gave a token; `None` when it could not be asked.
        boot: identifies the boot (boot_id and the marker's time): another value is another boot; "" when unknown.
        evidence: path of the bundle that was kept; empty when there is none.
        subjects: blamed parts with their serial numbers.
        words: in a line, for people.
    """

    reachable: bool
    powered: bool | None
    verdict: Verdict | None
    serving: bool | None
    boot: str = ""
    evidence: str = ""
    subjects: tuple[Subject, ...] = ()
    words: str = ""


@dataclass(frozen=True, slots=True)
class Done:
    """How a step ended, as the hands know it.

    Attributes:
        outcome: see `Outcome`.
        words: what was seen, for people.
    """

    outcome: Outcome
    words: str = ""


class Hands(Protocol):
    """Acts on hosts. Nothing here raises for what a host does: that is an outcome."""

    def look(self, host: str, *, since: float = 0.0) -> Looked:
        """Collect evidence and judge; events from before `since` (seconds since the epoch) do not count."""

    def can(self, host: str, rung: str) -> str:
        """Return why a rung cannot be tried on this host (no BMC, no template, ...); empty when it can."""

    def drain(self, host: str, deadline_s: float) -> Done:
        """Take the host out of the router and wait for requests in flight."""

    def act(self, host: str, step: Step) -> Done:
        """Make a step and wait until it took effect or its deadline passed."""

    def prove(self, host: str, step: Step, before: Looked) -> tuple[Proof, str]:
        """Say whether a step brought what it is for; never from the exit status of the step."""

    def idle(self, host: str) -> bool | None:
        """Say whether no run and no script of one is at work on the host; None when it cannot be asked."""

    def accept(self, host: str, depth: str) -> tuple[Proof, str]:
        """Main job, weights, verify at `depth` ("quick", "standard", "deep"), engine answering."""

    def restore(self, host: str) -> Done:
        """Put the host back into the router."""

    def quarantine(self, host: str, attempt: Attempt) -> str:
        """Keep the host out of service and write its RMA packet; returns the packet's path."""


class Forbidden(MetalserveError):
    """The store does not allow it: another holds the host, it is marked, a step is in flight, the breaker is open.

    Nothing was written, so nothing may be done to the host: who gets this looks again, or stops.
    """


class Remembers(Protocol):
    """The recovery's memory; every write is on the disk when the method returns."""

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
        """Write down that an attempt begins; MetalserveError when one of this host is open or another holds it."""

    def begin_step(self, attempt: int, step: Step, now: float) -> StepRecord:
        """Write down a step before it is made."""

    def end_step(self, step: int, outcome: Outcome, proof: Proof | None, words: str, now: float) -> None:
        """Write down how a step ended."""

    def end(self, attempt: int, result: Result, words: str, now: float) -> None:
        """Write down how an attempt ended, and let go of the host."""

    def open_attempts(self) -> list[Attempt]:
        """Return attempts that have not ended, of every controller."""

    def attempts(self, host: str | None = None, since: float = 0.0) -> list[Attempt]:
        """Return attempts, the newest first."""

    def take(self, host: str, actor: str, now: float, ttl_s: float) -> str:
        """Take a host's lock, or renew it; returns "" or who holds it and for how long, in words."""

    def let_go(self, host: str, actor: str) -> None:
        """Give a host's lock back."""

    def mark(self, mark: Mark) -> None:
        """Set a mark."""

    def unmark(self, host: str, kind: str) -> bool:
        """Take a mark away; returns whether there was one."""

    def marks(self, now: float) -> list[Mark]:
        """Return marks that are in force."""

    def saw(self, sighting: Sighting) -> None:
        """Write down that a host was seen unhealthy."""

    def sightings(self, since: float) -> list[Sighting]:
        """Return what was seen since then, the oldest first."""
