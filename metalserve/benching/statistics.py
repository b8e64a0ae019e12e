"""Intervals for differences: bootstrap by blocks, and paired counts. Pure, same seed same answer."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

ROUNDS: Final = 2000
"""Resamples; the ends of a 95 % interval are then known to a few percent of its width (Efron and Tibshirani 1993)."""
BLOCK_S: Final = 10
"""Seconds of throughput that are drawn together: what runs at one moment runs at the next as well."""

Statistic = Callable[[Sequence[float]], float]


@dataclass(frozen=True)
class Change:
    """A relative change from a to b, percent, with its 95 % interval.

    `verdict`: `higher`, `lower`, or `cannot tell` when the interval holds 0.
    """

    a: float
    b: float
    percent: float
    low: float
    high: float
    verdict: str

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(self).items()}


def mean(values: Sequence[float]) -> float:
    """Return the mean."""
    return sum(values) / len(values)


def blocks(values: Sequence[float], size: int = BLOCK_S) -> list[list[float]]:
    """Cut values into blocks of `size`, but at least four of them where there are four values."""
    size = max(1, min(size, len(values) // 4))
    return [list(values[i : i + size]) for i in range(0, len(values) - size + 1, size)]


def change(
    a: Sequence[float], b: Sequence[float], statistic: Statistic, *, block: int = 1, rounds: int = ROUNDS, seed: int = 0
) -> Change | None:
    """Return how a statistic changed from a to b; None where one of them has too few values to say.

    Args:
        a: values in the order they came.
        b: likewise.
        statistic: of values; of sorted ones where that matters to it.
        block: values that are drawn together, for series.
        rounds: resamples.
        seed: of the resampling.
    """
    if len(a) < 4 or len(b) < 4 or not statistic(a):
        return None
    rng = random.Random(seed)  # noqa: S311 (no secret)
    groups_a, groups_b = blocks(a, block), blocks(b, block)
    found = sorted(
        100 * (statistic(_drawn(rng, groups_b)) / base - 1)
        for _ in range(rounds)
        if (base := statistic(_drawn(rng, groups_a)))
    )
    return _change(statistic(a), statistic(b), found)


def paired_change(a: Sequence[float], b: Sequence[float], *, rounds: int = ROUNDS, seed: int = 0) -> Change | None:
    """Return how the mean changed over pairs, resampled pair by pair: what both of a pair share cancels."""
    if len(a) != len(b) or len(a) < 3 or not mean(a):
        return None
    rng = random.Random(seed)  # noqa: S311 (no secret)
    places = range(len(a))
    found = []
    for _ in range(rounds):
        chosen = rng.choices(places, k=len(a))
        base = sum(a[i] for i in chosen)
        if base:
            found.append(100 * (sum(b[i] for i in chosen) / base - 1))
    return _change(mean(a), mean(b), sorted(found))


def _change(a: float, b: float, found: Sequence[float]) -> Change | None:
    if not found:
        return None
    low, high = found[int(0.025 * (len(found) - 1))], found[math.ceil(0.975 * (len(found) - 1))]
    verdict = "higher" if low > 0 else "lower" if high < 0 else "cannot tell"
    return Change(a, b, 100 * (b / a - 1), low, high, verdict)


def _drawn(rng: random.Random, groups: Sequence[list[float]]) -> list[float]:
    if len(groups[0]) == 1:
        return [value for (value,) in rng.choices(groups, k=len(groups))]
    return [value for group in rng.choices(groups, k=len(groups)) for value in group]


def mcnemar(only_a: int, only_b: int) -> float:
    """Return the exact two-sided p of McNemar's test: the binomial of the pairs that differ (McNemar 1947)."""
    n = only_a + only_b
    if n == 0:
        return 1.0
    ways: int = sum(math.comb(n, k) for k in range(min(only_a, only_b) + 1))
    return min(1.0, float(2 * ways / (1 << n)))


def paired_difference(both: int, only_a: int, only_b: int, neither: int) -> tuple[float, float, float]:
    """Return the difference b - a of two paired proportions and its 95 % interval.

    Half a pair is added to each cell, so that a sample without any difference still has a width (Agresti and Min 2005).
    """
    n = both + only_a + only_b + neither
    gain, loss, total = only_b + 0.5, only_a + 0.5, n + 2.0
    middle = (gain - loss) / total
    error = math.sqrt(max(0.0, gain + loss - (gain - loss) ** 2 / total)) / total
    return (only_b - only_a) / n, middle - 1.96 * error, middle + 1.96 * error
