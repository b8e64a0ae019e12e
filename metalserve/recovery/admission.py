"""Decisions about the fleet, made on the store as one with what they are made from: no other gets in between."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from metalserve.recovery.breaker import consider
from metalserve.recovery.factors import Factors
from metalserve.recovery.fleet import Choice, Member, Pool, choose
from metalserve.recovery.memory import Memory
from metalserve.recovery.store import Store
from metalserve.recovery.values import BreakerState, Sighting
from metalserve.settings.recovery import RecoveryFleetSettings


def admit(
    store: Store,
    members: Sequence[Member],
    pools: Sequence[Pool],
    rules: RecoveryFleetSettings,
    *,
    actor: str,
    now: float,
    ttl_s: float,
) -> Choice:
    """Choose whom to recover now and take the hosts' locks, so that two controllers keep the limits together.

    Who gets a host in `take` conducts it, or lets it go. Only to show a plan: `choose(..., store.memory(now), ...)`.

    Args:
        store: the store.
        members: every host of the inventory.
        pools: every replica.
        rules: the fleet's limits.
        actor: who takes the locks.
        now: seconds since the epoch.
        ttl_s: seconds that the locks hold.

    Raises:
        MetalserveError: the store cannot be used.
    """

    def decide(memory: Memory) -> tuple[list[str], Choice]:
        choice = choose(members, pools, memory, rules)
        return [pick.host for pick in choice.take], choice

    return store.claim(actor, now, ttl_s, decide)


def watch(
    store: Store,
    seen: Iterable[Sighting],
    fleet: Mapping[str, Factors],
    rules: RecoveryFleetSettings,
    *,
    by: str,
    now: float,
) -> BreakerState:
    """Write down who was seen unhealthy, and open the breaker when too many turned so. Comes before `admit`.

    Args:
        store: the store.
        seen: the hosts that are unhealthy now.
        fleet: host -> factors of every host of the inventory.
        rules: the breaker's window and limits.
        by: who looks.
        now: seconds since the epoch.
    """
    store.saw_all(list(seen))
    return store.open_if(lambda state, sightings, memory: consider(state, sightings, memory, fleet, rules), by, now)
