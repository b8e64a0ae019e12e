"""What limits the recovery of one host: numbers and permissions, as a value. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from metalserve.catalogue.ladder import Depth
from metalserve.settings.recovery import RecoverySettings

DAY_S: Final = 86400.0


@dataclass(frozen=True, slots=True)
class Rules:
    """How one host may be recovered. Seconds are real time.

    The defaults of recurrence are the peers': NVSentinel gives up after five remediations in seven days, gpud after the
    same Xid came back through two reboots.

    Attributes:
        reimage: the system's drive of this host may be written anew.
        recurrence: an attempt that would be this many-th to blame the same part within `window_s` is a quarantine.
        host_recurrence: the same for a host whose blamed part has no serial number.
        window_s: how far back attempts count.
        attempt_s: seconds after which an attempt goes no further up.
        steps: steps after which an attempt goes no further up.
        drain_s: seconds that requests in flight are waited for.
        looks: times that an answer which is unknown is asked for again.
        pause_s: seconds between them.
        depth: the least depth of the verify that accepts.
        depths: rung -> depth of the verify that follows it, where the host's differ from the catalogue's.
        deadlines: rung -> seconds, where the host's differ from the catalogue's.
    """

    reimage: bool = False
    recurrence: int = 3
    host_recurrence: int = 5
    window_s: float = 7 * DAY_S
    attempt_s: float = 8 * 3600.0
    steps: int = 12
    drain_s: float = 300.0
    looks: int = 3
    pause_s: float = 20.0
    depth: Depth = "quick"
    depths: Mapping[str, Depth] = field(default_factory=dict)
    deadlines: Mapping[str, float] = field(default_factory=dict)


def rules_of(settings: RecoverySettings) -> Rules:
    """Return the rules that a host's settings give. It may be re-imaged when template and drive are both named."""
    return Rules(
        reimage=settings.template is not None and settings.disk_serial is not None,
        recurrence=settings.same_part,
        host_recurrence=settings.same_host,
        window_s=settings.window_h * 3600.0,
        drain_s=float(settings.drain_s),
        depth=settings.verify,
        depths=dict(settings.depths),
        deadlines={rung: float(seconds) for rung, seconds in settings.deadlines_s.items()},
    )
