"""What every planning begins with: the host, the model as it is served, and the terms of the settings. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from metalserve.catalogue.models import GpuCatalogue
from metalserve.catalogue.vllm_flags import FlagCatalogue, load_flags
from metalserve.hardware.node import NodeHardware
from metalserve.planning import arguments
from metalserve.planning.allreduce import MeasuredLinks
from metalserve.planning.constraints import capability_notes, capability_problem
from metalserve.planning.memory import Correction
from metalserve.planning.model import ModelConfig, quantised_online
from metalserve.planning.options import Host, Terms, usable_host

if TYPE_CHECKING:
    from metalserve.releases import Release
    from metalserve.settings import EngineSettings

FEWER_THAN_GIB = 24
"""Cards with less memory often drive a display or another process: their planned share stays at 0.90."""

LATENCY_BATCHED = 2048
"""Tokens of a prefill step when latency counts: a prompt holds up the others' tokens for one step, and a step of 2,048
is four times shorter than the default of large GPUs. vLLM's guide to its scheduler names the same number."""


@dataclass(frozen=True)
class Prepared:
    """What every planning begins with: the host, the model as it is served, and the terms."""

    host: Host
    model: ModelConfig
    flags: FlagCatalogue
    terms: Terms
    said: tuple[str, ...]
    batched_said: int | None

    @property
    def half(self) -> bool:
        """The GPU cannot compute in bfloat16."""
        spec = self.host.spec
        return self.model.dtype == "bfloat16" and spec is not None and spec.capability < (8, 0)


def prepare(
    hardware: NodeHardware,
    model: ModelConfig,
    engine: EngineSettings,
    release: Release,
    catalogue: GpuCatalogue,
    *,
    measured: MeasuredLinks | None = None,
    correction: Correction | None = None,
) -> Prepared | str:
    """Return what a planning begins with, or why there can be none.

    Raises:
        MetalserveError: the release's vLLM is not in the flag catalogue.
    """
    version = release.vllm.version
    flags = load_flags(version)
    found = usable_host(hardware, catalogue)
    if isinstance(found, str):
        return found
    if problem := arguments.extra_problem(engine.extra_args, flags):
        return problem
    said: list[str] = []
    if arguments.value_of(engine.extra_args, "--quantization", "-q") == "fp8" and model.quantisation is None:
        model = quantised_online(model)
        said.append("engine.extra_args quantises the weights to FP8 as they are loaded.")
    if problem := capability_problem(model, found.spec, version):
        return problem
    said += capability_notes(model, found.spec)
    utilization = _utilization(engine, found.memory_mib, flags.by_name["--gpu-memory-utilization"].default)
    kv_bytes = 1.0 if (arguments.value_of(engine.extra_args, "--kv-cache-dtype") or "").startswith("fp8") else 2.0
    given = arguments.value_of(engine.extra_args, "--max-num-batched-tokens") or ""
    asked = int(given) if given.isdecimal() and int(given) > 0 else None
    seqs = arguments.value_of(engine.extra_args, "--max-num-seqs") or ""
    batched = asked or (LATENCY_BATCHED if engine.intent == "latency" else None)
    if correction is not None:
        said.append("What earlier launches on this host printed is counted in.")
    terms = Terms(
        utilization=utilization,
        kv_element_bytes=kv_bytes,
        batched=batched,
        most_at_once=int(seqs) if seqs.isdecimal() and int(seqs) > 0 else None,
        eager="--enforce-eager" in engine.extra_args,
        measured=measured,
        correction=correction,
    )
    return Prepared(found, model, flags, terms, tuple(said), asked)


def _utilization(engine: EngineSettings, memory_mib: int, default: object) -> float:
    if engine.gpu_memory_utilization is not None:
        return engine.gpu_memory_utilization
    share = default if isinstance(default, float) else 0.9
    return min(share, 0.9) if memory_mib < FEWER_THAN_GIB * 1024 else share
