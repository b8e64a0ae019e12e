"""vLLM's start-up log: what it loaded, how much KV cache it has, why it did not start. Engines V0 and V1."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from metalserve.hardware.parsers.text import ParseError, clean, first_line
from metalserve.hardware.parsers.vllm_failures import COUNT, NOT_ITS_OWN, SIZE, VllmFailure, failure_of, whole

_SECONDS = r"(\d{1,7}(?:\.\d{1,6})?)"
_GIB = r"(\d{1,6}(?:\.\d{1,4})?)"
_STAMP = re.compile(
    r"\b(?:INFO|WARNING|ERROR|DEBUG)(?: \d\d-\d\d \d\d:\d\d:\d\d)? \[?[a-z0-9_/]{1,60}\.py:\d{1,5}\]", re.IGNORECASE
)
_WORKER = re.compile(
    r"\((?:VllmWorker(?:Process)?|Worker)(?:_[A-Z0-9_]{1,20})?(?: rank=(\d{1,4}))?(?: pid=(\d{1,10}))?\)"
)
_TOKENS = re.compile(rf"\b(GPU|CPU|XPU) KV cache size: {COUNT} tokens")
_CONCURRENCY = re.compile(rf"Maximum concurrency for {COUNT} tokens per request: (\d{{1,7}}(?:\.\d{{1,3}})?)x")
_KV = re.compile(rf"Available KV cache memory: (-?){SIZE}")  # below zero when the weights leave no room
_WEIGHTS = re.compile(rf"(?:Loading model weights|Model loading) took {SIZE}")
_LOAD = re.compile(
    r"Model loading took .{1,40}? and (\d{1,7}(?:\.\d{1,6})?) seconds"
    r"|Loading weights took (\d{1,7}(?:\.\d{1,6})?) seconds"
)
_WEIGHTS_TIME = re.compile(rf"Loading weights took {_SECONDS} seconds")
_COMPILE = re.compile(rf"torch\.compile (?:took|takes) {_SECONDS} s\b")
_BLOCKS = re.compile(rf"# (?:GPU|cuda) blocks: {COUNT}", re.IGNORECASE)
_VERSION = re.compile(r"vLLM API server version (\S{1,40})|Initializing an? (?:V[01] )?LLM engine \(v([^)]{1,40})\)")
_MODEL = re.compile(r"\bmodel='([^']{1,200})'|\bmodel_tag='([^']{1,200})'|\bvllm serve (\S{1,200})")
_NCCL = re.compile(r"vLLM is using nccl==(\d{1,2}\.\d{1,2}(?:\.\d{1,2})?)")
_ATTENTION = re.compile(r"Using ([A-Za-z0-9_ -]{2,40}?)(?: attention)? backend\b")
_NO_CUSTOM = re.compile(r"Custom all-?reduce is disabled because (.{1,200}?)(?:\. To silence|$)", re.IGNORECASE)
_BACKENDS = re.compile(r"Using \[([^\]]{1,200})\] all-reduce backends")
_INIT = re.compile(rf"init engine \(profile, create kv cache, warmup model\) took {_SECONDS}")
_INIT_COMPILE = re.compile(rf"\(compilation: {_SECONDS} s\)")
_GRAPHS = re.compile(rf"Graph capturing finished in {_SECONDS} secs?(?:, took {_GIB} Gi?B)?")
_GRAPH_POOL = re.compile(rf"CUDA graph pool memory: {_GIB} Gi?B \(actual\), {_GIB} Gi?B \(estimated\)")
_BUDGET = re.compile(
    rf"Free memory on device(?: \S{{1,20}})? \({_GIB}/{_GIB} Gi?B\) on startup.{{0,80}}?utilization(?: is)? "
    rf"\((\d(?:\.\d{{1,4}})?), {_GIB} Gi?B\)"
)
_ENGINE = re.compile(r"\(EngineCore(?:_DP(\d{1,4})|_(\d{1,4}))?")
_ANEW = re.compile(r"Initializing an? (?:V[01] )?LLM engine")
_READY = ("Application startup complete", "Uvicorn running on")


@dataclass
class VllmLog:
    """What the log told; `None` means that the log does not say.

    Attributes:
        version: of vLLM.
        model: name or path.
        nccl: version of NCCL.
        attention_backend: as printed.
        workers: number of worker processes that wrote a line; 0 when it runs in one process.
        weights: size of the weights on one GPU, the largest; unit in `weights_unit`.
        weights_unit: `GiB`, or `GB` as older versions wrote.
        load_seconds: time to load the model, the slowest worker, seconds.
        weights_seconds: of that, reading and copying the weights.
        kv_cache: memory for the KV cache on one GPU, the smallest; unit in `kv_cache_unit`.
        kv_cache_unit: as printed.
        kv_cache_tokens: tokens that fit, the smallest count that was printed.
        kv_cache_tokens_total: tokens of all data-parallel engines together.
        engines: data-parallel engines that printed it.
        device: what the KV cache lies on: GPU, CPU or XPU.
        gpu_blocks: KV cache blocks (engine V0).
        max_concurrency: requests of full length that fit.
        max_concurrency_tokens: that full length, tokens.
        custom_all_reduce: False when vLLM says that it is disabled.
        custom_all_reduce_reason: why.
        all_reduce_backends: in the order of dispatch.
        compile_seconds: time of torch.compile, the slowest worker, seconds.
        graph_capture_seconds: time to capture CUDA graphs, the slowest worker, seconds.
        graphs: memory of the CUDA graphs as they were captured, GiB.
        graphs_estimated: as the engine estimated them when it sized the KV cache, GiB.
        total_memory: memory of the GPU as the engine sees it, GiB.
        free_memory: free when it started, GiB.
        budget: what it was allowed, GiB.
        engine_init_seconds: time of profiling, compiling, cache creation and warm-up, seconds.
        ready: it said that start-up is complete.
        failures: why it did not start.
    """

    version: str | None = None
    model: str | None = None
    nccl: str | None = None
    attention_backend: str | None = None
    workers: int = 0
    weights: float | None = None
    weights_unit: str | None = None
    load_seconds: float | None = None
    weights_seconds: float | None = None
    kv_cache: float | None = None
    kv_cache_unit: str | None = None
    kv_cache_tokens: int | None = None
    kv_cache_tokens_total: int | None = None
    engines: int = 0
    device: str | None = None
    gpu_blocks: int | None = None
    max_concurrency: float | None = None
    max_concurrency_tokens: int | None = None
    custom_all_reduce: bool | None = None
    custom_all_reduce_reason: str | None = None
    all_reduce_backends: list[str] = field(default_factory=list)
    compile_seconds: float | None = None
    graph_capture_seconds: float | None = None
    graphs: float | None = None
    graphs_estimated: float | None = None
    total_memory: float | None = None
    free_memory: float | None = None
    budget: float | None = None
    engine_init_seconds: float | None = None
    ready: bool = False
    failures: list[VllmFailure] = field(default_factory=list)


def parse_vllm_log(text: str) -> VllmLog:
    """Read a start-up log of vLLM, with any prefix (container, journal, worker); of several starts in it the last.

    A line that several workers print counts once: weights by the fullest, KV cache by the emptiest, times by the
    slowest.

    Raises:
        ParseError: no line of it is of vLLM.
    """
    log = VllmLog()
    workers: set[str] = set()
    tokens: dict[str, int] = {}
    known = False
    for line in clean(text).splitlines():
        line = line[:8000]
        if tokens and _ANEW.search(line):  # another start: forget the one before
            log, workers, tokens = VllmLog(), set(), {}
        stamped = bool(_STAMP.search(line))
        worker = _WORKER.search(line)
        if worker:
            workers.add(worker.group(1) or worker.group(2) or worker.group())
        told = _figures(line, log) | _cache(line, log, tokens) | _times(line, log)
        _names(line, log)
        failure = failure_of(line)
        if failure is not None and len(log.failures) < 50 and failure.kind not in {f.kind for f in log.failures}:
            log.failures.append(failure)
        known = known or stamped or told or (failure is not None and failure.kind not in NOT_ITS_OWN)
    if not known:
        raise ParseError(f"no line of vLLM; the text begins with {first_line(text)!r}")
    log.workers = len(workers)
    log.engines = len(tokens)
    log.kv_cache_tokens_total = sum(tokens.values()) if tokens else None
    return log


def _figures(line: str, log: VllmLog) -> bool:
    """Take the sizes of one line; tells whether there was one that only vLLM prints."""
    told = False
    if concurrency := _CONCURRENCY.search(line):
        log.max_concurrency_tokens = whole(concurrency.group(1))
        log.max_concurrency = float(concurrency.group(2))
        told = True
    if kv := _KV.search(line):
        size = float(kv.group(1) + kv.group(2))
        if log.kv_cache is None or size < log.kv_cache:
            log.kv_cache, log.kv_cache_unit = size, kv.group(3)
        told = True
    if weights := _WEIGHTS.search(line):
        size = float(weights.group(1))
        if log.weights is None or size > log.weights:
            log.weights, log.weights_unit = size, weights.group(2)
        told = True
    if blocks := _BLOCKS.search(line):
        log.gpu_blocks = whole(blocks.group(1))
    if pool := _GRAPH_POOL.search(line):
        log.graphs, log.graphs_estimated = float(pool.group(1)), float(pool.group(2))
    if budget := _BUDGET.search(line):
        log.free_memory, log.total_memory = float(budget.group(1)), float(budget.group(2))
        log.budget = float(budget.group(4))
    if reason := _NO_CUSTOM.search(line):
        log.custom_all_reduce, log.custom_all_reduce_reason = False, reason.group(1).strip()
        told = True
    if backends := _BACKENDS.search(line):
        log.all_reduce_backends = [name.strip(" '\"") for name in backends.group(1).split(",")]
    return told


def _cache(line: str, log: VllmLog, tokens: dict[str, int]) -> bool:
    """Take the tokens of the KV cache that one engine prints, once or by each of its workers."""
    found = _TOKENS.search(line)
    if not found:
        return False
    engine, count = _ENGINE.search(line), whole(found.group(2))
    name = (engine.group(1) or engine.group(2) or "") if engine else ""
    tokens[name] = min(count, tokens.get(name, count))
    log.kv_cache_tokens = min(tokens.values())
    log.device = found.group(1)
    return True


def _times(line: str, log: VllmLog) -> bool:
    """Take the seconds of one line, by the slowest worker; tells whether there were some that only vLLM prints."""
    if load := _LOAD.search(line):
        log.load_seconds = _slowest(log.load_seconds, load.group(1) or load.group(2))
    if weights := _WEIGHTS_TIME.search(line):
        log.weights_seconds = _slowest(log.weights_seconds, weights.group(1))
    if compiled := _COMPILE.search(line):
        log.compile_seconds = _slowest(log.compile_seconds, compiled.group(1))
    if graphs := _GRAPHS.search(line):
        log.graph_capture_seconds = _slowest(log.graph_capture_seconds, graphs.group(1))
        if graphs.group(2) is not None and log.graphs_estimated is None:
            log.graphs = float(graphs.group(2))
    if any(words in line for words in _READY):
        log.ready = True
    init = _INIT.search(line)
    if not init:
        return bool(weights or compiled)
    log.engine_init_seconds = _slowest(log.engine_init_seconds, init.group(1))
    if compiled := _INIT_COMPILE.search(line):
        log.compile_seconds = _slowest(log.compile_seconds, compiled.group(1))
    return True


def _slowest(before: float | None, seconds: str) -> float:
    return max(float(seconds), before or 0.0)


def _names(line: str, log: VllmLog) -> None:
    log.version = log.version or _named(_VERSION, line)
    log.model = log.model or _named(_MODEL, line)
    log.nccl = log.nccl or _named(_NCCL, line)
    if "all-reduce" not in line:
        log.attention_backend = log.attention_backend or _named(_ATTENTION, line)


def _named(pattern: re.Pattern[str], line: str) -> str | None:
    found = pattern.search(line)
    return next((group for group in found.groups() if group), None) if found else None
