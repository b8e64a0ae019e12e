"""Sustained load: did speed change between the first and the last minutes, and were the GPUs' clocks the reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from metalserve.benching.results import percentile_of
from metalserve.benching.statistics import BLOCK_S, Change, change, mean
from metalserve.catalogue.clock_reasons import reason_named

NOTABLE: Final = 2.0
"""Percent below which a drift is not worth words, however sure it is (guessed)."""
_CLOCK: Final = 1.0
"""Percent of the SM clock that counts as lower (guessed: one step of an H100's clock is 15 of 1980 MHz, 0.8 %)."""


def drift(
    step: Mapping[str, Any], telemetry: Sequence[Mapping[str, Any]], edge_s: float | None = None
) -> dict[str, Any]:
    """Return how the last part of a long step differs from its first.

    Args:
        step: one step with `buckets` and `samples`.
        telemetry: samples of the nodes, on the same time axis.
        edge_s: seconds of each part; None: five minutes, at most a quarter of the window.
    """
    window = step["duration_s"]
    edge = min(edge_s or 300.0, window / 4)
    first, last = (0.0, edge), (window - edge, window)
    buckets = step["buckets"]
    head, tail = buckets[: round(edge)], buckets[len(buckets) - round(edge) :]
    changes = {"output_tokens_s": change(head, tail, mean, block=BLOCK_S)}
    for key, statistic in (("ttft_ms", 95), ("tpot_ms", 50)):
        parts = [_within(step["samples"], key, *part) for part in (first, last)]
        changes[f"{key}_p{statistic}"] = change(parts[0], parts[1], percentile_of(statistic), rounds=500)
    gpus = _gpus(telemetry, step["from_s"], edge, window)
    told = {key: found.as_dict() if found else None for key, found in changes.items()}
    return {"edge_s": round(edge, 1), "changes": told, "gpus": gpus, "says": _words(changes["output_tokens_s"], gpus)}


def _within(samples: Mapping[str, Any], key: str, began: float, ended: float) -> list[float]:
    return [
        value
        for due, value in zip(samples["due_s"], samples[key], strict=True)
        if value is not None and began <= due < ended
    ]


def _gpus(telemetry: Sequence[Mapping[str, Any]], start: float, edge: float, window: float) -> list[dict[str, Any]]:
    """Return what each GPU did in the first and the last part; none without telemetry of both."""
    parts: dict[tuple[str, int], tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]] = {}
    for row in telemetry:
        at = row["t_s"] - start
        place = 0 if 0 <= at < edge else 1 if window - edge <= at < window else None
        if place is None:
            continue
        for gpu in row["gpus"]:
            parts.setdefault((row["node"], gpu["index"]), ([], []))[place].append(gpu)
    return [
        {"node": node, "index": index, "first": _part(first), "last": _part(last)}
        for (node, index), (first, last) in sorted(parts.items())
        if first and last
    ]


def _part(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    reasons = Counter(name for sample in samples for name in sample["held"] or () if name != "gpu_idle")
    told = {}
    for key in ("temperature_c", "power_w", "sm_mhz"):
        values = [sample[key] for sample in samples if sample[key] is not None]
        told[key] = round(mean(values), 1) if values else None
    return {**told, "held": {name: round(count / len(samples), 3) for name, count in reasons.most_common()}}


def _words(throughput: Change | None, gpus: Sequence[Mapping[str, Any]]) -> list[str]:
    if throughput is None:
        return ["too short to say whether the throughput drifted"]
    percent = f"{throughput.percent:+.1f} % (95 % interval {throughput.low:+.1f} to {throughput.high:+.1f})"
    if throughput.verdict == "cannot tell":
        said = [f"the throughput did not drift measurably: {percent}"]
    elif abs(throughput.percent) < NOTABLE:
        said = [f"the throughput drifted by less than {NOTABLE:g} %: {percent}"]
    else:
        said = [f"the throughput in the last minutes is {throughput.verdict} than in the first: {percent}"]
    if not gpus:
        return [*said, "the GPUs were not watched: nothing says whether their clocks were held down"]
    return [*said, *_clocks(throughput.verdict == "lower" and throughput.percent <= -NOTABLE, gpus)]


def _clocks(slower: bool, gpus: Sequence[Mapping[str, Any]]) -> list[str]:
    said = []
    for gpu in gpus:
        name = f"{gpu['node']} GPU {gpu['index']}"
        before, after = gpu["first"], gpu["last"]
        bad = {
            reason.words: share
            for key, share in after["held"].items()
            if (reason := reason_named(key)) is not None and reason.kind == "bad"
        }
        clocks = before["sm_mhz"], after["sm_mhz"]
        lower = None not in clocks and clocks[0] and 100 * (clocks[1] / clocks[0] - 1) < -_CLOCK
        figures = f"{_figure(before['temperature_c'])} to {_figure(after['temperature_c'])} C, " \
                  f"{_figure(clocks[0])} to {_figure(clocks[1])} MHz"  # fmt: skip
        if bad:
            words, share = max(bad.items(), key=lambda item: item[1])
            said.append(f"{name}: {words} in {100 * share:.0f} % of the last samples; {figures}")
        elif lower:
            capped = after["held"].get("sw_power_cap", 0.0) > before["held"].get("sw_power_cap", 0.0)
            why = ", more often at its power limit" if capped else ""
            said.append(f"{name}: its clock went down{why}; {figures}")
    if said:
        return said
    if slower:
        return ["no GPU's clock went down and none was slowed by heat or power brake: the reason lies elsewhere"]
    return ["no GPU was slowed by heat or power brake"]


def _figure(value: float | None) -> str:
    return "?" if value is None else f"{value:.0f}"
