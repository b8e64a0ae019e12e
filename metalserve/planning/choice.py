"""Which split to take of those that fit: decided by what each does for the workload, with the reasons. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from metalserve.planning.model import ModelConfig
from metalserve.planning.options import Option
from metalserve.planning.speed import Estimate
from metalserve.planning.workload import LATENCY_CONCURRENCY, Intent, Workload

USEFUL_TOKENS = 65_536
"""Where speed is not known: KV tokens that let an engine batch usefully, 32 requests of 2,048 tokens."""

ENOUGH_ALONE = 16_384
"""Where speed is not known: KV tokens with which a model counts as fitting one GPU, 8 requests of 2,048 tokens."""

UNKNOWN_LOAD_MARGIN = 0.70
"""What is added to it for attention on different requests where the load is not known and the intent is balanced: that
split is best at hundreds of requests, and slower than tensor parallel at few."""

PIPELINE_MARGIN, EXPERT_MARGIN, UNSURE_MARGIN, WIDER_MARGIN = 0.10, 0.30, 0.10, 0.03
"""What a plan must be better by to be taken: with pipeline stages (their model is not validated), with experts over
all GPUs (nor is theirs, and one slow rank stops all); for each doubling of the GPUs that share a layer over links that
were measured on another host (like cards differ by four), and of those of an engine (a failure takes more with it)."""

LATENCY_GAIN = 0.10
"""What more GPUs a token must bring for latency before they are spent on it."""


@dataclass(frozen=True)
class Candidate:
    """An option with what it does at the number of requests that suits it best.

    Attributes:
        option: the split.
        engines: engines that are started.
        busy: engines that have a request, where there are fewer requests than engines.
        estimate: one engine's; None when the speed is not known.
        keeps: the limits of the workload are kept.
        value: what is compared, greater is better: tokens/s of the host, or 1 / seconds a request for latency.
        unknown_load: nobody said how many requests there are, and the intent is balanced.
    """

    option: Option
    engines: int
    busy: int
    estimate: Estimate | None
    keeps: bool
    value: float
    unknown_load: bool = False

    @property
    def host_tokens_s(self) -> float:
        """Answer tokens a second of all engines that have work; 0 when not known."""
        return self.estimate.tokens_s.value * self.busy if self.estimate else 0.0

    @property
    def risk(self) -> float:
        """Share by which another must be exceeded to take this one instead."""
        split = self.option.split
        margin = WIDER_MARGIN * math.log2(split.gpus)
        curve = self.option.speed.curve if self.option.speed else None
        margin += UNSURE_MARGIN * math.log2(split.tensor) if curve is not None and not curve.sure else 0.0
        margin += PIPELINE_MARGIN if split.pipeline > 1 else 0.0
        if split.data > 1 or split.expert:
            margin += EXPERT_MARGIN + (UNKNOWN_LOAD_MARGIN if self.unknown_load and split.data > 1 else 0.0)
        return margin


def keeps_limits(estimate: Estimate, workload: Workload, intent: Intent) -> bool:
    """Tell whether an estimate keeps the workload's limits, at its expected value."""
    limit = workload.limit(intent)
    if limit is not None and estimate.tpot_ms.value > limit:
        return False
    return workload.ttft_ms is None or estimate.ttft_ms[0] <= workload.ttft_ms


def busiest(option: Option, workload: Workload, intent: Intent) -> Estimate:
    """Return the engine with as many requests as keep the limits; with one when even that breaks them."""
    speed = option.speed
    assert speed is not None
    most = min(speed.most_at_once * option.split.data, max(1, int(option.share.kv_tokens / max(1.0, workload.context))))
    low, best = 1, speed.estimate(1, workload)
    if not keeps_limits(best, workload, intent):
        return best
    high = most
    while low < high:  # the time a token grows with the requests
        middle = (low + high + 1) // 2
        tried = speed.estimate(middle, workload)
        if keeps_limits(tried, workload, intent):
            low, best = middle, tried
        else:
            high = middle - 1
    return best


def candidate(option: Option, workload: Workload, intent: Intent, replicas: int | None) -> Candidate:
    """Return what an option does for the workload.

    Args:
        option: the split.
        workload: the requests.
        intent: what is favoured.
        replicas: engines that the settings ask for; None: as many as the host holds.
    """
    engines = min(len(option.groups), replicas or len(option.groups))
    if option.speed is None:
        return Candidate(option, engines, engines, None, True, 0.0)
    asked = workload.concurrency or (LATENCY_CONCURRENCY if intent == "latency" else None)
    if asked is not None:
        estimate = option.speed.estimate(max(1.0, asked / engines), workload)
    else:
        estimate = busiest(option, workload, intent)
    keeps = keeps_limits(estimate, workload, intent)
    busy = min(engines, asked or engines)
    if intent == "latency":
        request_s = estimate.ttft_ms[0] / 1e3 + workload.answer * estimate.tpot.total
        # requests that the KV cache does not hold wait for those that it does
        return Candidate(option, engines, busy, estimate, keeps, estimate.running / estimate.asked / request_s)
    unknown = intent == "balanced" and asked is None
    return Candidate(option, engines, busy, estimate, keeps, estimate.tokens_s.value * busy, unknown)


def _unknown_speed(option: Option, gpus: int, model: ModelConfig) -> tuple[bool, bool, int, int, int]:
    """Return what to keep low where no speed is known.

    A KV cache of no use, a pipeline at all (a request waits for every stage in turn), idle GPUs, stages, GPUs.
    """
    tokens = option.share.kv_tokens
    useful = (
        min(ENOUGH_ALONE, 8 * model.max_position) if option.size == 1 else min(USEFUL_TOKENS, 32 * model.max_position)
    )
    idle = gpus - option.size * len(option.groups)
    return tokens < useful, option.pipeline_parallel > 1, idle, option.pipeline_parallel, option.size


def rank(
    fitting: Sequence[Option], workload: Workload, intent: Intent, model: ModelConfig, gpus: int, replicas: int | None
) -> list[Candidate]:
    """Return the fitting options, the one to take first.

    With known speed that is the greatest value among those that keep the limits, lowered by the option's risk; when
    none keeps them, the shortest time a token. For latency more GPUs must bring `LATENCY_GAIN`.

    Args:
        fitting: the options whose KV cache holds what is needed.
        workload: the requests.
        intent: what is favoured.
        model: the model.
        gpus: GPUs of the host.
        replicas: engines that the settings ask for.
    """
    found = [candidate(option, workload, intent, replicas) for option in fitting]
    if any(one.estimate is None for one in found):
        # PCIe carries what was asked for by name only, as nothing says what it would cost
        found = [c for c in found if c.option.linked or c.option.tensor_parallel == 1 or len(found) == 1] or found
        return sorted(found, key=lambda c: _unknown_speed(c.option, gpus, model))
    if not any(one.keeps for one in found):
        return sorted(found, key=lambda c: (c.estimate.tpot.total if c.estimate else math.inf, c.risk))
    margin = LATENCY_GAIN if intent == "latency" else 0.0

    def worth(one: Candidate) -> float:
        wide = margin * math.log2(one.option.split.gpus)
        return one.value / (1 + one.risk + wide)

    return sorted(found, key=lambda c: (not c.keeps, -worth(c)))
