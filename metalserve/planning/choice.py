"""Which split to take of those that fit: the judgement of the planner, with its reasons. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from metalserve.planning.memory import GIB, Share
from metalserve.planning.model import ModelConfig

Intent = Literal["latency", "throughput", "balanced"]

USEFUL_TOKENS = 65_536
"""KV tokens that let a replica batch usefully: 32 requests of 2,048 tokens. Fewer fits, but more GPUs are preferred."""

ENOUGH_ALONE = 16_384
"""KV tokens with which a model counts as fitting one GPU, 8 requests of 2,048 tokens: a replica a GPU has no
communication at all, so it may do with less."""

LEAST_SHARD_GIB = 4.0
"""Tensor parallel stops paying for latency when a GPU holds less: an H100 reads 4 GiB in 1.3 ms, and the 160
all-reduces of an 80-layer model take 0.8 ms (measured, custom all-reduce, one token)."""


@dataclass(frozen=True)
class Option:
    """A split that the host allows: GPUs of each replica, memory of its fullest GPU, NVLink inside its TP groups."""

    tensor_parallel: int
    pipeline_parallel: int
    groups: tuple[tuple[int, ...], ...]
    share: Share
    linked: bool

    @property
    def size(self) -> int:
        """GPUs of one replica."""
        return self.tensor_parallel * self.pipeline_parallel


def _useful(option: Option, model: ModelConfig) -> bool:
    if option.size == 1:
        return option.share.kv_tokens >= min(ENOUGH_ALONE, 8 * model.max_position)
    return option.share.kv_tokens >= min(USEFUL_TOKENS, 32 * model.max_position)


def cost(option: Option, gpus: int) -> tuple[bool, int, int, int]:
    """Return what to keep low, in this order.

    A pipeline at all (a request waits for every stage in turn), idle GPUs, stages, GPUs a replica.
    """
    idle = gpus - option.size * len(option.groups)
    return option.pipeline_parallel > 1, idle, option.pipeline_parallel, option.size


def choose(
    fitting: Sequence[Option], options: Sequence[Option], intent: Intent, links: str, model: ModelConfig, gpus: int
) -> tuple[Option, list[str]]:
    """Return the best of the fitting options and why, in sentences.

    The smallest split that leaves a useful KV cache wins, so that the host holds most replicas; only for latency, and
    only over NVLink, more GPUs share a model that would fit fewer.

    Args:
        fitting: the options whose KV cache holds what is needed.
        options: all options, for the comparison in the reasons.
        intent: what the launch is to favour.
        links: the links of the host in words.
        model: the model.
        gpus: GPUs of the host.
    """
    roomy = [option for option in fitting if _useful(option, model)]
    pool = roomy or [max(fitting, key=lambda option: option.share.kv_tokens)]
    best = min(pool, key=lambda option: cost(option, gpus))
    said = [f"Links: {links}."]
    one = next((option for option in options if option.size == 1), None)
    if best.size == 1:
        said.append(
            f"The model fits one GPU ({best.share.weights / GIB:.1f} GiB of weights, {best.share.kv_bytes / GIB:.1f} "
            f"GiB for the KV cache), so every GPU gets a replica of its own, {len(best.groups)} in all: no all-reduces."
        )
    else:
        said += _why_split(best, one, options, model)
    if not roomy:
        said.append(f"No split leaves {USEFUL_TOKENS:,} tokens of KV cache; this one leaves most.")
    if intent == "latency":
        best = _for_latency(best, fitting, said)
    return best, said


def _why_split(best: Option, one: Option | None, options: Sequence[Option], model: ModelConfig) -> list[str]:
    said = []
    if one is not None:
        weights, budget = one.share.weights / GIB, one.share.budget / GIB
        state = (
            "does not fit" if one.share.kv_tokens == 0 else f"leaves only {one.share.kv_tokens:,} tokens of KV cache on"
        )
        said.append(f"The model ({weights:.1f} GiB of weights) {state} one GPU ({budget:.1f} GiB usable).")
    if best.tensor_parallel > 1:
        smaller = [o for o in options if o.pipeline_parallel == 1 and 1 < o.tensor_parallel < best.tensor_parallel]
        if smaller:
            near = max(smaller, key=lambda option: option.tensor_parallel)
            said.append(
                f"Tensor parallel {near.tensor_parallel} would leave {near.share.kv_tokens:,} tokens of KV cache, "
                f"tensor parallel {best.tensor_parallel} leaves {best.share.kv_tokens:,}."
            )
        over = "over NVLink" if best.linked else "over PCIe, as engine.tensor_parallel says"
        said.append(
            f"Each layer is shared by {best.tensor_parallel} GPUs {over} ({2 * model.layers} all-reduces a token)."
        )
    if best.pipeline_parallel > 1:
        said.append(
            f"The layers are laid over {best.pipeline_parallel} pipeline stages: only one small transfer a stage and "
            f"token crosses PCIe, where tensor parallel would send {2 * model.layers} all-reduces over it."
        )
    return said


def _for_latency(best: Option, fitting: Sequence[Option], said: list[str]) -> Option:
    """Return a wider split over NVLink where it shortens the time a token."""
    wider = [
        option
        for option in fitting
        if option.linked
        and option.pipeline_parallel <= best.pipeline_parallel
        and option.tensor_parallel > best.tensor_parallel
        and option.share.weights / GIB >= LEAST_SHARD_GIB
    ]
    if not wider:
        said.append("For latency nothing is wider over NVLink that would still shorten the time a token.")
        return best
    chosen = max(wider, key=lambda option: option.tensor_parallel)
    said.append(
        f"For latency each layer is shared by {chosen.tensor_parallel} GPUs over NVLink instead of "
        f"{best.tensor_parallel}: a GPU reads {chosen.share.weights / GIB:.1f} GiB of weights a token instead of "
        f"{best.share.weights / GIB:.1f}."
    )
    return chosen
