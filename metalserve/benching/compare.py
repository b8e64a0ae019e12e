"""Compares results: two files step by step, or the interleaved blocks of one A/B run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from metalserve.benching.results import percentile_of
from metalserve.benching.statistics import BLOCK_S, Change, change, mean, paired_change
from metalserve.errors import MetalserveError

FIGURES: Final = (
    ("output_tokens_s", "output tokens/s", True),
    ("ttft_ms.p50", "time to first token, median", False),
    ("ttft_ms.p95", "time to first token, p95", False),
    ("tpot_ms.p50", "time per token, median", False),
    ("tpot_ms.p95", "time per token, p95", False),
    ("e2e_ms.p95", "whole answer, p95", False),
)
"""Figure -> words -> whether more is better."""
_ROUNDS: Final = 500
_MOST: Final = 1000
"""Resamples of latencies, and how many values are taken of each side at most: more would only make it slow."""


def compare_steps(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the changes from a to b, for each load that both results have.

    Raises:
        MetalserveError: they have no load in common, or were made with different workloads.
    """
    if a["workload"]["shape"] != b["workload"]["shape"]:
        raise MetalserveError(
            f"one is of {a['workload']['name']}, the other of {b['workload']['name']}, or their lengths differ",
            where="bench compare", remedy="run both with the same workload",
        )  # fmt: skip
    ours = {(step["mode"], step["load"]): step for step in a["steps"]}
    found = []
    for other in b["steps"]:
        step = ours.get((other["mode"], other["load"]))
        if step is not None:
            changes = {key: _step_change(step, other, key) for key, _, _ in FIGURES}
            found.append({"mode": other["mode"], "load": other["load"], "changes": _told(changes)})
    if not found:
        raise MetalserveError("the two results have no load in common", where="bench compare")
    return found


def _told(changes: Mapping[str, Change | None]) -> dict[str, Any]:
    return {key: found.as_dict() if found else None for key, found in changes.items()}


def _step_change(a: Mapping[str, Any], b: Mapping[str, Any], figure: str) -> Change | None:
    if figure == "output_tokens_s":
        return change(a["buckets"], b["buckets"], mean, block=BLOCK_S)
    key, _, point = figure.partition(".")
    values = [[value for value in step["samples"][key] if value is not None] for step in (a, b)]
    values = [each[:: len(each) // _MOST + 1] for each in values]
    return change(values[0], values[1], percentile_of(int(point[1:])), rounds=_ROUNDS)


def compare_blocks(blocks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the changes from A to B over the blocks of an interleaved run, pair by pair.

    Args:
        blocks: steps in the order they ran, each with `side`; `A B B A ...`, so that what drifts steadily cancels.
    """
    sides: dict[str, list[Mapping[str, Any]]] = {"A": [], "B": []}
    for block in blocks:
        sides[block["side"]].append(block)
    pairs = list(zip(sides["A"], sides["B"], strict=False))
    changes = {}
    for key, _, _ in FIGURES:
        values = [(x, y) for a, b in pairs if (x := figure(a, key)) is not None and (y := figure(b, key)) is not None]
        changes[key] = paired_change([x for x, _ in values], [y for _, y in values])
    return {"pairs": len(pairs), "changes": _told(changes)}


def figure(step: Mapping[str, Any], key: str) -> float | None:
    """Return a figure of a step, None where it has none."""
    name, _, point = key.partition(".")
    value: Any = step[name]
    found: float | None = value[point] if point and value is not None else value
    return found


def words(changes: Mapping[str, Any]) -> list[str]:
    """Return a line a figure: from, to, change with interval, and what that means."""
    lines = []
    for key, name, more_is_better in FIGURES:
        told = changes.get(key)
        if told is None:
            lines.append(f"{name}: too few values to say")
            continue
        better = "better" if (told["verdict"] == "higher") == more_is_better else "worse"
        verdict = "cannot tell" if told["verdict"] == "cannot tell" else f"B is {better}"
        lines.append(
            f"{name}: {told['a']:.4g} -> {told['b']:.4g}, {told['percent']:+.1f} % "
            f"({told['low']:+.1f} to {told['high']:+.1f}): {verdict}"
        )
    return lines
