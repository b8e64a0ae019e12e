"""Reads a benchmark's result: the rate of a node at one load. Values in, values out.

Results of `metalserve bench` (schema 1, kinds `steps` and `sustained`), and of `vllm bench serve --save-result`. Both
say what the address did that they were pointed at; how many nodes answer there the user knows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from metalserve.economics.throughput import Throughput
from metalserve.errors import MetalserveError
from metalserve.report.values import known, line, mapping, mappings, number

SCHEMA: Final = 1
"""Of `metalserve bench`."""
FAILED: Final = 0.01
"""Share of failed requests above which a rate is none that serves (guessed)."""


def from_bench(
    data: Mapping[str, Any], *, where: str, concurrency: float | None = None, nodes: int | None = None
) -> Throughput:
    """Return the rate that was measured, of one node.

    Args:
        data: the file's JSON.
        where: the file, for messages and as the source.
        concurrency: the load to take, where the file has several; None: the highest that kept the objectives, else
            the knee, else the only one.
        nodes: nodes behind the address; None: one, unless the file has watched several.

    Raises:
        MetalserveError: it is no benchmark's result, has no such load, or does not say whose rate it is.
    """
    if "kind" in data:
        return _ours(data, where, concurrency, nodes)
    return _vllm(data, where, concurrency, nodes or 1)


def _ours(data: Mapping[str, Any], where: str, concurrency: float | None, nodes: int | None) -> Throughput:
    if data.get("schema") != SCHEMA or data.get("kind") not in ("steps", "sustained"):
        kind, schema = line(data.get("kind"))[:20], line(data.get("schema"))[:20]
        remedy = "give one of `metalserve bench` with steps, or sustained"
        raise MetalserveError(f"is of kind {kind!r}, schema {schema}: no rate of a node", where=where, remedy=remedy)
    step = _step(mappings(data.get("steps")), mapping(data.get("knee")), where, concurrency)
    watched = mappings(data.get("telemetry"))
    names = {line(row.get("node")) for row in watched}
    if nodes is None and len(names) > 1:
        remedy = "give --bench-nodes, the nodes behind the address"
        raise MetalserveError(f"watched {len(names)} nodes: whose rate is it?", where=where, remedy=remedy)
    count = nodes or 1
    _served(step, where)
    rate = _number(step, "output_tokens_s", where) / count
    prompts = _number(step, "input_tokens_s", where) / count
    if rate <= 0:
        raise MetalserveError("measured no answer tokens", where=where)
    read, cached = number(step.get("input_tokens")), number(step.get("cached_tokens"))
    clients = "clients" if step.get("mode") == "closed" else "requests/s"
    words = f"{where}: {line(data.get('generator')) or 'metalserve bench'}, {number(step.get('load')):g} {clients}, "
    words += f"{_number(step, 'duration_s', where):,.0f} s, {count} node(s) behind the address"
    return Throughput(
        rate,
        rate,
        rate,
        prompts / rate,
        "measured",
        words,
        cached_share=cached / read if cached is not None and read else None,
        gpu_w=_watts(watched, step),
        lengths=_lengths(read, number(step.get("output_tokens")), number(step.get("completed"))),
        simulated=data.get("simulated") is True,
    )


def _step(
    steps: Sequence[Mapping[str, Any]], knee: Mapping[str, Any], where: str, concurrency: float | None
) -> Mapping[str, Any]:
    loads = {number(step.get("load")): step for step in steps}
    told = ", ".join(f"{load:g}" for load in loads if load is not None) or "none"
    if concurrency is not None:
        if concurrency not in loads:
            raise MetalserveError(f"has no load {concurrency:g}", where=where, remedy=f"it has {told}")
        return loads[concurrency]
    wanted = next((v for v in (number(knee.get("within")), number(knee.get("load"))) if v is not None), None)
    if wanted is None and len(loads) == 1:
        wanted = next(iter(loads))
    if wanted is None or wanted not in loads:
        remedy = f"give --concurrency: it has {told}"
        raise MetalserveError("does not say which load a node is run at", where=where, remedy=remedy)
    return loads[wanted]


def _served(step: Mapping[str, Any], where: str) -> None:
    failed, whole = number(step.get("failed")) or 0.0, number(step.get("requests"))
    if failed and (not whole or failed / whole > FAILED):
        raise MetalserveError(f"{failed:.0f} requests failed, so the rate is not one that serves", where=where)


def _lengths(prompts: float | None, answers: float | None, requests: float | None) -> tuple[int, int] | None:
    """Return the mean tokens of a prompt and of an answer; None where they cannot be told."""
    if not prompts or not answers or not requests:
        return None
    return max(1, round(prompts / requests)), max(1, round(answers / requests))


def _watts(rows: Sequence[Mapping[str, Any]], step: Mapping[str, Any]) -> float | None:
    """Return the mean draw of a GPU in the step's window, watts; None where it was not watched or could not be read."""
    began, ended = number(step.get("from_s")), number(step.get("to_s"))
    if began is None or ended is None:
        return None
    there = [row for row in rows if began <= (number(row.get("t_s")) or -1.0) <= ended]
    watts = known([number(gpu.get("power_w")) for row in there for gpu in mappings(row.get("gpus"))])
    return sum(watts) / len(watts) if watts else None


def _vllm(data: Mapping[str, Any], where: str, concurrency: float | None, nodes: int) -> Throughput:
    there = data.get("max_concurrency")
    if concurrency is not None and there != concurrency:
        raise MetalserveError(f"is of {there} requests at once, not of {concurrency:g}", where=where)
    prompts, answers = _number(data, "total_input_tokens", where), _number(data, "total_output_tokens", where)
    seconds = _number(data, "duration", where)
    if seconds <= 0 or answers <= 0:
        raise MetalserveError("measured nothing: no answer tokens, or no time", where=where)
    requests = (number(data.get("completed")) or 0.0) + (number(data.get("failed")) or 0.0)
    _served({"failed": data.get("failed"), "requests": requests}, where)
    rate = answers / seconds / nodes
    at = f" with {there} requests at once" if isinstance(there, int) else ""
    words = f"{where}: vllm bench serve{at}, {seconds:,.0f} s, {nodes} node(s) behind the address"
    lengths = _lengths(prompts, answers, number(data.get("completed")))
    return Throughput(rate, rate, rate, prompts / answers, "measured", words, lengths=lengths)


def _number(data: Mapping[str, Any], key: str, where: str) -> float:
    value = number(data.get(key))
    if value is None or not math.isfinite(value) or value < 0:
        raise MetalserveError(f"is no benchmark's result: {key} is not a number", where=where)
    return value
