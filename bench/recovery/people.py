"""Those on duty: they answer when they can, one thing at a time, and see the pattern behind many faults at last."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from bench.recovery.fleet import DAY_S, Fleet, Host, Trouble


@dataclass
class People:
    """The same for all policies. What they do to a host is right in the end; how long it takes, the figures say."""

    fleet: Fleet
    on_return: Callable[[Host], None] = lambda host: None
    busy: int = 0
    handed: dict[int, int] = field(default_factory=dict)
    taken_back: set[int] = field(default_factory=set)

    def page(self, work: Callable[[], None], still: Callable[[], bool] = lambda: True, *, urgent: bool = False) -> None:
        """Have somebody called; `work` is done when somebody has come, finds it `still` so, and has had the time.

        What is urgent does not wait for others that are at work.
        """
        people = self.fleet.rates.people

        def come() -> None:
            self.fleet.count.pages += 1
            hour = (self.fleet.events.now() % DAY_S) / 3600
            median = people.minutes_day if 8 <= hour < 20 else people.minutes_night
            self.fleet.events.sleep(60 * median * self.fleet.dice.lognormvariate(0.0, 0.6))
            while self.busy >= people.at_once and still() and not urgent:
                self.fleet.events.sleep(300.0)
            if not still():
                return
            self.busy += 1
            minutes = people.hands_on_minutes
            self.fleet.events.sleep(60 * self.fleet.spread(minutes))
            self.busy -= 1
            self.fleet.count.person_hours += minutes / 60
            work()

        self.fleet.events.begin(come)

    def hand(self, host: Host, *, quarantined: bool = False) -> None:
        """Give them a host: a part is waited for, all else is put right by the one who comes."""
        trouble = host.trouble
        if trouble is not None:
            if trouble.handed:
                return
            trouble.handed = True
            self.noticed(trouble.rollout)
        if (trouble is not None and trouble.cure == "part") or (host.lemon and quarantined):
            self.replace(host)
        elif quarantined:  # nothing calls for haste: it is one of the broken ones
            hours = self.fleet.rates.people.look_at_quarantine_hours
            wait = self.fleet.dice.expovariate(1 / (hours * 3600))
            self.fleet.events.after(wait, lambda: self._looked_after(host, trouble))
        else:
            self._looked_after(host, trouble)

    def replace(self, host: Host) -> None:
        """Have the part replaced."""
        host.settle(self.fleet.events.now())
        host.waits_for_part = True
        days = self.fleet.dice.uniform(*self.fleet.rates.people.part_days)
        self.fleet.events.after(days * DAY_S, lambda: self._new_part(host))

    def give_back(self, host: Host) -> None:
        """Put a host right that wants no part, and back into service; one that a bad release ails waits for that."""
        if host.trouble is not None and host.trouble.cure == "part":
            self.replace(host)
            return
        if host.trouble is not None and host.trouble.cure == "release":
            return  # it comes back with the earlier release
        self._back(host)

    def _looked_after(self, host: Host, trouble: Trouble | None) -> None:
        """Call somebody for a host, unless it is back already."""
        self.page(lambda: self.give_back(host), lambda: self._wanted(host, trouble))

    def _wanted(self, host: Host, trouble: Trouble | None) -> bool:
        return (host.away or host.trouble is trouble) and not self.known(trouble)

    def known(self, trouble: Trouble | None) -> bool:
        """Say whether a trouble is one of a release of which somebody knows."""
        return trouble is not None and trouble.rollout in self.taken_back

    def noticed(self, rollout: int) -> None:
        """One more host with the trouble of a bad release; after some of them somebody sees it."""
        if rollout < 0:
            return
        self.handed[rollout] = self.handed.get(rollout, 0) + 1
        if self.handed[rollout] == self.fleet.rates.people.pattern:
            self.page(lambda: self.take_back(rollout), urgent=True)

    def take_back(self, rollout: int) -> None:
        """Stop a bad release, and put the one before on the hosts that it reached."""
        if rollout in self.taken_back:
            return
        self.taken_back.add(rollout)
        self.fleet.release_bad.discard(rollout)
        self.fleet.events.after(60 * self.fleet.rates.people.rollback_minutes, lambda: self._earlier_release(rollout))

    def _earlier_release(self, rollout: int) -> None:
        for host in self.fleet.hosts.values():
            if host.release == f"bad{rollout}":
                host.release = "r1"
            if host.trouble is not None and host.trouble.rollout == rollout:
                if host.trouble.handed:
                    self._back(host)  # all of them together, also from quarantine
                else:
                    self.fleet.cure(host)
                    self.fleet.healed(host)

    def _new_part(self, host: Host) -> None:
        host.settle(self.fleet.events.now())
        host.waits_for_part, host.lemon = False, False
        host.parts += 1
        self._back(host)

    def _back(self, host: Host) -> None:
        self.fleet.cure(host)
        self.fleet.put(host, away=False)
        self.on_return(host)
