"""What the engine printed when it started, held against the plan, and kept for the next plan. Values in and out; pure.

The kept form is JSON, schema 1: {"schema": 1, "corrections": [ ... ]}, one entry a host, model and vLLM version, with
the fields of `Learned`. `metalserve plan --calibration FILE` and the serving role read it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from metalserve.errors import MetalserveError
from metalserve.hardware.parsers.vllm_log import VllmLog
from metalserve.planning.memory import GIB, Correction, Share

SCHEMA = 1

LEAST_FACTOR, MOST_FACTOR = 0.8, 1.3
"""Weights against what was counted, beyond which the log is of another model (405B FP8, attention in 16 bit: 1.21)."""

MOST_OVERHEAD_SHARE = 0.4
"""Share of the usable memory beyond which an overhead is no overhead: Kimi-K3 on GB300 took 0.15."""


@dataclass(frozen=True)
class Deviation:
    """One figure of the plan beside what the engine printed.

    Attributes:
        what: `weights`, `KV cache`, `KV tokens`, `overhead`.
        planned: GiB a GPU, or tokens.
        printed: the same.
        unit: `GiB` or `tokens`.
        within: the plan was right within its own error.
    """

    what: str
    planned: float
    printed: float
    unit: str
    within: bool

    @property
    def percent(self) -> float:
        """Planned against printed, percent."""
        return 100 * (self.planned / self.printed - 1) if self.printed else 0.0

    def __str__(self) -> str:
        digits = ".2f" if self.unit == "GiB" else ",.0f"
        return (
            f"{self.what}: planned {self.planned:{digits}} {self.unit}, the engine printed {self.printed:{digits}} "
            f"({self.percent:+.1f} %{'' if self.within else ', more than the plan allows for'})"
        )


def weights_gib(log: VllmLog) -> float | None:
    """Return the weights of a GPU, the most of its ranks, GiB."""
    return _gib(log.weights, log.weights_unit)


def kv_cache_gib(log: VllmLog) -> float | None:
    """Return the memory left for the KV cache of a GPU, the least of its ranks, GiB."""
    return _gib(log.kv_cache, log.kv_cache_unit)


def _gib(size: float | None, unit: str | None) -> float | None:
    # vLLM wrote GB where it meant GiB until 0.8, and never meant 1000.
    return None if size is None else size / 1024 if unit in ("MiB", "MB") else size


def deviations(share: Share, log: VllmLog, data_parallel: int = 1) -> list[Deviation]:
    """Return the plan's figures beside those that the engine printed; those that it did not print are left out.

    Args:
        share: the plan's memory of the fullest GPU.
        log: what the engine printed.
        data_parallel: data-parallel ranks of the engine, whose KV tokens the log sums.
    """
    found = []
    weights, kv_cache, tokens = weights_gib(log), kv_cache_gib(log), log.kv_cache_tokens_total
    if weights is not None:
        found.append(_deviation("weights", share.weights / GIB, weights, "GiB", 0.03))
    if kv_cache is not None and log.device != "CPU":
        found.append(_deviation("KV cache", (share.kv_bytes + share.window) / GIB, kv_cache, "GiB", share.error))
    if tokens is not None and log.device != "CPU":
        planned = share.printed_tokens * (data_parallel if log.engines > 1 else 1)
        found.append(_deviation("KV tokens", planned, tokens, "tokens", share.error))
    return found


def _deviation(what: str, planned: float, printed: float, unit: str, error: float) -> Deviation:
    return Deviation(what, planned, printed, unit, abs(planned - printed) <= error * abs(printed))


def correction_after(share: Share, log: VllmLog, before: Correction | None = None) -> Correction | str:
    """Return what is to be added to the next plan so that it would have been right, or why nothing can be learned.

    Args:
        share: the plan that was launched; it may have had a correction already.
        log: what the engine printed.
        before: that correction.
    """
    if log.device == "CPU":
        return "the engine ran on a CPU: its memory says nothing of a GPU"
    weights, kv_cache = weights_gib(log), kv_cache_gib(log)
    if weights is None or kv_cache is None:
        return "the log does not say both weights and KV cache memory"
    if kv_cache <= 0:
        return "the engine had no room for a KV cache"
    before = before or Correction()
    factor = weights * GIB / (share.weights / before.weights_factor)
    if not LEAST_FACTOR <= factor <= MOST_FACTOR:
        return f"the weights are {factor:.2f} of what was counted: the log is of another model or split"
    budget = log.budget * GIB if log.budget else share.budget
    overhead = budget - weights * GIB - kv_cache * GIB
    if not 0 <= overhead <= MOST_OVERHEAD_SHARE * budget:
        return f"weights and KV cache leave {overhead / GIB:.1f} GiB for all else: the log is of another launch"
    counted = share.overhead - before.overhead
    return Correction(round(factor, 5), float(round(overhead - counted)))


@dataclass(frozen=True)
class Learned:
    """A correction that is kept.

    Attributes:
        host: name of the host in the inventory.
        model: repository id of the model.
        vllm: version of vLLM that printed it.
        tensor_parallel: split of the launch, for the reader; the factor holds for any.
        weights_factor: weights as printed against as counted.
        overhead_bytes: bytes a GPU to add to what is counted beside weights and KV cache.
        observed: when, UTC, ISO 8601.
    """

    host: str
    model: str
    vllm: str
    tensor_parallel: int
    pipeline_parallel: int
    weights_factor: float
    overhead_bytes: float
    observed: str

    @property
    def correction(self) -> Correction:
        """The same for a plan."""
        return Correction(self.weights_factor, self.overhead_bytes)


def remember(known: Sequence[Learned], new: Learned) -> list[Learned]:
    """Return the corrections with a new one in place of the older one of its host, model and version."""
    key = (new.host, new.model, new.vllm)
    return [*(one for one in known if (one.host, one.model, one.vllm) != key), new]


def correction_of(known: Sequence[Learned], host: str, model: str, vllm: str) -> Correction | None:
    """Return the correction for a host, a model and a version of vLLM; versions differ, so none stands for another."""
    return next((one.correction for one in known if (one.host, one.model, one.vllm) == (host, model, vllm)), None)


def as_json(known: Sequence[Learned]) -> str:
    """Return the kept form of corrections."""
    return json.dumps({"schema": SCHEMA, "corrections": [asdict(one) for one in known]}, indent=1) + "\n"


def read_corrections(text: str, where: str) -> list[Learned]:
    """Return the corrections of the kept form; an entry with unknown fields is refused.

    Raises:
        MetalserveError: the text has another form.
    """
    try:
        data: Any = json.loads(text)
        if data["schema"] != SCHEMA:
            raise ValueError(f"schema {data['schema']!r}, this metalserve reads {SCHEMA}")
        found = [Learned(**entry) for entry in data["corrections"]]
        for one in found:
            if not LEAST_FACTOR <= one.weights_factor <= MOST_FACTOR:
                raise ValueError(f"a weights_factor of {one.weights_factor}")
            float(one.overhead_bytes)
    except (KeyError, TypeError, ValueError) as error:
        raise MetalserveError(
            f"no corrections of metalserve: {error}", where=where, remedy="remove the file; it is made anew"
        ) from error
    return found
