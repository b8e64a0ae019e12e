"""Two controllers on one file, their calls mixed at random, some of them killed: held against a model of the rules."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from metalserve.recovery.admission import admit
from metalserve.recovery.fleet import Member, group_limit
from metalserve.recovery.ports import Forbidden
from metalserve.recovery.store import BEYOND_DEADLINE_S, TTL_S, Store
from metalserve.recovery.values import Mark, Step
from metalserve.settings.recovery import RecoveryFleetSettings

HOSTS = [f"h{n}" for n in range(6)]
RULES = RecoveryFleetSettings(percent=50, at_once=3)
STEP = Step("reboot", (), "", 60.0)

controllers = st.integers(0, 1)
hosts = st.sampled_from(HOSTS)


class TwoControllers(RuleBasedStateMachine):
    """The model knows who holds what until when; the store must agree after every call."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.path = self.directory / "recovery.db"
        self.now = 1000.0
        self.life = [0, 0]
        self.living = {"c0-0", "c1-0"}
        self.holder: dict[str, tuple[str, float]] = {}
        self.opened: dict[str, int] = {}
        self.flying: dict[str, int] = {}
        self.marked: set[str] = set()
        self.finished = 0

    @initialize()
    def start(self) -> None:
        self.stores = [self.new(), self.new()]

    def new(self) -> Store:
        return Store(self.path, alive=lambda actor: actor in self.living)

    def teardown(self) -> None:
        for store in getattr(self, "stores", []):
            store.close()
        shutil.rmtree(self.directory)

    def actor(self, who: int) -> str:
        return f"c{who}-{self.life[who]}"

    def live(self, host: str) -> str | None:
        actor, expires = self.holder.get(host, ("", 0.0))
        return actor if actor in self.living and expires > self.now else None

    def mine(self, who: int, host: str) -> bool:
        """Whether the controller has the lock by the file: also one that has expired and nobody took over."""
        return self.holder.get(host, ("", 0.0))[0] == self.actor(who)

    def hold(self, who: int, host: str, seconds: float) -> None:
        until = self.now + seconds
        if self.mine(who, host):
            until = max(until, self.holder[host][1])
        self.holder[host] = (self.actor(who), until)

    @rule(seconds=st.sampled_from([1.0, 100.0, 1000.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(who=controllers)
    def killed_and_started_again(self, who: int) -> None:
        self.living.discard(self.actor(who))
        self.stores[who].close()
        self.life[who] += 1
        self.living.add(self.actor(who))
        self.stores[who] = self.new()

    @rule(who=controllers, host=hosts, ttl=st.sampled_from([10.0, 500.0]))
    def take(self, who: int, host: str, ttl: float) -> None:
        free = self.live(host) in (None, self.actor(who))
        assert (self.stores[who].take(host, self.actor(who), self.now, ttl) == "") == free
        if free:
            self.hold(who, host, ttl)

    @rule(who=controllers, host=hosts)
    def let_go(self, who: int, host: str) -> None:
        self.stores[who].let_go(host, self.actor(who))
        if self.mine(who, host):
            del self.holder[host]

    @rule(who=controllers, host=hosts)
    def begin(self, who: int, host: str) -> None:
        free = self.live(host) in (None, self.actor(who))
        allowed = free and host not in self.opened and host not in self.marked
        try:
            attempt = self.stores[who].begin(host, "g", self.actor(who), ["c"], [], "reboot", "", self.now)
        except Forbidden:
            assert not allowed
        else:
            assert allowed
            self.opened[host] = attempt.id
            self.hold(who, host, TTL_S)

    @rule(who=controllers, host=hosts)
    def begin_step(self, who: int, host: str) -> None:
        if host not in self.opened:
            return
        allowed = self.mine(who, host) and host not in self.flying and host not in self.marked
        try:
            step = self.stores[who].begin_step(self.opened[host], STEP, self.now)
        except Forbidden:
            assert not allowed
        else:
            assert allowed
            self.flying[host] = step.id
            self.hold(who, host, STEP.deadline_s + BEYOND_DEADLINE_S)

    @rule(who=controllers, host=hosts)
    def end_step(self, who: int, host: str) -> None:
        if host not in self.flying:
            return
        try:
            self.stores[who].end_step(self.flying[host], "done", "good", "", self.now)
        except Forbidden:
            assert not self.mine(who, host)
        else:
            assert self.mine(who, host)
            del self.flying[host]

    @rule(who=controllers, host=hosts)
    def end(self, who: int, host: str) -> None:
        if host not in self.opened:
            return
        try:
            self.stores[who].end(self.opened[host], "recovered", "", self.now)
        except Forbidden:
            assert not self.mine(who, host)
        else:
            assert self.mine(who, host)
            self.finished += 1
            self.flying.pop(host, None)
            del self.opened[host], self.holder[host]

    @rule(who=controllers, host=hosts, on=st.booleans())
    def mark(self, who: int, host: str, on: bool) -> None:
        if on:
            self.stores[who].mark(Mark(host, "do-not-touch", "eve", "", self.now))
            self.marked.add(host)
        else:
            assert self.stores[who].unmark(host, "do-not-touch") == (host in self.marked)
            self.marked.discard(host)

    @rule(who=controllers)
    def admit(self, who: int) -> None:
        """Ask for every host at once: what comes back never brings the fleet over a limit."""
        members = [Member(host, "g", "fleet", self.now - 10, rung="reboot") for host in HOSTS]
        choice = admit(self.stores[who], members, [], RULES, actor=self.actor(who), now=self.now, ttl_s=300.0)
        for pick in choice.take:
            assert self.live(pick.host) is None
            assert pick.host not in self.marked
            assert pick.resume == (pick.host in self.opened)
            self.hold(who, pick.host, 300.0)
        busy = {h for h in HOSTS if self.live(h) or (h in self.opened and h not in self.marked)}
        if any(not pick.resume for pick in choice.take):
            assert len(busy) <= min(RULES.at_once, group_limit(len(HOSTS), RULES))

    @invariant()
    def the_file_says_the_same(self) -> None:
        if not hasattr(self, "stores"):
            return
        seen = self.stores[0].memory(self.now)
        assert {a.host: a.id for a in seen.open} == self.opened
        assert {lock.host: lock.actor for lock in seen.locks} == {h: actor for h, (actor, _) in self.holder.items()}
        assert {lock.host for lock in seen.locks if lock.live} == {h for h in HOSTS if self.live(h)}
        steps = {a.host: s.id for a in seen.open for s in a.steps if s.ended is None}
        assert steps == self.flying
        assert len(self.stores[1].attempts()) == len(self.opened) + self.finished


TestTwoControllers = TwoControllers.TestCase
TestTwoControllers.settings = settings(
    max_examples=25, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
