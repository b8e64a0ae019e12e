"""What a walk of steps asks of the seam, one move after the other, and what it is told of those before."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from metalserve.desired.diff import Change
from metalserve.desired.model import Reboot


@dataclass(frozen=True)
class Act:
    """Carry out `changes` in one script, the record first; then reboot if that is asked for.

    Attributes:
        step: shown to people.
        key: what is counted in `Trace.acted`.
        anew: what was done before this move is no longer to be counted (another direction, another boot).
    """

    step: str
    changes: tuple[Change, ...]
    key: str = ""
    reboot: Reboot | None = None
    anew: bool = False


@dataclass(frozen=True, slots=True)
class Pause:
    """Look again after `seconds`: the checks may still become good."""

    seconds: float
    words: str


@dataclass(frozen=True, slots=True)
class End:
    """Nothing more to do: `proofs` go into the host's report, `warnings` too.

    Attributes:
        failed: why the host is not where it was to go, though it stands on firm ground; it fails in the report.
        remedy: what to do then.
    """

    proofs: dict[str, str]
    warnings: tuple[str, ...] = ()
    failed: str = ""
    remedy: str = ""


Move = Act | Pause | End


@dataclass
class Trace:
    """What this run has done so far on one host.

    Attributes:
        controller: who runs it, for the record.
        acted: how often each part of a step was carried out since the last change of direction or boot.
        paused_s: seconds of real time since the first of the pauses in a row.
        resumed: the record that was found has been taken up by this run.
        reboots: how often this run rebooted the host.
    """

    controller: str
    acted: Counter[str] = field(default_factory=Counter)
    paused_s: float = 0.0
    resumed: bool = False
    reboots: int = 0
