"""Time of a token, time to the first, tokens a second: a roofline of five fitted parameters. Seconds inside; pure.

A decoding step takes: weights / bandwidth + KV cache read / bandwidth + half the operations of its tokens (the other
half hides behind the reading) + two all-reduces a layer + a fixed time a layer + a fixed time a step; and each answer
token carries its share of the prompts that are computed between. The form was found best by comparing with 225 points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from metalserve.catalogue.loader import load_roofline, load_speeds
from metalserve.catalogue.models import GpuSpec
from metalserve.catalogue.speeds import Compute, Parameters
from metalserve.planning.allreduce import Curve
from metalserve.planning.model import ModelConfig
from metalserve.planning.work import Split, Work
from metalserve.planning.workload import Workload

FAST_FP8_ATTENTION = ("Blackwell",)
"""Architectures whose attention kernels read an FP8 KV cache twice as fast as a 16-bit one. On Hopper the time follows
the elements and not the bytes: the fit on H100 runs with an FP8 cache reads it at 0.37 of the memory bandwidth."""

HOP_US = 50.0
"""One transfer of activations between pipeline stages with its wake-up, microseconds (guessed)."""


@dataclass(frozen=True)
class Range:
    """A value and what it may be."""

    low: float
    value: float
    high: float

    def holds(self, measured: float) -> bool:
        """Tell whether a measured value lies within."""
        return self.low <= measured <= self.high

    def as_dict(self, digits: int = 1) -> dict[str, float]:
        """Return it for JSON."""
        return {
            "low": round(self.low, digits),
            "value": round(self.value, digits),
            "high": round(self.high, digits),
        }


@dataclass(frozen=True)
class Terms:
    """Where the time of one answer token goes, seconds."""

    weights: float
    kv: float
    compute: float
    prefill: float
    all_reduce: float
    fixed: float
    bubble: float

    @property
    def total(self) -> float:
        """Seconds a token."""
        return self.weights + self.kv + self.compute + self.prefill + self.all_reduce + self.fixed + self.bubble

    @property
    def limited_by(self) -> str:
        """What takes most of it, in words."""
        parts = {
            "memory bandwidth": self.weights + self.kv,
            "compute": self.compute + self.prefill,
            "all-reduce": self.all_reduce,
            "pipeline bubble": self.bubble,
            "fixed time a step": self.fixed,
        }
        return max(parts, key=lambda name: parts[name])


@dataclass(frozen=True)
class Estimate:
    """What one engine does with `running` requests at once (`asked` of it, as many as its KV cache holds).

    Attributes:
        tpot: seconds a token, as it is expected, in terms.
        tpot_ms: the same with its error, milliseconds.
        ttft_ms: time to the first token: without a queue, and under a full closed loop.
        tokens_s: answer tokens a second of this engine.
    """

    asked: float
    running: float
    tpot: Terms
    tpot_ms: Range
    ttft_ms: tuple[float, float]
    tokens_s: Range

    def as_dict(self) -> dict[str, object]:
        """Return it for JSON (docs/plan-schema.md)."""
        return {
            "concurrency": round(self.running),
            "tpot_ms": self.tpot_ms.as_dict(),
            "ttft_ms": {"unloaded": round(self.ttft_ms[0]), "saturated": round(self.ttft_ms[1])},
            "tokens_per_s": self.tokens_s.as_dict(0),
            "limited_by": self.tpot.limited_by,
            "tpot_ms_parts": {
                name: round(getattr(self.tpot, name) * 1e3, 2)
                for name in ("weights", "kv", "compute", "prefill", "all_reduce", "fixed", "bubble")
            },
        }


class Speed:
    """The speed of one engine: a model under a split on GPUs of one kind.

    Args:
        model: the model.
        split: how it lies over the GPUs.
        spec: the GPU's row; its memory bandwidth must be known.
        compute: its tensor cores.
        curve: the all-reduce inside a tensor-parallel group; None without one.
        kv_tokens: tokens that the engine's KV cache holds; more requests than fit wait.
        batched: tokens that a prefill step takes.
        most_at_once: requests that a rank takes at once, --max-num-seqs.
        kv_element_bytes: bytes of an element of the KV cache.
        expert_curve: the all-reduce over all ranks that share experts; None without expert parallel.
        parameters: of the roofline; the catalogue's when None.
    """

    def __init__(
        self,
        model: ModelConfig,
        split: Split,
        spec: GpuSpec,
        compute: Compute,
        curve: Curve | None,
        *,
        kv_tokens: float = math.inf,
        batched: int = 8192,
        most_at_once: int = 256,
        kv_element_bytes: float = 2,
        expert_curve: Curve | None = None,
        parameters: Parameters | None = None,
    ) -> None:
        self.model, self.split, self.spec, self.curve, self.expert_curve = model, split, spec, curve, expert_curve
        fast = spec.architecture in FAST_FP8_ATTENTION and spec.capability[0] == 10
        # what attention reads, as time: an element counts two bytes where its size makes no difference
        self.work = Work(model, split, kv_element_bytes if fast else max(2.0, kv_element_bytes))
        self.rate = self.work.rate(compute)
        self.plain_rate = compute.bf16 * 1e12
        self.bandwidth = (spec.memory.bandwidth_gb_s or 0) * 1e9
        self.kv_tokens, self.batched, self.most_at_once = kv_tokens, batched, most_at_once
        self.parameters = parameters or load_roofline().parameters

    def _exchange(self, tokens: float) -> float:
        """Return the seconds of all exchanges between GPUs in a step with `tokens` on each rank."""
        model = self.model
        size = tokens * model.hidden * 2
        each = self.curve.seconds(size) if self.curve else 0.0
        if not self.expert_curve or not model.experts:
            return 2 * model.layers * each
        # gathering the tokens of all ranks and scattering the sums back moves what an all-reduce of them moves
        shared = self.expert_curve.seconds(size * self.split.data)
        return (2 * model.layers - model.experts.layers) * each + model.experts.layers * shared

    def prefill_seconds(self, prompt: float) -> tuple[float, float]:
        """Return the seconds (computing, exchanging) of one prompt through all stages."""
        fitted = self.parameters
        computing = 2 * self.work.active_params * prompt / (self.split.tensor * self.rate * fitted.compute)
        computing += self.work.attention_flops(prompt) / (self.split.tensor * self.plain_rate * fitted.compute)
        chunk = min(self.batched, prompt)
        return computing, self._exchange(chunk) * prompt / chunk

    def decode_terms(self, running: float, workload: Workload) -> Terms:
        """Return where the time of a token goes with `running` requests in the engine."""
        fitted, split, layers = self.parameters, self.split, self.model.layers
        rank = running / split.data
        batch = max(1.0, rank / split.pipeline)  # each stage has its share of the requests at a time
        computing, exchanging = self.prefill_seconds(workload.prompt)
        share = rank / workload.answer / split.pipeline  # stages work on different prompts at once
        uneven = self.work.slowest_stage
        hops = (split.pipeline - 1) * (HOP_US * 1e-6)
        waiting = 0.0
        if split.pipeline > 1:
            # a prompt holds up the other stages' batches: the textbook bubble, (stages - 1) / batches in flight
            in_flight = max(1.0, min(split.pipeline, rank))
            waiting = hops + (split.pipeline - 1) / in_flight * share * (computing + exchanging)
        return Terms(
            weights=uneven * self.work.weight_bytes(batch) / (self.bandwidth * fitted.weights),
            kv=uneven * batch * self.work.kv_bytes(workload.context) / (self.bandwidth * fitted.kv),
            compute=uneven * self.work.active_params * batch / (split.tensor * self.rate * fitted.compute),
            prefill=share * computing,
            all_reduce=self._exchange(batch) + share * exchanging,
            fixed=layers * fitted.layer_us * 1e-6 + fitted.step_ms * 1e-3,
            bubble=waiting,
        )

    def error(self) -> float:
        """Return the half width of the stated range of the time a token, as a share of it."""
        errors = load_roofline().tpot_error
        known = [errors["fitted" if self.spec.architecture == "Hopper" else "dense"]]
        if self.model.is_moe or self.model.rough:
            known.append(errors["mixture"])
        if self.split.pipeline > 1:
            known.append(errors["pipeline"])
        if any(curve is not None and not curve.sure for curve in (self.curve, self.expert_curve)):
            known.append(errors["unmeasured_links"])
        return max(known)

    def estimate(self, asked: float, workload: Workload) -> Estimate:
        """Return what the engine does when `asked` requests are kept in it at all times."""
        facts = load_roofline()
        room = self.kv_tokens / max(1.0, workload.context)
        running = max(1.0, min(asked, room, self.most_at_once * self.split.data))
        terms = self.decode_terms(running, workload)
        computing, exchanging = self.prefill_seconds(workload.prompt)
        alone = self.decode_terms(1, workload).total
        unloaded = computing + exchanging + alone + facts.request_ms * 1e-3
        saturated = unloaded * (1 + facts.ttft_queue * math.log2(max(1.0, running)))
        answer = saturated + (workload.answer - 1) * terms.total
        tokens = running * workload.answer / answer
        error, more = self.error(), facts.throughput_error_extra
        tpot = terms.total * 1e3
        return Estimate(
            asked=asked,
            running=running,
            tpot=terms,
            tpot_ms=Range(tpot * (1 - error), tpot, tpot * (1 + error)),
            ttft_ms=(unloaded * 1e3, saturated * 1e3),
            tokens_s=Range(tokens / (1 + error + more), tokens, tokens / (1 - error) * (1 + more)),
        )


def compute_of(spec: GpuSpec | None) -> Compute | None:
    """Return the tensor cores of a GPU, or None when the catalogue does not know them or its memory bandwidth."""
    if spec is None or not spec.memory.bandwidth_gb_s:
        return None
    return load_speeds().compute.get(spec.id)
