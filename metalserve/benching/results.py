"""What became of requests, and what a step of them says: latencies, throughput, errors, within its window alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

PERCENTILES: Final = (50, 90, 95, 99)
KEPT: Final = 4000
"""Requests of a step whose latencies are kept in a result, so that `compare` can resample them."""


@dataclass(slots=True)
class Outcome:
    """One request, by one steady clock, s.

    Attributes:
        due: when it should be sent: latencies count from here, so that a generator or a queue that is late does not
            flatter the engine.
        sent: when it was.
        chunks: when each piece of the answer came.
        prompt_tokens: as the engine counts them, None when it does not say.
        cached_tokens: of those, read from the prefix cache; None when it does not say.
        error: what went wrong, or an empty text.
    """

    due: float
    sent: float
    chunks: list[float] = field(default_factory=list)
    ended: float = 0.0
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    error: str = ""

    @property
    def ok(self) -> bool:
        """A whole answer came."""
        return not self.error and bool(self.chunks)

    @property
    def tokens(self) -> int:
        """Tokens of the answer; pieces where the engine does not say."""
        return self.output_tokens if self.output_tokens is not None else len(self.chunks)

    @property
    def ttft(self) -> float:
        """Seconds to the first token."""
        return self.chunks[0] - self.due

    @property
    def e2e(self) -> float:
        """Seconds to the last token."""
        return self.chunks[-1] - self.due

    @property
    def tpot(self) -> float | None:
        """Seconds a token after the first, None for an answer of one."""
        return (self.chunks[-1] - self.chunks[0]) / (self.tokens - 1) if self.tokens > 1 else None


def percentile(values: Sequence[float], percent: float) -> float:
    """Return a percentile, linear between the two nearest values; `values` must be sorted and not empty."""
    place = (len(values) - 1) * percent / 100
    low = math.floor(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (place - low)


def percentile_of(percent: float) -> Callable[[Sequence[float]], float]:
    """Return what gives a percentile of values in any order, for intervals of its change."""
    return lambda values: percentile(sorted(values), percent)


def spread(values: Iterable[float]) -> dict[str, float] | None:
    """Return mean and percentiles in milliseconds of values in seconds; None without any."""
    found = sorted(values)
    if not found:
        return None
    told = {f"p{p}": round(1000 * percentile(found, p), 3) for p in PERCENTILES}
    return {"mean": round(1000 * sum(found) / len(found), 3), **told}


def summary(outcomes: Sequence[Outcome], began: float, ended: float) -> dict[str, Any]:
    """Return what a step says of the window from `began` to `ended`.

    Latencies: of requests that were due in the window, however long they took. Tokens: those that came in the window,
    whenever their request was sent, so that neither a step's start nor its end changes its rate.
    """
    window = ended - began
    within = [o for o in outcomes if began <= o.due < ended]
    good = [o for o in within if o.ok]
    tokens, buckets = _tokens(outcomes, began, ended)
    read = [o for o in outcomes if o.ok and began <= o.chunks[0] < ended]
    cached = [o.cached_tokens for o in read if o.cached_tokens is not None]
    finished = [o for o in outcomes if o.ok and began <= o.chunks[-1] < ended]
    errors = Counter(o.error for o in within if o.error)
    gaps = [b - a for o in good for a, b in zip(o.chunks, o.chunks[1:], strict=False)]
    lags = sorted(o.sent - o.due for o in within)
    kept = good[:: max(1, math.ceil(len(good) / KEPT))]
    return {
        "duration_s": round(window, 3),
        "requests": len(within),
        "completed": len(good),
        "failed": len(within) - len(good),
        "errors": dict(errors.most_common(10)),
        "input_tokens": sum(o.prompt_tokens or 0 for o in read),
        "output_tokens": round(tokens, 1),
        "cached_tokens": sum(cached) if cached else None,
        "requests_s": round(len(finished) / window, 4),
        "input_tokens_s": round(sum(o.prompt_tokens or 0 for o in read) / window, 3),
        "output_tokens_s": round(tokens / window, 3),
        "ttft_ms": spread(o.ttft for o in good),
        "tpot_ms": spread(t for o in good if (t := o.tpot) is not None),
        "itl_ms": spread(gaps),
        "e2e_ms": spread(o.e2e for o in good),
        "generator_lag_ms": round(1000 * percentile(lags, 99), 3) if lags else None,
        "buckets": buckets,
        "samples": {
            "due_s": [round(o.due - began, 3) for o in kept],
            "ttft_ms": [round(1000 * o.ttft, 3) for o in kept],
            "tpot_ms": [round(1000 * t, 4) if (t := o.tpot) is not None else None for o in kept],
            "e2e_ms": [round(1000 * o.e2e, 3) for o in kept],
        },
    }


def _tokens(outcomes: Sequence[Outcome], began: float, ended: float) -> tuple[float, list[float]]:
    """Return the tokens that came in the window, and the same for each whole second of it."""
    seconds = [0.0] * max(0, math.floor(ended - began))
    total = 0.0
    for outcome in outcomes:
        if not outcome.chunks:
            continue
        each = outcome.tokens / len(outcome.chunks)  # a piece may hold several tokens, which nobody says
        for at in outcome.chunks:
            if began <= at < ended:
                total += each
                second = int(at - began)
                if second < len(seconds):
                    seconds[second] += each
    return total, [round(value, 2) for value in seconds]


def totals(outcomes: Sequence[Outcome]) -> Mapping[str, int]:
    """Return all tokens and requests, warm-up and what ran out after the window included: what engines count too."""
    good = [o for o in outcomes if o.ok]
    return {
        "requests": len(outcomes),
        "completed": len(good),
        "input_tokens": sum(o.prompt_tokens or 0 for o in good),
        "output_tokens": sum(o.tokens for o in good),
    }
