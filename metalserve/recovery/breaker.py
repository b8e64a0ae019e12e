"""The fleet's breaker: too many hosts that turned unhealthy within a window are not a thousand faults. Pure.

It counts hosts, not events, and only those that *turned* unhealthy within the window: a host that has been bad for
days, or flaps, is one host once. It never closes by itself. What was seen before a person closed it does not open it
again, and neither do the hosts that opened it until they have been well: the person knows of them.

A bad rollout may break a host an hour: never many within the window. So hosts that turned unhealthy within a day open
it too when something sets them apart from the rest of the fleet (release, rack, switch ...) that chance would not;
those that were brought back count there as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

from metalserve.recovery.factors import SYMPTOMS, Factors, common, in_common
from metalserve.recovery.memory import Memory, Seen, duration
from metalserve.recovery.values import BreakerState, Sighting
from metalserve.settings.recovery import RecoveryFleetSettings

SPELL_S = 3600.0
"""Seconds: a host seen unhealthy twice within them, and not recovered in between, has been unhealthy all the time."""

KNOWN_S = 86400.0
"""Seconds after a person closed the breaker in which the hosts that had opened it count only once they were well."""

SLOW_CHANCE = 0.001
"""Probability of a chance, corrected for the number of factors, below which a factor opens the breaker slowly. Our own:
the day moves on with every round, and a few looks a day at 0.01 would call people for nothing every month."""

EARLIER_S = 7 * 86400.0
"""Seconds of sightings that symptoms are compared with."""


def limit(fleet: int, rules: RecoveryFleetSettings) -> int:
    """Return the number of hosts that opens the breaker of a fleet: the smaller of percent and number.

    Never below `breaker_least`: of two hosts one is half of the fleet.
    """
    return max(rules.breaker_least, min(math.ceil(fleet * rules.breaker_percent / 100), rules.breaker_hosts))


def turned(
    sightings: Iterable[Sighting],
    state: BreakerState,
    rules: RecoveryFleetSettings,
    now: float,
    *,
    well: Mapping[str, float],
    apart: Iterable[str] = (),
) -> dict[str, Sighting]:
    """Return the hosts that turned unhealthy within the window and count, each with its last sighting.

    Args:
        sightings: from `now` less window and `SPELL_S` on, the oldest first.
        state: the breaker, for what a person knows already.
        rules: the window.
        now: seconds since the epoch.
        well: host -> when it was last brought back.
        apart: hosts that do not count: somebody has marked them.
    """
    begins = max(now - rules.breaker_window_s, state.closed_at)
    left_out = set(apart)
    counted = {}
    for host, (since, last) in spells(sightings, well).items():
        back = well.get(host, 0.0)
        known = host in state.hosts and since <= state.closed_at + KNOWN_S and back <= state.closed_at
        if since > begins and not known and host not in left_out:
            counted[host] = last
    return counted


def spells(sightings: Iterable[Sighting], well: Mapping[str, float]) -> dict[str, tuple[float, Sighting]]:
    """Return since when each host has been unhealthy, and its last sighting; hosts brought back since are left out.

    Args:
        sightings: the oldest first.
        well: host -> when it was last brought back.
    """
    found: dict[str, tuple[float, Sighting]] = {}
    for seen in sightings:
        since, last = found.get(seen.host, (seen.at, seen))
        back = well.get(seen.host, 0.0)
        goes_on = seen.at - last.at <= SPELL_S and not last.at < back <= seen.at
        found[seen.host] = (since if goes_on else seen.at, seen)
    return {host: spell for host, spell in found.items() if spell[1].at >= well.get(host, 0.0)}


def consider(
    state: BreakerState,
    seen: Seen,
    memory: Memory,
    fleet: Mapping[str, Factors],
    rules: RecoveryFleetSettings,
) -> BreakerState:
    """Return the breaker's state after what was seen; it opens, or stays as it is.

    Args:
        state: as it is stored.
        seen: who was seen unhealthy.
        memory: marks and recoveries, at one moment.
        fleet: host -> factors of every host of the inventory.
        rules: window and limits.
    """
    if state.open or not fleet:
        return state
    now = memory.now
    recent = seen.since(now - rules.breaker_window_s - SPELL_S)
    marked = {mark.host for mark in memory.marks}
    bad = turned(recent, state, rules, now, well=memory.recovered, apart=marked)
    most = limit(len(fleet), rules)
    if len(bad) < most:
        return _consider_slowly(state, seen, memory, fleet, rules)
    earlier = {each.host: each.factors for each in seen.latest(now - EARLIER_S) if each.host not in bad}
    shared = common({host: last.factors for host, last in bad.items()}, fleet, earlier)
    window = duration(rules.breaker_window_s)
    why = f"{len(bad)} of {len(fleet)} hosts turned unhealthy within {window} (limit {most}): {_named(bad)}"
    return _opened(state, now, f"{why}; {in_common(shared)}", bad)


def _consider_slowly(
    state: BreakerState, seen: Seen, memory: Memory, fleet: Mapping[str, Factors], rules: RecoveryFleetSettings
) -> BreakerState:
    """Return the state after the long window: open when what many bad hosts share is no chance."""
    window = rules.breaker_slow_window_h * 3600.0
    begins = memory.now - window
    if len(seen.latest(begins)) < rules.breaker_slow_hosts:  # cheap, and nearly always so
        return state
    marked = {mark.host for mark in memory.marks if mark.kind != "quarantine"}  # a rollout may have brought them there
    bad = turned_ever(seen.since(begins - SPELL_S), state, begins, apart=marked)
    changes = {host: {k: v for k, v in last.factors.items() if k not in SYMPTOMS} for host, last in bad.items()}
    blamed = [f for f in common(changes, fleet) if f.bad >= rules.breaker_slow_hosts and f.chance < SLOW_CHANCE]
    if not blamed:
        return state
    why = f"{len(bad)} of {len(fleet)} hosts turned unhealthy within {duration(window)}: {_named(bad)}"
    return _opened(state, memory.now, f"{why}; {in_common(blamed)}", bad)


def turned_ever(
    sightings: Iterable[Sighting], state: BreakerState, begins: float, *, apart: Iterable[str] = ()
) -> dict[str, Sighting]:
    """Return the hosts that turned unhealthy since a time, those brought back since too, each with its last sighting.

    Args:
        sightings: from `begins` less `SPELL_S` on, the oldest first.
        state: the breaker; what was seen before a person closed it, and the hosts that had opened it, are known.
        begins: seconds since the epoch.
        apart: hosts that do not count: somebody has marked them.
    """
    begins = max(begins, state.closed_at)
    left_out = set(apart)
    before: dict[str, float] = {}
    counted: dict[str, Sighting] = {}
    for seen in sightings:
        goes_on = seen.host in before and seen.at - before[seen.host] <= SPELL_S
        before[seen.host] = seen.at
        known = seen.host in state.hosts and seen.at <= state.closed_at + KNOWN_S
        if seen.host in left_out or known:
            continue
        if seen.host in counted or (not goes_on and seen.at > begins):
            counted[seen.host] = seen
    return counted


def _opened(state: BreakerState, now: float, why: str, bad: Iterable[str]) -> BreakerState:
    return replace(state, open=True, since=now, why=why, hosts=tuple(sorted(bad)))


def _named(bad: Iterable[str]) -> str:
    hosts = sorted(bad)
    return ", ".join(hosts[:6]) + (f" and {len(hosts) - 6} more" if len(hosts) > 6 else "")
