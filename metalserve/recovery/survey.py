"""From looks at all hosts to what the fleet's limits are held against, and to the first step of each host. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from metalserve.catalogue.causes import load_causes
from metalserve.recovery.bundle import Token
from metalserve.recovery.case import Case, counting
from metalserve.recovery.factors import Factors
from metalserve.recovery.fleet import Member, Pool
from metalserve.recovery.ladder import Finish, next_step
from metalserve.recovery.ports import Looked
from metalserve.recovery.rules import rules_of
from metalserve.recovery.values import Attempt, Sighting, Step
from metalserve.settings import HostSettings

_XID = re.compile(r"Xid \([^)]{1,60}\): ?(\d{1,4})\b")
REBOOTS = ("reboot", "power-cycle", "reimage")
WIPES = ("reimage",)


def unhealthy(look: Looked) -> bool:
    """Tell whether a host wants recovery: no evidence of it, a verdict that asks for a step, or an engine that is mute.

    What could not be asked is not well, and not ill either: the next look tells.
    """
    if look.verdict is None:
        return True
    return look.serving is False or load_causes().height(look.verdict.rung) > 0


def group_of(host: str, groups: Mapping[str, Collection[str]]) -> str:
    """Return the inventory group that limits count by: the first one that lists the host, "all" when none does."""
    return next((name for name, hosts in groups.items() if name != "all" and host in hosts), "all")


def factors_of(settings: HostSettings) -> dict[str, str]:
    """Return what a host may share with others that fail at the same time."""
    found = {
        "release": settings.release,
        "rack": settings.recovery.rack,
        "switch": settings.recovery.switch,
        "model": settings.model.served_as if settings.model is not None else None,
    }
    return {kind: value for kind, value in found.items() if value}


def sighting(host: str, look: Looked, factors: Factors, now: float) -> Sighting:
    """Return that a host was seen unhealthy, as the breaker counts it."""
    causes = counting(look.verdict)
    xids = {number for cause in causes for line in cause.lines for number in _XID.findall(line)}
    more = {"xid": min(xids, key=int)} if xids else {}
    return Sighting(host, now, tuple(cause.id for cause in causes), {**factors, **more})


def members_of(
    looks: Mapping[str, Looked],
    settings: Mapping[str, HostSettings],
    groups: Mapping[str, Collection[str]],
    *,
    named: Collection[str],
    fleet: bool,
    since: Mapping[str, float],
    now: float,
    out: Collection[str] = (),
) -> list[Member]:
    """Return every host as the fleet's limits see it.

    Args:
        looks: host -> what was seen.
        settings: host -> settings.
        groups: inventory group -> hosts.
        named: hosts that a person asked for.
        fleet: every other host is asked for too.
        since: host -> since when it has been unhealthy, where that was seen before.
        now: seconds since the epoch.
        out: hosts that are out of a router.
    """
    found = []
    for host, look in looks.items():
        own, bad = settings[host].recovery, unhealthy(look)
        found.append(
            Member(
                host,
                group_of(host, groups),
                "named" if host in named else "fleet" if fleet else "no",
                since.get(host, now) if bad else None,
                look.verdict is not None,
                # An engine that is mute wants a step although no cause was found.
                (look.verdict.rung if look.serving is not False or look.verdict.rung != "nothing" else "restart-engine")
                if look.verdict is not None
                else "",
                own.automatic,
                float(own.unhealthy_s),
                float(own.unreachable_s),
                host in out and not bad,
            )
        )
    return found


def pools_of(tokens: Mapping[str, Mapping[str, Token]], settings: Mapping[str, HostSettings]) -> list[Pool]:
    """Return the replicas of each model.

    Args:
        tokens: host -> engine -> what it did when it was asked for a token; a host that did not answer has none.
        settings: host -> settings.
    """
    found = []
    for host, own in settings.items():
        group = own.engine.group
        if own.model is None or (group is not None and group.head != host):
            continue  # of hosts that run one engine together the head has the API
        engines = tokens.get(host, {})
        wanted = len(engines) or own.engine.replicas or 1
        serving = sum(said in ("token", "busy") for said in engines.values())
        found.append(Pool(own.model.served_as, tuple(group.hosts) if group is not None else (host,), wanted, serving))
    return found


@dataclass(frozen=True, slots=True)
class Preview:
    """What a recovery of a host would begin with.

    Attributes:
        host: its name.
        look: what was seen of it.
        move: the first step, or how it would end without one.
    """

    host: str
    look: Looked
    move: Step | Finish

    @property
    def what(self) -> str:
        """The step's name, or what happens instead."""
        return self.move.rung if isinstance(self.move, Step) else self.move.next

    def as_dict(self) -> dict[str, object]:
        """Return JSON-ready values."""
        return {
            "host": self.host,
            "seen": self.look.words,
            "causes": [cause.id for cause in counting(self.look.verdict)],
            "subjects": [f"{s.kind} {s.name} {s.serial}".strip() for s in self.look.subjects],
            "evidence": self.look.evidence,
            "step": self.what,
            "why": self.move.reason,
            "reboots": self.what in REBOOTS,
            "wipes": self.what in WIPES,
            "destroys": load_causes().rung(self.what).destroys if isinstance(self.move, Step) else "",
        }


def preview(
    host: str,
    look: Looked,
    settings: HostSettings,
    earlier: Sequence[Attempt],
    can: Callable[[str, str], str],
    now: float,
) -> Preview:
    """Return what the ladder would do first.

    Args:
        host: its name.
        look: what was seen of it.
        settings: its settings.
        earlier: ended attempts within its window.
        can: (host, rung) -> why the rung cannot be tried, "" when it can.
        now: seconds since the epoch.
    """
    cannot: dict[str, str] = {}
    while True:
        move = next_step(Case(host, look, look, (), tuple(earlier), rules_of(settings.recovery), now, now, cannot))
        if not isinstance(move, Step) or move.rung in cannot:
            return Preview(host, look, move)
        cannot[move.rung] = can(host, move.rung)
        if not cannot[move.rung]:
            return Preview(host, look, move)
