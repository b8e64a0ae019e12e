"""The simulated hosts: what truly ails them, since when they do not serve, and what strikes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from bench.recovery.events import Events
from bench.recovery.rates import PERSON, Kind, Rates, Rollout
from metalserve.catalogue.causes import load_causes

DAY_S = 86400.0
GROUPS = 4
RACK, SWITCH = 8, 32
"""Hosts of a rack and of a network switch."""

height = load_causes().height
LEMON = "lemon"
RELEASE = "release"
SWITCH_FAULT = "switch"


@dataclass
class Trouble:
    """What truly ails a host.

    Attributes:
        number: in the order in which troubles came.
        kind: name of the kind.
        cure: the cheapest thing that cures it.
        shown: ids of the causes that a verdict names; another fault's when the verdict is wrong.
        answers: SSH answers.
        serves: the host serves meanwhile.
        powered: it is on.
        begun: seconds since the epoch.
        part: serial number of the GPU that is to blame; empty when it is none.
        rollout: number of the bad release; -1 when it is none.
        handed: somebody has it: a person, or the wait for a part.
    """

    number: int
    kind: str
    cure: str
    shown: tuple[str, ...]
    answers: bool
    serves: bool
    powered: bool
    begun: float
    part: str = ""
    rollout: int = -1
    handed: bool = False


@dataclass
class Host:
    """A host, and how long it has not served.

    Attributes:
        away: taken out of service on purpose, or in the middle of a step.
        out_s: seconds without service so far; `parts_s` of them while a part was waited for.
        ill: what took it out of service, until it serves again.
    """

    name: str
    group: str
    rack: str
    switch: str
    release: str
    has_bmc: bool
    lemon: bool = False
    trouble: Trouble | None = None
    away: bool = False
    waits_for_part: bool = False
    boots: int = 1
    out_s: float = 0.0
    parts_s: float = 0.0
    parts: int = 0
    ill: Trouble | None = None
    _since: float = 0.0

    @property
    def serves(self) -> bool:
        """Whether clients get answers from it."""
        return not self.away and (self.trouble is None or self.trouble.serves)

    def settle(self, now: float) -> None:
        """Count the time since the last change; to be called before every change."""
        if not self.serves:
            self.out_s += now - self._since
            if self.waits_for_part:
                self.parts_s += now - self._since
        self._since = now

    def gpu(self) -> str:
        """Serial number of the GPU that its hardware faults strike; another one after it was replaced."""
        return f"{self.name}-gpu-{self.parts}"


@dataclass
class Count:
    """What happened, in numbers."""

    faults: int = 0
    steps: int = 0
    wrong: int = 0
    wrong_by: dict[str, int] = field(default_factory=dict)
    serving_touched: int = 0
    needless_reboots: int = 0
    quarantined_right: int = 0
    quarantined_wrong: int = 0
    lost_to_rollout: set[str] = field(default_factory=set)
    breaker: list[tuple[float, str]] = field(default_factory=list)
    cured_s: list[float] = field(default_factory=list)
    person_hours: float = 0.0
    pages: int = 0


@dataclass
class Fleet:
    """All hosts in one run. `struck`, `healed`: told of a host that fell ill, or is well without a step."""

    events: Events
    rates: Rates
    dice: Random
    hosts: dict[str, Host]
    end: float
    count: Count = field(default_factory=Count)
    struck: Callable[[Host], None] = lambda host: None
    healed: Callable[[Host], None] = lambda host: None
    release_bad: set[int] = field(default_factory=set)
    troubles: int = 0
    away: list[tuple[float, int]] = field(default_factory=list)
    """Hosts that do not serve, every quarter of an hour: for the plot."""

    @classmethod
    def of(cls, events: Events, rates: Rates, seed: int, size: int, days: float) -> Fleet:
        """Make a fleet; the same seed brings the same faults to the same hosts at the same time, whatever is done."""
        dice = Random(seed)
        hosts = {}
        for number in range(size):
            name = f"h{number:04d}"
            hosts[name] = Host(
                name, f"group{number % GROUPS}", f"rack{number // RACK}", f"switch{number // SWITCH}", "r1",
                dice.random() >= rates.wrong.no_bmc, dice.random() < rates.lemons.share, _since=events.now(),
            )  # fmt: skip
        return cls(events, rates, Random(seed + 1), hosts, events.now() + days * DAY_S)

    def schedule(self, seed: int) -> None:
        """Say when what strikes whom: drawn beforehand, so that all policies meet the same."""
        dice, start = Random(seed + 2), self.events.now()
        days = (self.end - start) / DAY_S
        names = list(self.hosts)
        for kind in self.rates.faults:
            for _ in range(_poisson(dice, kind.rate / 1000 * len(names) * days)):
                self._later(dice, start + dice.random() * days * DAY_S, kind, dice.choice(names))
        lemons = self.rates.lemons
        for host in [host for host in self.hosts.values() if host.lemon]:
            when = start
            while (when := when + dice.expovariate(1 / (lemons.days_between * DAY_S))) < self.end:
                cause, rung = dice.choice(list(lemons.cures.items()))
                kind = Kind(name=LEMON, causes=(cause,), cures={rung: 1.0}, source=lemons.source)
                self._later(dice, when, kind, host.name)
        for number, rollout in enumerate(self.rates.rollouts):
            if rollout.day < days:
                self.events.at(start + rollout.day * DAY_S, _Wave(self, number, rollout, dice.random()).begin)
        for _ in range(_poisson(dice, self.rates.switches.per_30_days * days / 30)):
            first = dice.randrange(max(1, len(names) // SWITCH)) * SWITCH
            kind = Kind(name=SWITCH_FAULT, causes=(), cures={"itself": 1.0}, answers=False, source="")
            when, hours = start + dice.random() * days * DAY_S, self.rates.switches.hours
            for name in names[first : first + SWITCH]:
                self._later(dice, when, kind, name, hours)
        self.events.after(900.0, self._sample)

    def strike(self, host: Host, kind: Kind, cure: str, shown: tuple[str, ...], rollout: int = -1) -> None:
        """Let a host fall ill; one that ails already, or is in quarantine, does not fall ill again."""
        if host.trouble is not None or host.away:
            return
        if kind.name == LEMON and not host.lemon:
            return  # its GPU was replaced
        now = self.events.now()
        host.settle(now)
        self.troubles += 1
        subject = load_causes().cause(kind.causes[0]).subject if kind.causes else ""
        part = host.gpu() if subject == "gpu" and rollout < 0 else ""
        host.trouble = Trouble(
            self.troubles, kind.name, cure, shown, kind.answers, kind.serves, kind.powered, now, part, rollout
        )
        host.ill = None if kind.serves else host.trouble
        self.count.faults += 1
        self.struck(host)

    def cure(self, host: Host) -> None:
        """The trouble is over."""
        host.settle(self.events.now())
        host.trouble = None
        self._back(host)

    def put(self, host: Host, *, away: bool) -> None:
        """Take a host out of service, or put it back."""
        host.settle(self.events.now())
        host.away = away
        self._back(host)

    def _back(self, host: Host) -> None:
        """Note how long it took until a host served again; what no step can cure is left out."""
        if host.ill is not None and host.serves:
            if host.ill.cure not in PERSON or host.ill.cure == "settings":
                self.count.cured_s.append(self.events.now() - host.ill.begun)
            host.ill = None

    def heal(self, host: Host, number: int) -> None:
        """A trouble that goes away by itself, if it is still that one."""
        if host.trouble is not None and host.trouble.number == number:
            self.cure(host)
            self.healed(host)

    def spread(self, seconds: float) -> float:
        """Return a time a third up or down."""
        return seconds * self.dice.uniform(2 / 3, 4 / 3)

    def _later(self, dice: Random, when: float, kind: Kind, name: str, hours: float = 0.0) -> None:
        cure = dice.choices(list(kind.cures), list(kind.cures.values()))[0]
        shown = kind.causes
        if kind.causes and dice.random() < self.rates.wrong.verdict:
            shown = dice.choice([other.causes for other in self.rates.faults if other.causes not in ((), shown)])
        lasts = (hours or dice.expovariate(1 / self.rates.network_hours)) * 3600.0

        def happen() -> None:
            host = self.hosts[name]
            before = self.troubles
            self.strike(host, kind, cure, shown)
            if cure == "itself" and self.troubles > before:
                number = self.troubles
                self.events.after(lasts, lambda: self.heal(host, number))

        self.events.at(when, happen)

    def _sample(self) -> None:
        self.away.append((self.events.now(), sum(not host.serves for host in self.hosts.values())))
        self.events.after(900.0, self._sample)


@dataclass
class _Wave:
    """A bad release on its way through the fleet, until somebody takes it back."""

    fleet: Fleet
    number: int
    rollout: Rollout
    where: float

    def begin(self) -> None:
        """Start it."""
        self.fleet.release_bad.add(self.number)
        names = list(self.fleet.hosts)
        count = min(self.rollout.hosts, len(names) // 2)
        first = int(self.where * (len(names) - count))
        for number, name in enumerate(names[first : first + count]):
            self.fleet.events.after(number * self.rollout.minutes * 60 / count, lambda name=name: self._reach(name))

    def _reach(self, name: str) -> None:
        if self.number not in self.fleet.release_bad:
            return
        kind = Kind(name=RELEASE, causes=self.rollout.causes, cures={"release": 1.0}, source="")
        host = self.fleet.hosts[name]
        before = host.release
        host.release = f"bad{self.number}"
        self.fleet.strike(host, kind, "release", kind.causes, self.number)
        if host.trouble is None or host.trouble.rollout != self.number:
            host.release = before


def _poisson(dice: Random, mean: float) -> int:
    """Draw a number of events: by the gaps between them."""
    count, sum_ = 0, dice.expovariate(1.0)
    while sum_ < mean:
        count += 1
        sum_ += dice.expovariate(1.0)
    return count
