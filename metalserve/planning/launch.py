"""The launch plan: how many engines, over which GPUs, with which arguments, and why. Values in, values out."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from metalserve.catalogue.models import GpuCatalogue
from metalserve.hardware.node import NodeHardware
from metalserve.planning import arguments, explain
from metalserve.planning.allreduce import MeasuredLinks
from metalserve.planning.choice import Candidate, busiest
from metalserve.planning.memory import Correction, Share
from metalserve.planning.model import ModelConfig
from metalserve.planning.plan_json import plan_dict
from metalserve.planning.prepared import Prepared, prepare
from metalserve.planning.profile import Workload as ProfileWorkload
from metalserve.planning.search import Search
from metalserve.planning.work import Split
from metalserve.planning.workload import Intent, Workload

if TYPE_CHECKING:
    from metalserve.releases import Release
    from metalserve.settings import EngineSettings


@dataclass(frozen=True)
class RunnerUp:
    """Another option that fits, and why it lost."""

    candidate: Candidate
    why: str


@dataclass(frozen=True)
class LaunchPlan:
    """How a model is served on a host. When `fits` is false, `refused` says why and what would fit.

    Attributes:
        replicas: engines on the host.
        split: how each engine lies over its GPUs.
        gpus_per_replica: nvidia-smi's GPU numbers of each replica, pipeline stages in order.
        max_model_len: tokens of prompt and answer together.
        gpu_memory_utilization: share of the memory that vLLM may use, 0 to 1.
        kv_tokens: tokens that the KV cache of one replica holds, lowered by the plan's own error.
        memory: weights, overhead, KV cache on the fullest GPU, bytes; None when nothing was planned.
        vllm_args: arguments of the first replica, what follows the image name; `replica_args` gives the others.
        reasons: why it is so, in sentences with numbers.
        refused: why there is no plan; empty when there is one.
        quantization: how the weights are stored, as config.json names it; None: as they were trained.
        batched: tokens of a prefill step (--max-num-batched-tokens).
        most_at_once: --max-num-seqs of an engine where the plan sets it.
        candidates: the options that fit, the one that is taken first, the next best after it.
        numa: NUMA nodes of each replica's GPUs.
        workload: what the plan was made for.
        intent: what was favoured.
        load_s: seconds to read the weights of all engines from the host's drive; None when its rate is not known.
    """

    fits: bool
    replicas: int = 0
    split: Split = field(default_factory=Split)
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
    quantization: str | None = None
    batched: int = 0
    most_at_once: int | None = None
    candidates: tuple[Candidate, ...] = ()
    numa: tuple[tuple[str, ...], ...] = ()
    workload: Workload | None = None
    intent: Intent = "balanced"
    load_s: float | None = None

    @property
    def chosen(self) -> Candidate | None:
        """What the engines do; None when nothing was planned."""
        return self.candidates[0] if self.candidates else None

    @cached_property
    def runners_up(self) -> tuple[RunnerUp, ...]:
        """The other options that fit, the next best first, and why each lost."""
        if not self.candidates or self.workload is None:
            return ()
        chosen, *others = self.candidates
        return tuple(RunnerUp(c, explain.lost(c, chosen, self.intent, self.workload)) for c in others)

    @cached_property
    def would_change(self) -> tuple[str, ...]:
        """What would make another option the choice."""
        if not self.candidates or self.workload is None:
            return ()
        return tuple(explain.would_change(self.candidates, self.workload, self.intent))

    @property
    def tensor_parallel(self) -> int:
        """GPUs that share each layer."""
        return self.split.tensor

    @property
    def pipeline_parallel(self) -> int:
        """Pipeline stages of an engine."""
        return self.split.pipeline

    def replica_args(self, replica: int) -> tuple[str, ...]:
        """Return the arguments of one replica (from 0): those of the first, on its own port."""
        words = list(self.vllm_args)
        words[words.index("--port") + 1] = str(self.ports[replica])
        return tuple(words)

    def as_dict(self) -> dict[str, object]:
        """Return the plan for JSON; the names are documented and stable (docs/plan-schema.md)."""
        return plan_dict(self)


def plan_launch(
    hardware: NodeHardware,
    model: ModelConfig,
    engine: EngineSettings,
    release: Release,
    catalogue: GpuCatalogue,
    *,
    model_path: str = "MODEL",
    served_name: str | None = None,
    measured: MeasuredLinks | None = None,
    correction: Correction | None = None,
    read_gb_s: float | None = None,
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
        measured: all-reduces measured on this host; they go before the catalogue's.
        correction: what earlier launches of this model on this host taught (`calibration`).
        read_gb_s: rate at which the host's drive was read, GB/s, to say how long loading takes.

    Raises:
        MetalserveError: the release's vLLM is not in the flag catalogue.
    """
    version = release.vllm.version
    ready = prepare(hardware, model, engine, release, catalogue, measured=measured, correction=correction)
    if isinstance(ready, str):
        return LaunchPlan(fits=False, refused=ready, vllm_version=version)
    search = Search(ready.host, ready.model, engine, ready.terms)
    found = search.plan()
    reasons = [*ready.said, *found.said]

    def refuse(why: str) -> LaunchPlan:
        return LaunchPlan(fits=False, refused=why, reasons=tuple(reasons), vllm_version=version)

    if not found.candidates:
        return refuse(found.refused)
    chosen, option = found.candidates[0], found.candidates[0].option
    context, context_said = search.context(option)
    reasons.append(context_said)
    ports = tuple(range(engine.port, engine.port + len(option.groups)))
    if ports[-1] > 65535:
        return refuse(f"{len(ports)} replicas from port {engine.port} on need a port above 65535: lower engine.port")
    batching, most, batching_said = _batching(ready, search, chosen, engine)
    reasons += batching_said
    reasons += explain.offload(ready.host, chosen, search.workload)
    load_s, load_said = explain.load(option, read_gb_s)
    reasons.append(load_said)
    asked = engine.workload.concurrency
    per_replica = ProfileWorkload(asked and -(-asked // len(option.groups)))
    words = arguments.vllm_args(
        ready.flags,
        model_path=model_path,
        served_name=served_name,
        engine=engine,
        port=ports[0],
        tensor_parallel=option.tensor_parallel,
        pipeline_parallel=option.pipeline_parallel,
        max_model_len=context,
        utilization=ready.terms.utilization,
        dtype="half" if ready.half else None,
        model=ready.model,
        workload=per_replica,
    )
    reasons += arguments.profile_reasons(ready.flags, engine, ready.model, per_replica)
    words = _inserted(words, [*_expert_words(option.split), *_unless_given(batching, words)], engine)
    if wrong := arguments.first_error(words, version):
        return refuse(f"vLLM {version} would not start: {wrong}")
    return LaunchPlan(
        fits=True,
        replicas=len(option.groups),
        split=option.split,
        gpus_per_replica=option.groups,
        max_model_len=context,
        gpu_memory_utilization=ready.terms.utilization,
        kv_tokens=option.share.kv_tokens,
        memory=option.share,
        vllm_args=tuple(words),
        reasons=tuple(reasons),
        vllm_version=version,
        ports=ports,
        quantization=ready.model.quantisation.method if ready.model.quantisation else None,
        batched=search.options.batched,
        most_at_once=most,
        candidates=found.candidates,
        numa=tuple(tuple(explain.numa_of(ready.host, group)) for group in option.groups),
        workload=search.workload,
        intent=engine.intent,
        load_s=load_s,
    )


def _inserted(words: list[str], more: list[str], engine: EngineSettings) -> list[str]:
    """Return the arguments with planned ones before engine.extra_args, which stay last."""
    place = len(words) - len(engine.extra_args)
    return [*words[:place], *more, *words[place:]]


def _unless_given(planned: list[str], words: list[str]) -> list[str]:
    """Return the planned (option, value) pairs without those that a profile has set already."""
    pairs = zip(planned[::2], planned[1::2], strict=True)
    return [word for pair in pairs if pair[0] not in words for word in pair]


def _expert_words(split: Split) -> list[str]:
    words = ["--data-parallel-size", str(split.data)] if split.data > 1 else []
    return [*words, "--enable-expert-parallel"] if split.expert else words


def _batching(
    ready: Prepared, search: Search, chosen: Candidate, engine: EngineSettings
) -> tuple[list[str], int | None, list[str]]:
    """Return (arguments, --max-num-seqs where it is set, reasons): vLLM's defaults unless a limit needs others."""
    words: list[str] = []
    said: list[str] = []
    if ready.terms.batched and ready.batched_said is None:
        words += ["--max-num-batched-tokens", str(ready.terms.batched)]
        said.append(
            f"A prefill step takes {ready.terms.batched:,} tokens at most, so that a long prompt does not hold up the "
            "tokens of others."
        )
    most = None
    limited = engine.workload.tpot_ms is not None and chosen.estimate is not None and chosen.keeps
    if limited and arguments.value_of(engine.extra_args, "--max-num-seqs") is None and chosen.option.speed is not None:
        assert chosen.estimate is not None
        free = replace(search.workload, concurrency=None)
        most = max(1, int(busiest(chosen.option, free, engine.intent).running))
        words += ["--max-num-seqs", str(most)]
        said.append(f"An engine takes {most} requests at once; more would break the limit, they wait instead.")
    return words, most, said
