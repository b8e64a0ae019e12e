"""What the store holds beside attempts, as values, and one moment of it all. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from metalserve.recovery.values import Attempt, BreakerState, Mark, Sighting


@dataclass(frozen=True, slots=True)
class Lock:
    """Who holds a host.

    Attributes:
        host: the host's name.
        actor: who holds it.
        since: seconds since the epoch.
        expires: seconds since the epoch; anyone may take it over from then on.
        live: neither expired nor of a process that is known to be gone.
    """

    host: str
    actor: str
    since: float
    expires: float
    live: bool

    def in_words(self, now: float) -> str:
        """Return who holds it, since when and until when."""
        held = f"{self.actor} holds it for {duration(now - self.since)}"
        return f"{held}; it expires in {duration(self.expires - now)}" if self.live else f"{held}, no longer at work"


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the journal: what was changed beside the attempts.

    Attributes:
        at: seconds since the epoch.
        what: "mark", "unmark", "take-over", "breaker-open" or "breaker-close".
        host: the host's name; empty for the fleet.
        by: who did it.
        words: for people.
    """

    at: float
    what: str
    host: str
    by: str
    words: str


@dataclass(frozen=True, slots=True)
class Memory:
    """What the store holds at one moment: what a decision about the fleet is made from.

    Attributes:
        now: seconds since the epoch.
        open: attempts that have not ended, of every controller.
        locks: every lock, also those that are no longer live.
        marks: marks in force.
        breaker: the breaker.
        last_ended: group -> when its last attempt ended.
        recovered: host -> when it was last brought back.
    """

    now: float
    open: tuple[Attempt, ...] = ()
    locks: tuple[Lock, ...] = ()
    marks: tuple[Mark, ...] = ()
    breaker: BreakerState = field(default_factory=BreakerState)
    last_ended: Mapping[str, float] = field(default_factory=dict)
    recovered: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Seen:
    """Sightings, read only when they are asked for: mostly the recent ones are enough.

    Attributes:
        since: from a time to the sightings since then, the oldest first.
        latest: from a time to the last sighting since then of each host.
    """

    since: Callable[[float], list[Sighting]]
    latest: Callable[[float], list[Sighting]]


def duration(seconds: float) -> str:
    """Return a time in words: "40 s", "12 min", "5 h", "3 d"."""
    seconds = max(0.0, seconds)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
