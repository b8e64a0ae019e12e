"""Why vLLM did not start, from lines of its log."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

SIZE: Final = r"(\d{1,6}(?:\.\d{1,4})?) ?(GiB|GB|MiB|MB)"
COUNT: Final = r"(\d{1,3}(?:,\d{3}){1,5}|\d{1,15})"

_FREE = re.compile(
    r"Free memory on device(?: \S{1,20})? \((\d{1,6}(?:\.\d{1,3})?)/(\d{1,6}(?:\.\d{1,3})?) (GiB|GB)\) on startup is "
    r"less than desired GPU memory utilization \((\d(?:\.\d{1,4})?), (\d{1,6}(?:\.\d{1,3})?) (?:GiB|GB)\)"
)
_NEEDED = re.compile(
    rf"max seq len \({COUNT}\), \(?{SIZE} KV cache is needed, which is larger than "
    rf"the available KV cache memory \({SIZE}\)"
)
_ESTIMATE = re.compile(rf"estimated maximum model length is {COUNT}")
_FAILURES: Final = (
    ("out-of-memory", re.compile(r"CUDA out of memory|torch\.(?:cuda\.)?OutOfMemoryError")),
    ("no-kv-memory", re.compile(r"No available memory for the cache blocks")),
    ("bad-argument", re.compile(r"error: unrecognized arguments|error: argument ")),
    ("nccl-error", re.compile(r"NCCL error|ncclInternalError|ncclUnhandledCudaError|ncclSystemError")),
    ("engine-failed", re.compile(r"Engine core initialization failed|EngineCore failed to start")),
)
NOT_ITS_OWN: Final = ("out-of-memory", "bad-argument", "nccl-error")
"""Kinds whose words other programs print, too."""


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


def whole(text: str) -> int:
    """Return a number that may have commas between its thousands."""
    return int(text.replace(",", ""))


def failure_of(line: str) -> VllmFailure | None:
    """Return why vLLM did not start, when a line says so."""
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
            max_model_len=whole(needed.group(1)),
            estimated_max_model_len=whole(estimate.group(1)) if estimate else None,
        )
    else:
        kind = next((kind for kind, pattern in _FAILURES if pattern.search(line)), None)
        if kind is None:
            return None
        failure = VllmFailure(kind, said)
    return failure
