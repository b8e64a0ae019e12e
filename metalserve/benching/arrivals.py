"""When requests of an open loop are sent: gaps drawn before the run, whatever the engine does."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Literal

Arrivals = Literal["constant", "poisson", "bursty"]


def gaps(rate: float, kind: Arrivals, *, cv: float = 4.0, seed: int = 0) -> Iterator[float]:
    """Yield the seconds between requests without end; their mean is 1 / `rate`.

    Args:
        rate: requests a second.
        kind: equal gaps; exponential ones (Poisson); or gamma-distributed ones, which come in bursts.
        cv: standard deviation of the bursty gaps over their mean, above 1 (vLLM's bench calls 1/cv² burstiness).
        seed: same seed, same gaps.
    """
    rng = random.Random(seed)  # noqa: S311 (no secret)
    shape = 1 / (cv * cv)
    while True:
        if kind == "constant":
            yield 1 / rate
        elif kind == "poisson":
            yield rng.expovariate(rate)
        else:
            yield rng.gammavariate(shape, 1 / (rate * shape))
