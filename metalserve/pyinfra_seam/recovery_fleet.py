"""Recovers the hosts of an inventory: looks at all of them, plans, and acts within the fleet's limits."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from metalserve.errors import MetalserveError
from metalserve.pyinfra_seam import routers
from metalserve.pyinfra_seam.recovering import HostHands
from metalserve.recovery.actor import this_actor
from metalserve.recovery.admission import admit, watch
from metalserve.recovery.breaker import SPELL_S, spells
from metalserve.recovery.clock import RealClock
from metalserve.recovery.conduct import LOCK_S, recover_host
from metalserve.recovery.crew import Ended, FleetOutcome, Turn, recover_fleet
from metalserve.recovery.fleet import Choice, Member, Pool, choose
from metalserve.recovery.ports import Looked
from metalserve.recovery.rules import rules_of
from metalserve.recovery.store import Store
from metalserve.recovery.survey import Preview, factors_of, group_of, members_of, pools_of, preview, sighting, unhealthy
from metalserve.recovery.values import Attempt, BreakerState
from metalserve.settings.recovery import fleet_rules


@dataclass(frozen=True)
class Plan:
    """What a run would do.

    Attributes:
        looks: host -> what was seen.
        choice: who is taken, who waits, who is left alone, what goes on serving.
        previews: of the hosts that are taken, the first step.
        breaker: its state.
    """

    looks: Mapping[str, Looked]
    choice: Choice
    previews: Sequence[Preview]
    breaker: BreakerState

    @property
    def unhealthy(self) -> list[str]:
        """Hosts that want something."""
        return [host for host, look in self.looks.items() if unhealthy(look)]


class Greenlets:
    """A greenlet a host: implements `metalserve.recovery.crew.Crew` where gevent stands in for threads."""

    def __init__(self) -> None:
        from gevent.queue import Queue

        self._ended: Any = Queue()

    def start(self, host: str, work: Callable[[], Attempt]) -> None:
        """Begin with a host; returns at once."""
        import gevent

        def run() -> None:
            try:
                self._ended.put((host, work()))
            except Exception as error:  # told to who waits
                self._ended.put((host, error))

        gevent.spawn(run)

    def wait(self) -> tuple[str, Ended]:
        """Wait for one of them to end, and return how it did."""
        ended: tuple[str, Ended] = self._ended.get()
        return ended


class FleetRecovery:
    """The recovery of an inventory's hosts.

    Args:
        inventory: the inventory file.
        targets: hosts or groups that a person named.
        fleet: all hosts that are unhealthy are asked for.
        store: the memory.
        keep: directory for evidence and packets.
        say: told what is being done: host, words.

    Raises:
        MetalserveError: the inventory cannot be read, its hosts disagree about the fleet's limits, or no such host.
    """

    def __init__(
        self,
        inventory: str,
        targets: Sequence[str],
        *,
        fleet: bool,
        store: Store,
        keep: Path,
        say: Callable[[str, str], None],
    ) -> None:
        self.store, self._inventory, self._fleet, self._say = store, inventory, fleet, say
        self.actor = this_actor()
        self.hands = HostHands(inventory, keep=keep / "evidence", actor=self.actor, history=store.attempts, say=say)
        settings = self.hands.sessions.settings
        self.rules = fleet_rules(settings, inventory)
        self.settings = {n: s for n, s in settings.items() if s.model is not None or s.router is None}
        self.groups = self.hands.sessions.groups
        self.named = self._named(targets)
        self.simulated = any(s.simulated for s in self.settings.values())
        self._factors = {name: factors_of(s) for name, s in self.settings.items()}

    def _named(self, targets: Sequence[str]) -> frozenset[str]:
        found: set[str] = set()
        for target in targets:
            hosts = {target} & set(self.settings) or set(self.groups.get(target, ())) & set(self.settings)
            if not hosts:
                raise MetalserveError(f"no host or group {target}", where=self._inventory)
            found |= hosts
        return frozenset(found)

    def survey(self) -> dict[str, Looked]:
        """Look at every host; those that are well cost one session and leave nothing behind."""
        return self.hands.survey(list(self.settings), self.store.memory(time.time()).recovered)

    def plan(self, looks: Mapping[str, Looked]) -> Plan:
        """Return what would be done; nothing is written."""
        now = time.time()
        memory = self.store.memory(now)
        choice = choose(self._members(looks, now), self._pools(), memory, self.rules)
        return Plan(looks, choice, self._previews(looks, choice, now), memory.breaker)

    def note(self, looks: Mapping[str, Looked]) -> BreakerState:
        """Write down who is unhealthy; the breaker opens when too many turned so."""
        now = time.time()
        bad = {host: look for host, look in looks.items() if unhealthy(look)}
        seen = [sighting(host, look, self._factors[host], now) for host, look in bad.items()]
        return watch(self.store, seen, self._factors, self.rules, by=self.actor, now=now)

    def act(self, looks: Mapping[str, Looked], on_end: Callable[[str, Ended], None]) -> FleetOutcome:
        """Recover whose turn it is, until nobody's is."""
        latest = dict(looks)

        def turn(had: frozenset[str]) -> Turn:
            now = time.time()
            # those that had their turn are not asked for again, and count in their group all the same
            members = [
                replace(m, asked="no") if m.name in had and m.unhealthy_since is not None else m
                for m in self._members(latest, now)
            ]
            choice = admit(
                self.store, members, self._pools(), self.rules, actor=self.actor, now=now, ttl_s=LOCK_S
            )  # fmt: skip
            for pick in choice.restore:
                self._say(pick.host, pick.why)
                self.hands.restore(pick.host)
            return Turn(
                tuple(pick.host for pick in choice.take),
                {pick.host: pick.why for pick in choice.wait},
                {pick.host: pick.why for pick in choice.refuse},
            )

        def ended(host: str, how: Ended) -> None:
            seen = self.hands.latest(host)
            if seen is not None:
                latest[host] = seen
            on_end(host, how)

        return recover_fleet(turn, self._recover, Greenlets(), on_end=ended)

    def _recover(self, host: str) -> Attempt:
        return recover_host(
            host, self.hands, self.store, rules_of(self.settings[host].recovery), RealClock(),
            group=group_of(host, self.groups), actor=self.actor,
        )  # fmt: skip

    def _members(self, looks: Mapping[str, Looked], now: float) -> list[Member]:
        memory = self.store.memory(now)
        before = spells(self.store.sightings(now - self._longest() - SPELL_S), memory.recovered)
        since = {host: began for host, (began, last) in before.items() if now - last.at <= SPELL_S}
        out = self._out() if any(s.router is not None for s in self.hands.sessions.settings.values()) else set()
        return members_of(
            looks, self.settings, self.groups, named=self.named, fleet=self._fleet, since=since, now=now, out=out
        )

    def _longest(self) -> float:
        return float(max(max(s.recovery.unreachable_s, s.recovery.unhealthy_s) for s in self.settings.values()))

    def _out(self) -> set[str]:
        """Hosts all of whose replicas are drained in some router."""
        states: dict[str, set[bool]] = {}
        for answer in routers.status(self._inventory):
            for each in answer.state.replicas:
                host = each.name.rpartition(":")[0]
                states.setdefault(host, set()).add(each.status in ("drain", "maint"))
        return {host for host, drained in states.items() if drained == {True}}

    def _pools(self) -> list[Pool]:
        return pools_of({host: self.hands.tokens(host) for host in self.settings}, self.settings)

    def _previews(self, looks: Mapping[str, Looked], choice: Choice, now: float) -> list[Preview]:
        found = []
        for pick in (*choice.take, *choice.wait):
            own = self.settings[pick.host]
            since = now - own.recovery.window_h * 3600.0
            earlier = [a for a in self.store.attempts(since=since) if a.host == pick.host and a.ended is not None]
            found.append(preview(pick.host, looks[pick.host], own, earlier, self.hands.can, now))
        return found
