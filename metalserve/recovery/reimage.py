"""Writing a host's system anew: what its order, if there is one, allows to be done next. Pure.

An order is carried out once. What nobody knows the end of is never begun again: the order says how far it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from metalserve.recovery.values import Attempt
from metalserve.templates.machine_identity import Identity, difference
from metalserve.templates.order import Order

Move = Literal["place", "go-on", "wait", "installed", "refuse"]
"""`place` a new order; `go-on`: boot the host for the order that waits; `wait` for the end of one that is carried out;
`installed`: it is done, nothing is written again; `refuse`."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What shall be written where.

    Attributes:
        identity: the machine, as the settings of its BMC name it.
        template: name of the template.
        disk: serial number of the system's drive.
    """

    identity: Identity
    template: str
    disk: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What may be done, and why."""

    move: Move
    words: str = ""


def decide(order: Order | None, wanted: Wanted, since: float, now: datetime) -> Decision:
    """Return what may be done.

    Args:
        order: the node's order, whatever became of it.
        wanted: what this recovery wants.
        since: seconds since the epoch: an order from then on is this recovery's own (`begun_at`).
        now: the time.
    """
    if order is None:
        return Decision("place")
    own = order.ordered_at >= datetime.fromtimestamp(int(since), UTC)  # orders know whole seconds
    if order.state == "ordered":
        if not order.waits(now):
            return Decision("place")
        if other := _other(order, wanted):
            return Decision("refuse", f"another order waits ({other}): withdraw it with `metalserve template order`")
        return Decision("go-on", f"order {order.number} waits already")
    if order.state == "permitted":
        if own and not _other(order, wanted):
            return Decision("wait", f"order {order.number} is being carried out")
        at = order.permitted_at or order.ordered_at
        return Decision(
            "refuse",
            f"order {order.number} was permitted at {at:%Y-%m-%d %H:%M} UTC and has no result, so nobody knows what "
            "the disk holds: look at the console, then order by hand (`metalserve template order place`, --replace)",
        )
    if own and order.state == "done" and not _other(order, wanted):
        return Decision("installed", f"order {order.number} is done")
    return Decision("place")


def begun_at(host: str, attempts: list[Attempt], now: float) -> float:
    """Return since when orders are this recovery's own: the first installation of it whose end is not known.

    Args:
        host: its name.
        attempts: all attempts that are remembered.
        now: seconds since the epoch; the answer when there is none.
    """
    steps = [step for attempt in attempts if attempt.host == host and attempt.ended is None for step in attempt.steps]
    unknown = [s.begun for s in steps if s.step.rung == "reimage" and s.outcome in (None, "unknown")]
    return min(unknown, default=now)


def _other(order: Order, wanted: Wanted) -> str:
    """Say in what an order is for something else; "" when it is for the same."""
    if order.template != wanted.template:
        return f"template {order.template}, not {wanted.template}"
    if order.disk.serial != wanted.disk:
        return f"disk {order.disk.serial}, not {wanted.disk}"
    return difference(order.identity, wanted.identity) or ""
