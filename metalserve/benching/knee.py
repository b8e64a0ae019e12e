"""Where more load stops to pay: the knee of throughput over concurrency, and the last step that keeps its promises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Final

GAIN: Final = 0.2
"""Share of the first step's throughput a client that another client must still add (guessed; an option)."""
SOURCE: Final = (
    "saturation point N* = X_max / X_1 of closed systems, asymptotic bounds: Lazowska, Zahorjan, Graham, Sevcik, "
    "Quantitative System Performance (1984), chapter 5"
)


@dataclass(frozen=True)
class Knee:
    """What the steps say.

    Attributes:
        load: of the last step before more load added less than `gain` of the first step's throughput a client, or
            (open loop) at which what was offered was still served; None when not even the first is known.
        reached: a step beyond it was measured; without one the knee may lie higher.
        saturation: N*, clients at which the two asymptotes meet; closed loop only, and only beyond the knee.
        peak_output_tokens_s: the highest that was measured.
        within: load of the last step that kept the objectives, None when none did or none were given.
        why: in words.
    """

    load: float | None
    reached: bool
    saturation: float | None
    peak_output_tokens_s: float | None
    within: float | None
    why: str
    gain: float = GAIN
    source: str = SOURCE

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)


def find_knee(
    steps: Sequence[Mapping[str, Any]],
    *,
    gain: float = GAIN,
    ttft_ms: float | None = None,
    tpot_ms: float | None = None,
) -> Knee:
    """Return the knee of steps, each with `mode`, `load` and its summary.

    Args:
        steps: by rising load.
        gain: see `GAIN`.
        ttft_ms: objective for the 95th percentile of the time to the first token, ms.
        tpot_ms: likewise for the time a token.
    """
    usable = [step for step in steps if step["completed"] and step["load"]]
    if not usable:
        return Knee(None, False, None, None, None, "no step has a whole answer", gain)
    peak = max(step["output_tokens_s"] for step in usable)
    kept = [step["load"] for step in usable if _keeps(step, ttft_ms, tpot_ms)]
    within = max(kept, default=None) if ttft_ms or tpot_ms else None
    if usable[0]["mode"] == "open":
        load, reached, why = _open(usable)
        return Knee(load, reached, None, peak, within, why, gain)
    load, reached, why = _closed(usable, gain)
    first = usable[0]
    alone = first["output_tokens_s"] / first["load"]
    saturation = peak / alone if alone and reached else None
    return Knee(load, reached, round(saturation, 3) if saturation else None, peak, within, why, gain)


def _keeps(step: Mapping[str, Any], ttft_ms: float | None, tpot_ms: float | None) -> bool:
    pairs = ((ttft_ms, step["ttft_ms"]), (tpot_ms, step["tpot_ms"]))
    return not step["failed"] and all(limit is None or (told and told["p95"] <= limit) for limit, told in pairs)


def _closed(steps: Sequence[Mapping[str, Any]], gain: float) -> tuple[float, bool, str]:
    alone = steps[0]["output_tokens_s"] / steps[0]["load"]
    for before, after in pairwise(steps):
        added = (after["output_tokens_s"] - before["output_tokens_s"]) / (after["load"] - before["load"])
        if added < gain * alone:
            share = 100 * added / alone if alone else 0.0
            between = f"from {before['load']:g} to {after['load']:g} clients each one more"
            if round(added, 1) <= 0:
                lost = f", but cost {-added:.1f} tokens/s" if round(added, 1) < 0 else ""
                return before["load"], True, f"{between} added nothing{lost}"
            return before["load"], True, f"{between} added {added:.1f} tokens/s, {share:.0f} % of what the first gave"
    return steps[-1]["load"], False, "every step still paid: the knee lies higher than what was tried"


def _open(steps: Sequence[Mapping[str, Any]]) -> tuple[float | None, bool, str]:
    served = None
    for step in steps:
        if step["requests_s"] < 0.95 * step["requests"] / step["duration_s"]:
            words = f"of {step['load']:g} requests/s offered {step['requests_s']:.2f} were served"
            return served, True, words
        served = step["load"]
    return served, False, "every rate that was tried was served"
