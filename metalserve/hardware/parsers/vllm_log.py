"""vLLM's start-up log: what it loaded, how much KV cache it has, why it did not start. Engines V0 and V1."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from metalserve.hardware.parsers.text import ParseError, clean, first_line

_SIZE = r"(\d{1,6}(?:\.\d{1,4})?) ?(GiB|GB|MiB|MB)"
_COUNT = r"(\d{1,3}(?:,\d{3}){1,5}|\d{1,15})"
_STAMP = re.compile(
    r"\b(?:INFO|WARNING|ERROR|DEBUG)(?: \d\d-\d\d \d\d:\d\d:\d\d)? \[?[a-z0-9_/]{1,60}\.py:\d{1,5}\]", re.IGNORECASE
)
_WORKER = re.compile(
    r"\((?:VllmWorker(?:Process)?|Worker)(?:_[A-Z0-9_]{1,20})?(?: rank=(\d{1,4}))?(?: pid=(\d{1,10}))?\)"
)
_TOKENS = re.compile(rf"GPU KV cache size: {_COUNT} tokens")
_CONCURRENCY = re.compile(rf"Maximum concurrency for {_COUNT} tokens per request: (\d{{1,7}}(?:\.\d{{1,3}})?)x")
_KV = re.compile(rf"Available KV cache memory: (-?){_SIZE}")  # below zero when the weights leave no room
_WEIGHTS = re.compile(rf"(?:Loading model weights|Model loading) took {_SIZE}")
_LOAD = re.compile(
    r"Model loading took .{1,40}? and (\d{1,7}(?:\.\d{1,6})?) seconds"
    r"|Loading weights took (\d{1,7}(?:\.\d{1,6})?) seconds"
)
_BLOCKS = re.compile(rf"# (?:GPU|cuda) blocks: {_COUNT}", re.IGNORECASE)
_VERSION = re.compile(r"vLLM API server version (\S{1,40})|Initializing an? (?:V[01] )?LLM engine \(v([^)]{1,40})\)")
_MODEL = re.compile(r"\bmodel='([^']{1,200})'|\bmodel_tag='([^']{1,200})'|\bvllm serve (\S{1,200})")
_NCCL = re.compile(r"vLLM is using nccl==(\d{1,2}\.\d{1,2}(?:\.\d{1,2})?)")
_ATTENTION = re.compile(r"Using ([A-Za-z0-9_ -]{2,40}?)(?: attention)? backend\b")
_NO_CUSTOM = re.compile(r"Custom all-?reduce is disabled because (.{1,200}?)(?:\. To silence|$)", re.IGNORECASE)
_BACKENDS = re.compile(r"Using \[([^\]]{1,200})\] all-reduce backends")
_INIT = re.compile(r"init engine \(profile, create kv cache, warmup model\) took (\d{1,7}(?:\.\d{1,3})?)")
_GRAPHS = re.compile(r"Graph capturing finished in (\d{1,7}(?:\.\d{1,3})?) secs?")
_READY = ("Application startup complete", "Uvicorn running on")

_FREE = re.compile(
    r"Free memory on device(?: \S{1,20})? \((\d{1,6}(?:\.\d{1,3})?)/(\d{1,6}(?:\.\d{1,3})?) (GiB|GB)\) on startup is "
    r"less than desired GPU memory utilization \((\d(?:\.\d{1,4})?), (\d{1,6}(?:\.\d{1,3})?) (?:GiB|GB)\)"
)
_NEEDED = re.compile(
    rf"max seq len \({_COUNT}\), \(?{_SIZE} KV cache is needed, which is larger than "
    rf"the available KV cache memory \({_SIZE}\)"
)
_ESTIMATE = re.compile(rf"estimated maximum model length is {_COUNT}")
_FAILURES: Final = (
    ("out-of-memory", re.compile(r"CUDA out of memory|torch\.(?:cuda\.)?OutOfMemoryError")),
    ("no-kv-memory", re.compile(r"No available memory for the cache blocks")),
    ("bad-argument", re.compile(r"error: unrecognized arguments|error: argument ")),
    ("nccl-error", re.compile(r"NCCL error|ncclInternalError|ncclUnhandledCudaError|ncclSystemError")),
    ("engine-failed", re.compile(r"Engine core initialization failed|EngineCore failed to start")),
)


@dataclass(frozen=True, slots=True)
class VllmFailure:
    """Why it did not start; sizes in `unit` as printed (vLLM wrote GB where it meant GiB until 0.8).

    Attributes:
        kind: `free-memory`, `kv-too-small`, `out-of-memory`, `no-kv-memory`, `bad-argument`, `nccl-error` or
            `engine-failed`.
        message: the line.
        unit: unit of the sizes.
        needed: what it wants.
        available: what there is.
        total: what the device has.
        max_model_len: context length that was asked for, tokens.
        estimated_max_model_len: context length that would fit, tokens.
    """

    kind: str
    message: str
    unit: str | None = None
    needed: float | None = None
    available: float | None = None
    total: float | None = None
    max_model_len: int | None = None
    estimated_max_model_len: int | None = None


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
        kv_cache: memory for the KV cache on one GPU, the smallest; unit in `kv_cache_unit`.
        kv_cache_unit: as printed.
        kv_cache_tokens: tokens that fit, the smallest count that was printed.
        gpu_blocks: KV cache blocks (engine V0).
        max_concurrency: requests of full length that fit.
        max_concurrency_tokens: that full length, tokens.
        custom_all_reduce: False when vLLM says that it is disabled.
        custom_all_reduce_reason: why.
        all_reduce_backends: in the order of dispatch.
        graph_capture_seconds: time to capture CUDA graphs, seconds.
        engine_init_seconds: time of profiling, cache creation and warm-up, seconds.
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
    kv_cache: float | None = None
    kv_cache_unit: str | None = None
    kv_cache_tokens: int | None = None
    gpu_blocks: int | None = None
    max_concurrency: float | None = None
    max_concurrency_tokens: int | None = None
    custom_all_reduce: bool | None = None
    custom_all_reduce_reason: str | None = None
    all_reduce_backends: list[str] = field(default_factory=list)
    graph_capture_seconds: float | None = None
    engine_init_seconds: float | None = None
    ready: bool = False
    failures: list[VllmFailure] = field(default_factory=list)


def parse_vllm_log(text: str) -> VllmLog:
    """Read a start-up log of vLLM, with any prefix (container, journal, worker).

    Raises:
        ParseError: no line of it is of vLLM.
    """
    log = VllmLog()
    workers: set[str] = set()
    known = False
    for line in clean(text).splitlines():
        line = line[:8000]
        stamped = bool(_STAMP.search(line))
        worker = _WORKER.search(line)
        if worker:
            workers.add(worker.group(1) or worker.group(2) or worker.group())
        told = _figures(line, log)
        failed = _failure(line, log)
        known = known or stamped or told or failed
    if not known:
        raise ParseError(f"no line of vLLM; the text begins with {first_line(text)!r}")
    log.workers = len(workers)
    return log


def _figures(line: str, log: VllmLog) -> bool:
    """Take the figures of one line; tells whether there was one that only vLLM prints."""
    told = False
    if tokens := _TOKENS.search(line):
        count = _whole(tokens.group(1))
        log.kv_cache_tokens = count if log.kv_cache_tokens is None else min(count, log.kv_cache_tokens)
        told = True
    if concurrency := _CONCURRENCY.search(line):
        log.max_concurrency_tokens = _whole(concurrency.group(1))
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
    if load := _LOAD.search(line):
        seconds = float(load.group(1) or load.group(2))
        log.load_seconds = seconds if log.load_seconds is None else max(seconds, log.load_seconds)
    if blocks := _BLOCKS.search(line):
        log.gpu_blocks = _whole(blocks.group(1))
    if reason := _NO_CUSTOM.search(line):
        log.custom_all_reduce, log.custom_all_reduce_reason = False, reason.group(1).strip()
        told = True
    if backends := _BACKENDS.search(line):
        log.all_reduce_backends = [name.strip(" '\"") for name in backends.group(1).split(",")]
    if init := _INIT.search(line):
        log.engine_init_seconds = float(init.group(1))
        told = True
    if graphs := _GRAPHS.search(line):
        log.graph_capture_seconds = float(graphs.group(1))
    if any(words in line for words in _READY):
        log.ready = True
    log.version = log.version or _named(_VERSION, line)
    log.model = log.model or _named(_MODEL, line)
    log.nccl = log.nccl or _named(_NCCL, line)
    if "all-reduce" not in line:
        log.attention_backend = log.attention_backend or _named(_ATTENTION, line)
    return told


def _failure(line: str, log: VllmLog) -> bool:
    said = line.strip()[:400]
    if free := _FREE.search(line):
        failure = VllmFailure(
            "free-memory",
            said,
            unit=free.group(3),
            needed=float(free.group(5)),
            available=float(free.group(1)),
            total=float(free.group(2)),
        )
    elif needed := _NEEDED.search(line):
        estimate = _ESTIMATE.search(line)
        failure = VllmFailure(
            "kv-too-small",
            said,
            unit=needed.group(3),
            needed=float(needed.group(2)),
            available=float(needed.group(4)),
            max_model_len=_whole(needed.group(1)),
            estimated_max_model_len=_whole(estimate.group(1)) if estimate else None,
        )
    else:
        kind = next((kind for kind, pattern in _FAILURES if pattern.search(line)), None)
        if kind is None:
            return False
        failure = VllmFailure(kind, said)
    if len(log.failures) < 50 and not any(f.kind == failure.kind for f in log.failures):
        log.failures.append(failure)
    return failure.kind not in ("out-of-memory", "bad-argument", "nccl-error")  # others say these, too


def _whole(text: str) -> int:
    return int(text.replace(",", ""))


def _named(pattern: re.Pattern[str], line: str) -> str | None:
    found = pattern.search(line)
    return next((group for group in found.groups() if group), None) if found else None
