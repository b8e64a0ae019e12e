"""What a node does: measured by a benchmark, or the planner's range. Values in, values out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from metalserve.economics.assumptions import Assumption
from metalserve.errors import MetalserveError

OUTPUT, INPUT_PER_OUTPUT = "throughput.output_tok_s", "throughput.input_per_output"
CACHED_SHARE, PREFILL_SHARE, GPU_W = "throughput.cached_share", "allocation.prefill_share", "power.gpu_w"

FIGURES: Final[Mapping[str, Assumption]] = {
    name: Assumption(name, label, 0.0, unit, "unknown", "", least=0.0, most=most)
    for name, label, unit, most in (
        (OUTPUT, "answer tokens a second of a node", "tok/s", None),
        (INPUT_PER_OUTPUT, "prompt tokens for an answer token", "ratio", None),
        (CACHED_SHARE, "prompt tokens out of the prefix cache", "share", 1.0),
        (PREFILL_SHARE, "share of the time that prompts take", "share", 1.0),
        (GPU_W, "draw of a GPU under load", "W/GPU", None),
    )
}
"""What is measured or planned, still without a value."""


@dataclass(frozen=True, slots=True)
class Throughput:
    """One node's rate at the load that keeps the latency objective.

    Attributes:
        output: answer tokens a second of the whole node; `low` and `high` what it may be.
        input_per_output: prompt tokens for each answer token, cached ones too.
        cached_share: share of the prompt tokens that came out of the prefix cache; None: not measured.
        prefill_share: share of the engine's time that prompts take; None: not measured.
        gpu_w: mean draw of a GPU meanwhile, watts; None: not measured.
        lengths: mean tokens of a prompt and an answer; None: not known.
        share_source: where `prefill_share` is from, when it is planned and the rest was measured.
        basis: measured, planned or given.
        source: the file or plan, in words.
        simulated: an engine or GPU of it was a stand-in.
    """

    output: float
    low: float
    high: float
    input_per_output: float
    basis: str
    source: str
    cached_share: float | None = None
    prefill_share: float | None = None
    gpu_w: float | None = None
    lengths: tuple[int, int] | None = None
    share_source: str = ""
    simulated: bool = False

    def assumptions(self) -> list[Assumption]:
        """Return the figures that a case takes from it; what was not measured stays out."""
        rows = [self._row(OUTPUT, self.output), self._row(INPUT_PER_OUTPUT, self.input_per_output)]
        known = {CACHED_SHARE: self.cached_share, PREFILL_SHARE: self.prefill_share, GPU_W: self.gpu_w}
        rows += [self._row(name, value) for name, value in known.items() if value is not None]
        return rows

    def _row(self, name: str, value: float) -> Assumption:
        basis, source = self.basis, self.source
        if name == PREFILL_SHARE and self.share_source:
            basis, source = "planned", self.share_source
        return replace(FIGURES[name], value=value, basis=basis, source=source)


def with_planned_share(measured: Throughput, planned: Throughput, cached_ratio: float) -> Throughput:
    """Return a measured rate with the planner's share of time that prompts take: a benchmark does not see it.

    The planner computes every prompt whole; of cached tokens only `cached_ratio` of the work is left.

    Args:
        measured: of a benchmark.
        planned: for the same model, GPUs and lengths.
        cached_ratio: work of a cached prompt token against one that is not.
    """
    share = planned.prefill_share
    if share is None or measured.prefill_share is not None:
        return measured
    cached = measured.cached_share or 0.0
    left = share * (1 - cached * (1 - cached_ratio))
    words = f"{planned.source}; less what was cached" if cached else planned.source
    return replace(measured, prefill_share=left / (left + 1 - share), share_source=words)


def from_plan(plan: Mapping[str, Any], *, where: str) -> Throughput:
    """Return what `metalserve plan --json` promises of a host.

    The share of prompts is the prefill's part of a token's time; the all-reduces, which both need, are left out of both
    sides. The range is the planner's own.

    Raises:
        MetalserveError: the plan does not fit, or the planner knows no speed for these GPUs.
    """
    if plan.get("fits") is False:
        raise MetalserveError(f"the model does not fit: {plan.get('refused')}", where=where)
    try:
        engines = float(plan["replicas"])
        rate = plan["per_engine"]["tokens_per_s"]
        parts = {name: float(value) for name, value in plan["per_engine"]["tpot_ms_parts"].items()}
        workload = plan["workload"]
        value, low, high = (engines * float(rate[key]) for key in ("value", "low", "high"))
        ratio = float(workload["prompt_tokens"]) / float(workload["answer_tokens"])
        shared = sum(parts.values()) - parts["all_reduce"]
        prefill = parts["prefill"] / shared
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        remedy = "give throughput.output_tok_s in cost.yaml, or a bench file"
        raise MetalserveError(f"the plan says no speed ({error!r})", where=where, remedy=remedy) from error
    if not 0 < low <= value <= high:
        raise MetalserveError("the plan's range of speed makes no sense", where=where)
    words = (
        f"{where}: {plan['replicas']} engine(s) of {plan.get('model', 'the model')} on {plan.get('gpu', 'the host')}, "
        f"prompts of {workload['prompt_tokens']} and answers of {workload['answer_tokens']} tokens"
    )
    return Throughput(
        value,
        low,
        high,
        ratio,
        "planned",
        words,
        prefill_share=prefill,
        simulated=plan.get("simulated") is True,
    )
