"""What a BMC said of a host, as values. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BmcEvent:
    """An entry of a BMC's log; `at` is seconds since the epoch, or `None` when it has no time."""

    at: float | None
    severity: str
    message: str
    code: str = ""
    log: str = ""


@dataclass(frozen=True, slots=True)
class BmcEvidence:
    """What a BMC said.

    Attributes:
        power: `on`, `off`, or `unknown`.
        events: of its logs, the oldest first.
        bad: sensors and GPUs that it calls critical: kind, name, in words.
        simulated: it is a simulated one.
        missed: what could not be read, in words.
        alone: the host itself gave nothing.
    """

    power: str = "unknown"
    events: tuple[BmcEvent, ...] = ()
    bad: tuple[tuple[str, str, str], ...] = ()
    simulated: bool = False
    missed: tuple[str, ...] = ()
    alone: bool = False
