"""The launch plan: how many engines, over which GPUs, with which arguments, and why. Values in, values out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from metalserve.catalogue.models import GpuCatalogue
from metalserve.catalogue.vllm_flags import load_flags
from metalserve.hardware.node import NodeHardware
from metalserve.planning import arguments
from metalserve.planning.constraints import capability_notes, capability_problem
from metalserve.planning.memory import GIB, Share
from metalserve.planning.model import ModelConfig, quantised_online
from metalserve.planning.search import Search, usable_host

if TYPE_CHECKING:
    from metalserve.releases import Release
    from metalserve.settings import EngineSettings

FEWER_THAN_GIB = 24
"""Cards with less memory often drive a display or another process: their planned share stays at 0.90."""


@dataclass(frozen=True)
class LaunchPlan:
    """How a model is served on a host. When `fits` is false, `refused` says why and what would fit.

    Attributes:
        replicas: engines on the host.
        gpus_per_replica: nvidia-smi's GPU numbers of each replica, pipeline stages in order.
        max_model_len: tokens of prompt and answer together.
        gpu_memory_utilization: share of the memory that vLLM may use, 0 to 1.
        kv_tokens: tokens that the KV cache of one replica holds, lowered by the plan's own error.
        memory: weights, overhead, KV cache on the fullest GPU, bytes; None when nothing was planned.
        vllm_args: arguments of the first replica, what follows the image name; `replica_args` gives the others.
        reasons: why it is so, in sentences with numbers.
        refused: why there is no plan; empty when there is one.
    """

    fits: bool
    replicas: int = 0
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    gpus_per_replica: tuple[tuple[int, ...], ...] = ()
    max_model_len: int = 0
    gpu_memory_utilization: float = 0.0
    kv_tokens: int = 0
    memory: Share | None = None
    vllm_args: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    refused: str = ""
    vllm_version: str = ""
    ports: tuple[int, ...] = ()

    def replica_args(self, replica: int) -> tuple[str, ...]:
        """Return the arguments of one replica (from 0): those of the first, on its own port."""
        words = list(self.vllm_args)
        words[words.index("--port") + 1] = str(self.ports[replica])
        return tuple(words)

    def as_dict(self) -> dict[str, object]:
        """Return the plan for JSON; the names are documented and stable (version 1)."""
        memory = self.memory
        return {
            "version": 1,
            "fits": self.fits,
            "refused": self.refused or None,
            "vllm_version": self.vllm_version,
            "data_parallel_size": self.replicas,
            "tensor_parallel_size": self.tensor_parallel,
            "pipeline_parallel_size": self.pipeline_parallel,
            "gpus_per_replica": [list(group) for group in self.gpus_per_replica],
            "max_model_len": self.max_model_len,
            "gpu_memory_utilization": self.gpu_memory_utilization,
            "weights_gib_per_gpu": round(memory.weights / GIB, 2) if memory else None,
            "overhead_gib_per_gpu": round(memory.overhead / GIB, 2) if memory else None,
            "kv_cache_gib_per_gpu": round(memory.kv_bytes / GIB, 2) if memory else None,
            "kv_cache_tokens": self.kv_tokens,
            "reasons": list(self.reasons),
            "vllm_args": list(self.vllm_args),
            "ports": list(self.ports),
        }


def plan_launch(
    hardware: NodeHardware,
    model: ModelConfig,
    engine: EngineSettings,
    release: Release,
    catalogue: GpuCatalogue,
    *,
    model_path: str = "MODEL",
    served_name: str | None = None,
) -> LaunchPlan:
    """Plan the engines of one host.

    What the settings say (tensor_parallel, pipeline_parallel, replicas, max_model_len, gpu_memory_utilization) is taken
    as said, and refused where it cannot work; the rest is planned. A plan whose arguments the release's vLLM would not
    accept is refused.

    Args:
        hardware: the host as observed (or `hardware_by_name`).
        model: the model (`model_config_from`).
        engine: the engine settings of the host.
        release: the release; its vLLM version decides defaults and flags.
        catalogue: GPUs (`load_gpus`).
        model_path: where the container finds the model.
        served_name: the name that clients ask for; the path when None.

    Raises:
        MetalserveError: the release's vLLM is not in the flag catalogue.
    """
    version = release.vllm.version
    flags = load_flags(version)
    found = usable_host(hardware, catalogue)
    if isinstance(found, str):
        return LaunchPlan(fits=False, refused=found, vllm_version=version)
    if problem := arguments.extra_problem(engine.extra_args, flags):
        return LaunchPlan(fits=False, refused=problem, vllm_version=version)
    reasons: list[str] = []
    if arguments.value_of(engine.extra_args, "--quantization", "-q") == "fp8" and model.quantisation is None:
        model = quantised_online(model)
        reasons.append("engine.extra_args quantises the weights to FP8 as they are loaded.")
    if problem := capability_problem(model, found.spec, version):
        return LaunchPlan(fits=False, refused=problem, vllm_version=version)
    reasons += capability_notes(model, found.spec)
    utilization = _utilization(engine, found.memory_mib, flags.by_name["--gpu-memory-utilization"].default)
    kv_bytes = 1.0 if (arguments.value_of(engine.extra_args, "--kv-cache-dtype") or "").startswith("fp8") else 2.0
    search = Search(found, model, engine, utilization, kv_bytes)
    option, said, refused = search.plan()
    reasons += said
    if option is None:
        return LaunchPlan(fits=False, refused=refused, reasons=tuple(reasons), vllm_version=version)
    context, context_said = search.context(option)
    reasons.append(context_said)
    ports = tuple(range(engine.port, engine.port + len(option.groups)))
    if ports[-1] > 65535:
        refused = f"{len(ports)} replicas from port {engine.port} on need a port above 65535: lower engine.port"
        return LaunchPlan(fits=False, refused=refused, reasons=tuple(reasons), vllm_version=version)
    half = model.dtype == "bfloat16" and found.spec is not None and found.spec.capability < (8, 0)
    words = arguments.vllm_args(
        flags,
        model_path=model_path,
        served_name=served_name,
        engine=engine,
        port=ports[0],
        tensor_parallel=option.tensor_parallel,
        pipeline_parallel=option.pipeline_parallel,
        max_model_len=context,
        utilization=utilization,
        dtype="half" if half else None,
        model=model,
    )
    reasons += arguments.profile_reasons(flags, engine, model)
    if wrong := arguments.first_error(words, version):
        refused = f"vLLM {version} would not start: {wrong}"
        return LaunchPlan(fits=False, refused=refused, reasons=tuple(reasons), vllm_version=version)
    return LaunchPlan(
        fits=True,
        replicas=len(option.groups),
        tensor_parallel=option.tensor_parallel,
        pipeline_parallel=option.pipeline_parallel,
        gpus_per_replica=option.groups,
        max_model_len=context,
        gpu_memory_utilization=utilization,
        kv_tokens=option.share.kv_tokens,
        memory=option.share,
        vllm_args=tuple(words),
        reasons=tuple(reasons),
        vllm_version=version,
        ports=ports,
    )


def _utilization(engine: EngineSettings, memory_mib: int, default: object) -> float:
    if engine.gpu_memory_utilization is not None:
        return engine.gpu_memory_utilization
    share = default if isinstance(default, float) else 0.9
    return min(share, 0.9) if memory_mib < FEWER_THAN_GIB * 1024 else share
