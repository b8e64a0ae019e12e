"""Load hour by hour, and how many nodes it needs on: a fleet is not one utilisation figure. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

HOURS: Final = 730.0
"""Hours of a month: 8,760 / 12."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """How a fleet that is paid by the hour follows its load.

    Attributes:
        fill: share of a node's capacity at which a further one is on.
        min_nodes: nodes that stay on.
        boot_hours: hours that a started node is paid before it serves.
    """

    fill: float
    min_nodes: float
    boot_hours: float


def clipped(hours: Sequence[float], level: float) -> tuple[float, ...]:
    """Return the profile at another level: each hour at most the whole capacity."""
    return tuple(min(1.0, share * level) for share in hours)


def mean(hours: Sequence[float]) -> float:
    """Return the mean load, 0 to 1: the utilisation that people speak of."""
    return sum(hours) / len(hours)


def most(hours: Sequence[float]) -> float:
    """Return the highest mean that this shape can reach: hours without load stay so."""
    return sum(share > 0 for share in hours) / len(hours)


def level_for(hours: Sequence[float], wanted: float) -> float:
    """Return the level at which the clipped profile has the mean `wanted`, which `most` limits.

    The mean grows in straight lines between the levels where another hour reaches the whole capacity; so it is exact.
    """
    shares = sorted((share for share in hours if share > 0), reverse=True)
    if not shares or wanted <= 0:
        return 0.0
    rest = sum(shares)
    target = min(wanted, len(shares) / len(hours)) * len(hours)
    for full, share in enumerate(shares):  # `full` hours are at capacity, the others follow the level
        level = (target - full) / rest
        if level * share <= 1 + 1e-12:
            return level
        rest -= share
    return 1 / shares[-1]


def nodes_on(hours: Sequence[float], nodes: int, scaling: Scaling) -> tuple[int, ...]:
    """Return how many nodes are on in each hour: whole nodes, never more than the fleet has."""
    least = min(nodes, math.ceil(scaling.min_nodes - 1e-9))
    return tuple(min(nodes, max(least, math.ceil(share * nodes / scaling.fill - 1e-9))) for share in hours)


def node_hours(hours: Sequence[float], nodes: int, scaling: Scaling) -> float:
    """Return the node hours that are paid in a month when idle nodes are given back.

    What is started at an hour's change is paid `boot_hours` longer; the profile goes round.
    """
    on = nodes_on(hours, nodes, scaling)
    started = sum(max(0, now - before) for before, now in zip((on[-1], *on[:-1]), on, strict=True))
    return HOURS * (sum(on) + started * scaling.boot_hours) / len(on)
