"""What vLLM's start-up log says of memory: weights, KV cache, CUDA graphs. Text in, value out; pure.

Old and new lines are read: "GB" until 0.8 stands for GiB; since 0.27 size and concurrency stand on one line.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass

_NUMBER = r"(-?[\d,]+(?:\.\d+)?)"
_WEIGHTS = re.compile(
    rf"(?:Model loading|Loading model weights) took {_NUMBER} Gi?B(?: memory)?(?: and {_NUMBER} sec)?"
)
_KV_MEMORY = re.compile(rf"Available KV cache memory: {_NUMBER} Gi?B")
_KV_TOKENS = re.compile(rf"\b(GPU|CPU|XPU) KV cache size: {_NUMBER} tokens")
_CONCURRENCY = re.compile(rf"Maximum concurrency for {_NUMBER} tokens per request: {_NUMBER}x")
_GRAPHS = re.compile(rf"Graph capturing finished in {_NUMBER} secs?, took {_NUMBER} Gi?B")
_GRAPH_POOL = re.compile(rf"CUDA graph pool memory: {_NUMBER} Gi?B \(actual\), {_NUMBER} Gi?B \(estimated\)")
_BUDGET = re.compile(
    rf"Free memory on device(?: \S+)? \({_NUMBER}/{_NUMBER} Gi?B\) on startup.{{0,80}}?utilization(?: is)? "
    rf"\({_NUMBER}, {_NUMBER} Gi?B\)"
)
_VERSION = re.compile(r"(?:LLM engine \(v|\bversion )(\d+\.\d+\.\d+)")
_ENGINE = re.compile(r"\(EngineCore(?:_DP(\d+)|_(\d+))?")


@dataclass(frozen=True)
class Startup:
    """What one start of an engine printed; None: not printed.

    Attributes:
        version: vLLM's version.
        weights_gib: weights of a GPU, the most of its ranks.
        load_s: seconds the slowest rank took to load them.
        kv_gib: memory left for the KV cache, the least of its ranks.
        kv_tokens: tokens of the KV cache, all data-parallel engines together.
        engines: data-parallel engines that printed it.
        max_model_len: tokens that the concurrency was counted for.
        max_concurrency: requests of that length at once.
        graphs_gib: CUDA graphs as they were captured.
        graphs_estimated_gib: as the engine estimated them when it sized the KV cache.
        total_gib: memory of the GPU as the engine sees it.
        free_gib: free when it started.
        budget_gib: what it was allowed.
        device: GPU or CPU.
    """

    version: str | None = None
    weights_gib: float | None = None
    load_s: float | None = None
    kv_gib: float | None = None
    kv_tokens: int | None = None
    engines: int = 0
    max_model_len: int | None = None
    max_concurrency: float | None = None
    graphs_gib: float | None = None
    graphs_estimated_gib: float | None = None
    total_gib: float | None = None
    free_gib: float | None = None
    budget_gib: float | None = None
    device: str | None = None


def _value(text: str) -> float:
    return float(text.replace(",", ""))


def parse_startup(text: str) -> Startup:
    """Return what a start-up log says; of several starts in it, the last that printed a KV cache.

    A line that several ranks print counts once: weights by the fullest, KV cache by the emptiest.
    """
    weights: list[tuple[float, float | None]] = []
    memory: list[float] = []
    tokens: defaultdict[str, list[int]] = defaultdict(list)
    found: dict[str, float | str | None] = {}
    for line in text.splitlines():
        if match := _VERSION.search(line):
            if "Initializing" in line and tokens:  # another start: forget the one before
                weights, memory, tokens, found = [], [], defaultdict(list), {}
            found["version"] = match[1]
        if match := _WEIGHTS.search(line):
            weights.append((_value(match[1]), _value(match[2]) if match[2] else None))
        if match := _KV_MEMORY.search(line):
            memory.append(_value(match[1]))
        if match := _KV_TOKENS.search(line):
            engine = _ENGINE.search(line)
            name = (engine[1] or engine[2] or "") if engine else ""
            tokens[name].append(int(_value(match[2])))
            found["device"] = match[1]
        if match := _CONCURRENCY.search(line):
            found |= {"max_model_len": int(_value(match[1])), "max_concurrency": _value(match[2])}
        if match := _GRAPHS.search(line):
            found["graphs_gib"] = _value(match[2])
        if match := _GRAPH_POOL.search(line):
            found |= {"graphs_gib": _value(match[1]), "graphs_estimated_gib": _value(match[2])}
        if match := _BUDGET.search(line):
            names = ("free_gib", "total_gib", None, "budget_gib")
            found |= {name: _value(part) for name, part in zip(names, match.groups(), strict=True) if name}
    seconds = [s for _, s in weights if s is not None]
    return Startup(
        weights_gib=max((w for w, _ in weights), default=None),
        load_s=max(seconds, default=None),
        kv_gib=min(memory, default=None),
        kv_tokens=sum(min(own) for own in tokens.values()) if tokens else None,
        engines=len(tokens),
        **found,  # type: ignore[arg-type]
    )
