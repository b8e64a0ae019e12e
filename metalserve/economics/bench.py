"""Reads a benchmark's result: the rate of a node at one concurrency. Values in, values out.

`vllm bench serve --save-result` leaves one object a concurrency. It says what the address did that it was pointed at:
the router or the only engine of a node, or the figures are those of one engine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from metalserve.economics.throughput import Throughput
from metalserve.errors import MetalserveError


def from_bench(data: Mapping[str, Any], *, where: str, concurrency: int | None = None) -> Throughput:
    """Return the rate that was measured.

    Args:
        data: the file's JSON.
        where: the file, for messages and as the source.
        concurrency: the step to take, where the file has several.

    Raises:
        MetalserveError: it is no benchmark's result, or has no such concurrency.
    """
    return _vllm(data, where, concurrency)


def _vllm(data: Mapping[str, Any], where: str, concurrency: int | None) -> Throughput:
    there = data.get("max_concurrency")
    if concurrency is not None and there != concurrency:
        raise MetalserveError(f"is of {there} requests at once, not of {concurrency}", where=where)
    prompts, answers = _number(data, "total_input_tokens", where), _number(data, "total_output_tokens", where)
    seconds = _number(data, "duration", where)
    if seconds <= 0 or answers <= 0:
        raise MetalserveError("measured nothing: no answer tokens, or no time", where=where)
    failed = data.get("failed", 0)
    if failed:
        raise MetalserveError(f"{failed} requests failed, so the rate is not one that serves", where=where)
    rate = answers / seconds
    at = f" with {there} requests at once" if isinstance(there, int) else ""
    words = f"{where}: vllm bench serve{at}, {answers:,.0f} answer tokens in {seconds:,.0f} s from one address"
    return Throughput(rate, rate, rate, prompts / answers, "measured", words)


def _number(data: Mapping[str, Any], key: str, where: str) -> float:
    value = data.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise MetalserveError(f"is no benchmark's result: {key} is not a number", where=where)
    return float(value)
