"""A recovery as values: what was decided, tried and seen, as it is recorded and shown. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Outcome = Literal["done", "failed", "unknown", "refused"]
"""How a step ended: `unknown` when nobody knows whether it took effect (connection lost, controller killed)."""

Proof = Literal["good", "bad", "unknown"]
"""What was seen of the host after a step; `unknown` is never taken for good."""

Result = Literal["recovered", "quarantined", "stopped"]
"""How an attempt ended: `stopped` when a limit, a mark or a person forbade going on."""

MarkKind = Literal["maintenance", "do-not-touch", "quarantine"]
"""`maintenance` and `quarantine`: kept out of service and left alone; `do-not-touch`: left alone, whatever is asked."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A part of a host that is blamed.

    Attributes:
        kind: "gpu", "drive", "fabric", "host" or "engine".
        name: PCI address, engine, drive: as the evidence calls it.
        serial: serial number where it is known: a GPU that moves to another slot or host keeps it.
    """

    kind: str
    name: str
    serial: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the ladder, decided but not yet made.

    Attributes:
        rung: a name of the catalogue's rungs.
        subjects: what it is done to; empty for the whole host.
        reason: why this step now, in words.
        deadline_s: seconds of real time after which it counts as failed.
        boot: the boot in which it was decided (`Looked.boot`): who takes over from a dead controller proves by it.
    """

    rung: str
    subjects: tuple[Subject, ...]
    reason: str
    deadline_s: float
    boot: str = ""


@dataclass(frozen=True, slots=True)
class StepRecord:
    """A step as it is written down: before it is made, and again when it has ended.

    Attributes:
        id: its number in the store.
        attempt: number of the attempt that it belongs to.
        step: what was decided.
        begun: seconds since the epoch.
        ended: seconds since the epoch; `None` while it is in flight (or was when the controller died).
        outcome: how it ended.
        proof: what was seen afterwards.
        words: what was seen, for people.
    """

    id: int
    attempt: int
    step: Step
    begun: float
    ended: float | None = None
    outcome: Outcome | None = None
    proof: Proof | None = None
    words: str = ""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One recovery of one host.

    Attributes:
        id: its number in the store.
        host: the host's name.
        group: the inventory group that limits count by.
        actor: who began it: user@controller pid N.
        causes: ids of the verdict's causes that count, the first one first.
        subjects: parts that are blamed.
        rung: the rung that the verdict named.
        evidence: path of the bundle that was kept before the first step; empty when there is none.
        begun: seconds since the epoch.
        ended: seconds since the epoch; `None` while it goes on.
        result: how it ended.
        words: why it ended so, for people.
        steps: in order.
    """

    id: int
    host: str
    group: str
    actor: str
    causes: tuple[str, ...]
    subjects: tuple[Subject, ...]
    rung: str
    evidence: str
    begun: float
    ended: float | None = None
    result: Result | None = None
    words: str = ""
    steps: tuple[StepRecord, ...] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True)
class Mark:
    """What a person (or the ladder's end) says of a host.

    Attributes:
        host: the host's name.
        kind: see `MarkKind`.
        by: who set it.
        why: in words.
        at: seconds since the epoch.
        until: seconds since the epoch; `None`: until it is taken away.
    """

    host: str
    kind: MarkKind
    by: str
    why: str
    at: float
    until: float | None = None


@dataclass(frozen=True, slots=True)
class Sighting:
    """A host was seen unhealthy: what the breaker counts.

    Attributes:
        host: the host's name.
        at: seconds since the epoch.
        causes: ids of the causes.
        factors: what it may share with others: kind ("release", "driver", "rack", "switch", "xid", "model") -> value.
    """

    host: str
    at: float
    causes: tuple[str, ...]
    factors: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BreakerState:
    """The fleet-wide breaker, as it is stored.

    Attributes:
        open: no new recovery begins while it is.
        since: seconds since the epoch when it opened; 0 when closed.
        why: counts and the common factor, in words.
        hosts: unique hosts that opened it.
        closed_by: who closed it last; sightings from before `closed_at` do not count again.
        closed_at: seconds since the epoch.
    """

    open: bool = False
    since: float = 0.0
    why: str = ""
    hosts: tuple[str, ...] = ()
    closed_by: str = ""
    closed_at: float = 0.0
