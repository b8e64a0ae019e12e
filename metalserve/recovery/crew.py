"""Recovers many hosts: as many at once as the fleet's limits let, and after each one it is decided anew who is next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from metalserve.errors import MetalserveError
from metalserve.recovery.values import Attempt

Ended = Attempt | BaseException
"""How the recovery of a host came back: the attempt, or what was raised."""


@dataclass(frozen=True, slots=True)
class Turn:
    """Who is next.

    Attributes:
        take: hosts to begin with now, in order; their locks are taken.
        wait: host -> why its turn has not come.
        refuse: host -> why it is left alone.
    """

    take: tuple[str, ...] = ()
    wait: Mapping[str, str] = field(default_factory=dict)
    refuse: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FleetOutcome:
    """What became of the hosts.

    Attributes:
        attempts: host -> its attempt as it ended.
        errors: host -> why its recovery did not begin, or broke off (then its attempt is open for the next run).
        wait: host -> why its turn never came.
        refuse: host -> why it was left alone.
    """

    attempts: Mapping[str, Attempt]
    errors: Mapping[str, str]
    wait: Mapping[str, str]
    refuse: Mapping[str, str]


class Crew(Protocol):
    """Works on several hosts at once."""

    def start(self, host: str, work: Callable[[], Attempt]) -> None:
        """Begin with a host; returns at once."""

    def wait(self) -> tuple[str, Ended]:
        """Wait for one of them to end, and return how it did."""


def recover_fleet(
    turn: Callable[[frozenset[str]], Turn],
    recover: Callable[[str], Attempt],
    crew: Crew,
    *,
    on_end: Callable[[str, Ended], None] = lambda host, ended: None,
) -> FleetOutcome:
    """Recover hosts until nobody is left whose turn it is.

    Args:
        turn: decides who is next (`metalserve.recovery.fleet`), given the hosts that had their turn in this run.
        recover: recovers one host; called in the crew's threads.
        crew: works on several hosts at once.
        on_end: told of every host that ended.

    Raises:
        BaseException: what a recovery raised that is no MetalserveError, after the others have ended.
    """
    attempts: dict[str, Attempt] = {}
    errors: dict[str, str] = {}
    running: set[str] = set()
    broken: BaseException | None = None
    while True:
        had = frozenset({*running, *attempts, *errors})
        now = turn(had)
        for host in [each for each in now.take if each not in had]:
            running.add(host)
            crew.start(host, lambda host=host: recover(host))  # type: ignore[misc]
        if not running:
            break
        host, ended = crew.wait()
        running.discard(host)
        if isinstance(ended, Attempt):
            attempts[host] = ended
        else:
            errors[host] = str(ended) or type(ended).__name__
            if not isinstance(ended, MetalserveError):
                broken = ended
        on_end(host, ended)
    if broken is not None:
        raise broken
    left = {host: why for host, why in now.wait.items() if host not in attempts}
    return FleetOutcome(attempts, errors, left, dict(now.refuse))
