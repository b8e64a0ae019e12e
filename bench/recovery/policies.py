"""Three ways to look after a fleet: the project's own, and two naive ones."""

from __future__ import annotations

from dataclasses import replace

from bench.recovery.fleet import RELEASE, SWITCH_FAULT, Fleet, Host
from bench.recovery.hands import SimulatedHands, verdict_of
from bench.recovery.memory import InMemory
from bench.recovery.people import People
from bench.recovery.rates import PERSON
from metalserve.recovery.breaker import consider
from metalserve.recovery.conduct import LOCK_S, recover_host
from metalserve.recovery.fleet import Member, Pool, choose
from metalserve.recovery.memory import Seen
from metalserve.recovery.ports import Forbidden
from metalserve.recovery.rules import Rules, rules_of
from metalserve.recovery.values import Attempt, Sighting
from metalserve.settings.recovery import RecoveryFleetSettings, RecoverySettings

ACTOR = "simulation@controller pid 1 start 0"
WATCH_S = 30.0
"""Seconds between two turns of the watch."""


class Ladder:
    """`recover --unhealthy --watch`: the real conductor, ladder, limits and breaker; hands and time are simulated."""

    title = "metalserve"

    def __init__(self, fleet: Fleet, limits: RecoveryFleetSettings | None = None, rules: Rules | None = None) -> None:
        self.fleet, self.store, self.hands = fleet, InMemory(), SimulatedHands(fleet)
        self.people = People(fleet, self._returned)
        self.limits = limits or RecoveryFleetSettings()
        self.settings = RecoverySettings(template="base", disk_serial="S1")
        self.rules = rules or rules_of(self.settings)
        self.unhealthy: dict[str, float] = {}
        self.new: list[Sighting] = []
        self.due = False
        self.factors = {host.name: _factors(host) for host in fleet.hosts.values()}
        self.well = {h.name: Member(h.name, h.group) for h in fleet.hosts.values()}
        self.pools = {
            (h.name, serves): Pool(f"model-{h.group}", (h.name,), 1, int(serves))
            for h in fleet.hosts.values()
            for serves in (False, True)
        }
        fleet.struck, fleet.healed = self._struck, self._healed

    def _struck(self, host: Host) -> None:
        number = host.trouble.number if host.trouble else 0
        self.fleet.events.after(self.fleet.spread(self.fleet.rates.seconds["detect"]), lambda: self._seen(host, number))

    def _seen(self, host: Host, number: int) -> None:
        if host.trouble is None or host.trouble.number != number:
            return
        now = self.fleet.events.now()
        self.unhealthy[host.name] = now
        self.factors[host.name] = _factors(host)
        self.new.append(Sighting(host.name, now, host.trouble.shown, _factors(host)))
        self._turn_soon()
        if not host.trouble.answers:
            self.fleet.events.after(self.settings.unreachable_s + 1.0, self._turn_soon)

    def _healed(self, host: Host) -> None:
        self.unhealthy.pop(host.name, None)

    def _returned(self, host: Host) -> None:
        self.unhealthy.pop(host.name, None)
        self.store.unmark(host.name, "quarantine")
        self._turn_soon()

    def _turn_soon(self) -> None:
        if not self.due:
            self.due = True
            self.fleet.events.after(WATCH_S, self._turn)

    def _turn(self) -> None:
        self.due = False
        now = self.fleet.events.now()
        for sighting in self.new:
            self.store.saw(replace(sighting, at=now))
        self.new.clear()
        before = self.store.breaker
        seen = Seen(self.store.sightings, self.store.latest)
        self.store.breaker = consider(before, seen, self.store.moment(now), self.factors, self.limits)
        if self.store.breaker.open and not before.open:
            self._opened()
        members = [self._member(host) for host in self.fleet.hosts.values()]
        pools = [self.pools[host.name, host.serves] for host in self.fleet.hosts.values()]
        choice = choose(members, pools, self.store.moment(now), self.limits)
        for pick in choice.take:
            self.store.take(pick.host, ACTOR, now, LOCK_S)
            self.fleet.events.begin(lambda name=pick.host: self._recover(self.fleet.hosts[name]))
        for pick in choice.refuse:
            host = self.fleet.hosts[pick.host]
            if "asks for no step" in pick.why and host.trouble is not None:
                self.people.hand(host)

    def _member(self, host: Host) -> Member:
        since, trouble = self.unhealthy.get(host.name), host.trouble
        if since is None or trouble is None or trouble.handed:
            return self.well[host.name]
        rung = verdict_of(trouble.shown).rung if trouble.answers else ""
        return Member(
            host.name, host.group, "fleet", since, trouble.answers, rung, True, self.settings.unhealthy_s,
            self.settings.unreachable_s,
        )  # fmt: skip

    def _recover(self, host: Host) -> None:
        try:
            attempt = recover_host(
                host.name, self.hands, self.store, self.rules, self.fleet.events, group=host.group, actor=ACTOR
            )
        except Forbidden:
            self._turn_soon()
            return
        self._ended(host, attempt)
        self._turn_soon()

    def _ended(self, host: Host, attempt: Attempt) -> None:
        if attempt.result == "recovered":
            self.unhealthy.pop(host.name, None)
            _false_alarm_over(self.fleet, host)
        elif attempt.result == "quarantined":
            _quarantined(self.fleet, host)
            self.people.hand(host, quarantined=True)
        else:
            self.people.hand(host)

    def _opened(self) -> None:
        self.fleet.count.breaker.append((self.fleet.events.now(), self.store.breaker.why))
        self.people.page(self._close, urgent=True)

    def _close(self) -> None:
        """What a person does: take a bad release back, wait for a switch, and close the breaker."""
        struck = [host.trouble.rollout for host in self.fleet.hosts.values() if host.trouble is not None]
        for rollout in sorted({number for number in struck if number >= 0}):
            self.people.take_back(rollout)
        down = any(h.trouble is not None and h.trouble.kind == SWITCH_FAULT for h in self.fleet.hosts.values())
        back = any(number >= 0 for number in struck)
        wait = 60 * self.fleet.rates.people.rollback_minutes + 60 if back else 600.0 if down else 0.0
        self.fleet.events.after(wait, self._close_now if not down else self._close)

    def _close_now(self) -> None:
        now = self.fleet.events.now()
        if self.store.breaker.open:
            self.store.breaker = replace(self.store.breaker, open=False, closed_by="a person", closed_at=now)
        self._turn_soon()


class AlwaysReboot:
    """Every host that ails is rebooted at once, up to some times; a dead one by its BMC. No limits, no verify."""

    title = "always reboot"

    def __init__(self, fleet: Fleet) -> None:
        self.fleet, self.hands, self.people = fleet, SimulatedHands(fleet), People(fleet)
        fleet.struck = self._struck

    def _struck(self, host: Host) -> None:
        number = host.trouble.number if host.trouble else 0
        wait = self.fleet.spread(self.fleet.rates.seconds["detect"])
        self.fleet.events.after(wait, lambda: self.fleet.events.begin(lambda: self._reboot(host, number)))

    def _reboot(self, host: Host, number: int) -> None:
        for _ in range(self.fleet.rates.naive_reboots):
            if host.trouble is None or host.trouble.number != number:
                break
            if not host.trouble.answers and not host.has_bmc:
                self.people.hand(host)
                return
            step = "reboot" if host.trouble.answers else "power-cycle"
            self.hands.judge(host, step)
            _without_service(self.fleet, host, self.fleet.rates.seconds[step] + self.fleet.rates.seconds["engine"])
            if host.trouble is not None and host.trouble.number == number:
                self.hands.effect(host, step)
        if host.trouble is not None and host.trouble.number == number:
            _quarantined(self.fleet, host)
            self.fleet.put(host, away=True)
            self.people.hand(host, quarantined=True)


class PageAHuman:
    """Every host that ails is somebody's: whoever comes does the right thing, most times at once."""

    title = "page a human"

    def __init__(self, fleet: Fleet) -> None:
        self.fleet, self.hands, self.people = fleet, SimulatedHands(fleet), People(fleet)
        self.lemons: dict[str, int] = {}
        fleet.struck = self._struck

    def _struck(self, host: Host) -> None:
        trouble = host.trouble
        if trouble is None:
            return
        self.people.noticed(trouble.rollout)
        if not self.people.known(trouble):
            self.people.page(
                lambda: self._work(host, trouble.number),
                lambda: host.trouble is trouble and not self.people.known(trouble),
            )

    def _work(self, host: Host, number: int) -> None:
        trouble = host.trouble
        if trouble is None or trouble.number != number or trouble.kind == RELEASE:
            return
        right = self.fleet.dice.random() < self.fleet.rates.people.right
        steps = [] if right or trouble.cure == "itself" else ["reboot"]
        steps += [trouble.cure] if trouble.cure not in PERSON else []
        for step in steps:
            if host.trouble is None:
                break
            self.hands.judge(host, step)
            _without_service(self.fleet, host, self.fleet.rates.seconds[step])
            self.hands.effect(host, step)
            if host.trouble is not None and step == steps[-1] and trouble.cure == step:
                self.fleet.cure(host)  # a reboot that hung is switched off and on
        if host.lemon:
            self.lemons[host.name] = self.lemons.get(host.name, 0) + 1
            if self.lemons[host.name] == 3:
                self._replace(host)
        if host.trouble is None:
            return
        if trouble.cure == "part":
            self._replace(host)
        elif trouble.cure == "settings":
            self.people.give_back(host)

    def _replace(self, host: Host) -> None:
        self.fleet.count.quarantined_right += 1
        self.fleet.put(host, away=True)
        self.people.replace(host)


def _factors(host: Host) -> dict[str, str]:
    return {"release": host.release, "rack": host.rack, "switch": host.switch, "model": f"model-{host.group}"}


def _false_alarm_over(fleet: Fleet, host: Host) -> None:
    """A false alarm that was accepted is over."""
    if host.trouble is not None and host.trouble.cure == "itself":
        fleet.cure(host)


def _quarantined(fleet: Fleet, host: Host) -> None:
    trouble = host.trouble
    if host.lemon or (trouble is not None and trouble.cure == "part"):
        fleet.count.quarantined_right += 1
    else:
        fleet.count.quarantined_wrong += 1
    if trouble is not None and trouble.kind == RELEASE:
        fleet.count.lost_to_rollout.add(host.name)


def _without_service(fleet: Fleet, host: Host, seconds: float) -> None:
    fleet.count.serving_touched += host.serves and (host.trouble is None or host.trouble.cure == "itself")
    fleet.put(host, away=True)
    fleet.events.sleep(fleet.spread(seconds))
    fleet.put(host, away=False)


POLICIES = (Ladder, AlwaysReboot, PageAHuman)
