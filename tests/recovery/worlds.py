"""A host that ails as a test says, hands that act on it, time that passes by itself, and controllers that die."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.recovery.memory import InMemory
from metalserve.catalogue.causes import load_causes
from metalserve.catalogue.ladder import load_ladder
from metalserve.recovery.conduct import recover_host
from metalserve.recovery.ports import Done, Hands, Looked, Remembers
from metalserve.recovery.rules import Rules
from metalserve.recovery.values import Attempt, Outcome, Proof, Step, Subject
from metalserve.recovery.verdict import Found, Verdict

height = load_causes().height
GPU = Subject("gpu", "0000:09:00.0", "1650123000001")
NEW_BOOT = ("reboot", "power-cycle", "reimage")
RULES = Rules(reimage=True)


def found(cause_id: str) -> Found:
    """A cause of the catalogue as a verdict holds it."""
    c = load_causes().cause(cause_id)
    return Found(c.id, c.title, (), c.rung, c.confidence, c.person, c.then, ("a line",), 1, ("test",), (c.source,))


def verdict_of(*causes: str) -> Verdict:
    """A verdict of these causes, as `judge` would rank them."""
    names = sorted((found(each) for each in causes), key=lambda cause: -height(cause.rung))
    sure = [cause for cause in names if cause.confidence != "low"] or names
    rung = max((cause.rung for cause in sure), key=height, default="nothing")
    return Verdict(tuple(names), rung, any(cause.person for cause in sure if cause.rung == rung))


class Clock:
    """Time that passes when somebody waits."""

    def __init__(self, at: float = 1_000_000.0) -> None:
        self.at = at

    def now(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.at += seconds


@dataclass
class Fault:
    """What ails a host.

    Attributes:
        causes: what the verdict says of it.
        cure: the lowest rung that cures it; empty when none does.
        reachable: SSH answers meanwhile.
        powered: the host is on.
        serving: engines give tokens meanwhile.
        proven_by: the lowest rung whose proof is good although verify fails afterwards.
        next: what shows when this is cured.
    """

    causes: tuple[str, ...]
    cure: str
    reachable: bool = True
    powered: bool = True
    serving: bool | None = False
    proven_by: str = ""
    subjects: tuple[Subject, ...] = (GPU,)
    next: Fault | None = None


@dataclass
class World:
    """One host, and all that was done to it."""

    clock: Clock
    fault: Fault | None
    cannot: dict[str, str] = field(default_factory=dict)
    outcomes: dict[str, list[Outcome]] = field(default_factory=dict)
    unseen: int = 0
    drain_refused: bool = False
    boots: int = 1
    log: list[tuple[str, str]] = field(default_factory=list)
    drained: bool = False
    quarantined: bool = False
    idle: bool | None = True

    @property
    def made(self) -> list[str]:
        """The rungs that were made, in order."""
        return [what for kind, what in self.log if kind == "act"]


@dataclass
class TestHands:
    """Implements `Hands` on a `World`."""

    __test__ = False
    world: World
    store: Remembers | None = None

    def look(self, host: str, *, since: float = 0.0) -> Looked:
        w, f = self.world, self.world.fault
        w.log.append(("look", host))
        w.clock.sleep(2.0)
        if f is None:
            return Looked(True, True, verdict_of(), True, f"boot {w.boots}", "/bundle")
        if not f.reachable:
            return Looked(False, f.powered, None, None)
        return Looked(True, f.powered, verdict_of(*f.causes), f.serving, f"boot {w.boots}", "/bundle", f.subjects)

    def can(self, host: str, rung: str) -> str:
        f = self.world.fault
        have = {"bmc", "template", "disk-serial"} | ({"ssh", "driver"} if f is None or f.reachable else set())
        if lacks := load_ladder().lacks(rung, have):
            return lacks
        return self.world.cannot.get(rung, "")

    def drain(self, host: str, deadline_s: float) -> Done:
        w = self.world
        w.log.append(("drain", host))
        if w.drain_refused:
            return Done("refused", "too few replicas are left")
        w.clock.sleep(min(5.0, deadline_s))
        w.drained = True
        return Done("done")

    def act(self, host: str, step: Step) -> Done:
        w, f = self.world, self.world.fault
        planned = w.outcomes.get(step.rung, [])
        outcome: Outcome = planned.pop(0) if planned else "done"
        w.log.append(("act", step.rung))
        if self.store is not None:
            in_flight = [each.step for a in self.store.open_attempts() for each in a.steps if each.ended is None]
            assert in_flight == [step], "written down before it is made"
        if outcome in ("refused", "failed"):
            return Done(outcome, f"{step.rung} did not take effect")
        w.clock.sleep(30.0)
        if step.rung in NEW_BOOT:
            w.boots += 1
        if f is not None and f.cure and height(step.rung) >= height(f.cure):
            w.fault = f.next
        return Done(outcome)

    def prove(self, host: str, step: Step, before: Looked) -> tuple[Proof, str]:
        w, f = self.world, self.world.fault
        w.log.append(("prove", step.rung))
        if w.unseen:
            w.unseen -= 1
            return "unknown", "nobody could see it"
        if step.rung in NEW_BOOT:
            if not before.boot or (f is not None and not f.reachable):
                return ("unknown", "no boot to compare") if f is None or f.reachable else ("bad", "does not answer")
            if before.boot == f"boot {w.boots}":
                return "bad", "the same boot"
        if f is None or (f.proven_by and height(step.rung) >= height(f.proven_by)):
            return "good", "as it should be"
        return ("good", "another trouble") if set(f.causes) - self._first else ("bad", "as before")

    def idle(self, host: str) -> bool | None:
        return self.world.idle

    def accept(self, host: str, depth: str) -> tuple[Proof, str]:
        w = self.world
        w.log.append(("accept", depth))
        w.clock.sleep(60.0)
        if w.outcomes.get("accept"):
            return "unknown", str(w.outcomes["accept"].pop())
        return ("good", "verified") if w.fault is None else ("bad", "a check failed")

    def restore(self, host: str) -> Done:
        w = self.world
        w.log.append(("restore", host))
        planned = w.outcomes.get("restore", [])
        outcome: Outcome = planned.pop(0) if planned else "done"
        w.drained = outcome != "done"
        return Done(outcome)

    def quarantine(self, host: str, attempt: Attempt) -> str:
        self.world.log.append(("quarantine", host))
        self.world.quarantined = True
        return "/packet"

    @property
    def _first(self) -> set[str]:
        return self.__dict__.setdefault("_causes", set(self.world.fault.causes) if self.world.fault else set())


class Died(BaseException):
    """A controller that is no more: nothing of it runs any further."""


class Life:
    """How many calls a controller lives for, and whether the last one still takes effect."""

    def __init__(self, calls: int | None = None, *, after: bool = False) -> None:
        self.left, self.after, self.made, self.dead = calls, after, 0, False

    def call(self, function: Callable[..., Any], *args: Any, **named: Any) -> Any:
        if self.dead:
            raise Died
        self.made += 1
        last = self.left is not None and self.made >= self.left
        if last:
            self.dead = True
            if self.after:
                function(*args, **named)
            raise Died
        return function(*args, **named)


class Mortal:
    """A store or hands whose controller may die at any call."""

    def __init__(self, inner: object, life: Life) -> None:
        self._inner, self._life = inner, life

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._inner, name)
        return lambda *args, **named: self._life.call(function, *args, **named)


def mortal(hands: Hands, store: Remembers, life: Life) -> tuple[Any, Any]:
    """Both, with one life."""
    return Mortal(hands, life), Mortal(store, life)


def without_a_look_between(log: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Pairs of steps that were made without a look or a proof between them."""
    pairs, last = [], ""
    for kind, what in log:
        if kind == "act":
            if last:
                pairs.append((last, what))
            last = what
        elif kind == "look":
            last = ""
    return pairs


def run(world: World, store: InMemory | None = None, rules: Rules = RULES) -> Attempt:
    """Recover a world's one host."""
    store = store or InMemory()
    return recover_host("h1", TestHands(world, store), store, rules, world.clock, group="gpus", actor="me")
