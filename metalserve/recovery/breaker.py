"""The fleet's breaker: too many hosts that turned unhealthy within a window are not a thousand faults. Pure.

It counts hosts, not events, and only those that *turned* unhealthy within the window: a host that has been bad for
days, or flaps, is one host once. It never closes by itself. What was seen before a person closed it does not open it
again, and neither do the hosts that opened it until they have been well: the person knows of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

from metalserve.recovery.factors import Factors, common, in_common
from metalserve.recovery.memory import Memory, Seen, duration
from metalserve.recovery.values import BreakerState, Sighting
from metalserve.settings.recovery import RecoveryFleetSettings

SPELL_S = 3600.0
"""Seconds: a host seen unhealthy twice within them, and not recovered in between, has been unhealthy all the time."""

KNOWN_S = 86400.0
"""Seconds after a person closed the breaker in which the hosts that had opened it count only once they were well."""

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
        return state
    earlier = {each.host: each.factors for each in seen.latest(now - EARLIER_S) if each.host not in bad}
    shared = common({host: last.factors for host, last in bad.items()}, fleet, earlier)
    hosts = sorted(bad)
    named = ", ".join(hosts[:6]) + (f" and {len(hosts) - 6} more" if len(hosts) > 6 else "")
    window = duration(rules.breaker_window_s)
    why = f"{len(hosts)} of {len(fleet)} hosts turned unhealthy within {window} (limit {most}): {named}"
    return replace(state, open=True, since=now, why=f"{why}; {in_common(shared)}", hosts=tuple(hosts))
