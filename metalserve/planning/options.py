"""The splits of a model that a host allows, each with its memory and its speed. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from metalserve.catalogue.models import GpuCatalogue, GpuSpec
from metalserve.hardware.node import NodeHardware
from metalserve.planning import placement
from metalserve.planning.allreduce import MeasuredLinks, curve_for
from metalserve.planning.constraints import split_problem
from metalserve.planning.memory import Correction, Share, batched_tokens, most_at_once, share_of
from metalserve.planning.model import ModelConfig
from metalserve.planning.speed import Speed, compute_of
from metalserve.planning.work import Split

if TYPE_CHECKING:
    from metalserve.settings import EngineSettings


@dataclass(frozen=True)
class Host:
    """What of the hardware the plan uses."""

    hardware: NodeHardware
    gpus: tuple[int, ...]
    memory_mib: int
    spec: GpuSpec | None

    @property
    def name(self) -> str:
        """The product name of the GPUs."""
        first = self.hardware.gpu(self.gpus[0])
        return (first.name if first else None) or "GPU"


def usable_host(hardware: NodeHardware, catalogue: GpuCatalogue) -> Host | str:
    """Return what the plan uses of the hardware, or why nothing can be planned on it."""
    if not hardware.gpus:
        return f"nvidia-smi shows no GPU (its state: {hardware.smi_state}), so there is nothing to plan on"
    unknown = [gpu.index for gpu in hardware.gpus if not gpu.memory_mib]
    if unknown:
        return f"the memory of GPU {', '.join(map(str, unknown))} could not be read"
    if any(gpu.mig_enabled for gpu in hardware.gpus):
        return "MIG is on: metalserve plans whole GPUs, turn MIG off first (nvidia-smi -mig 0)"
    first = hardware.gpus[0]
    names = {gpu.name for gpu in hardware.gpus}
    if len(names) > 1:
        return f"GPUs of several kinds in one host are not planned ({', '.join(sorted(map(str, names)))})"
    memory = min(gpu.memory_mib or 0 for gpu in hardware.gpus)
    indices = tuple(gpu.index for gpu in hardware.gpus)
    return Host(hardware, indices, memory, catalogue.find(first.device_id, first.name))


@dataclass(frozen=True)
class Option:
    """A split that the host allows.

    Attributes:
        split: how one engine lies over its GPUs.
        groups: the GPUs of each engine that the host holds, pipeline stages in order.
        share: memory of the fullest GPU; its `kv_tokens` are the whole engine's.
        linked: NVLink inside every tensor-parallel group.
        speed: what an engine does; None when the catalogue does not know the GPU's rates.
    """

    split: Split
    groups: tuple[tuple[int, ...], ...]
    share: Share
    linked: bool
    speed: Speed | None = None

    @property
    def tensor_parallel(self) -> int:
        """GPUs that share each layer."""
        return self.split.tensor

    @property
    def pipeline_parallel(self) -> int:
        """Pipeline stages."""
        return self.split.pipeline

    @property
    def size(self) -> int:
        """GPUs of one engine."""
        return self.split.gpus

    @property
    def words(self) -> str:
        """The split in words: `2 x TP4`, `1 x TP2 PP4`, `1 x DP8 EP`."""
        parts = []
        if self.split.data > 1:
            parts.append(f"DP{self.split.data}")
        if self.split.tensor > 1 or self.size == 1 or self.split.data == 1 == self.split.tensor:
            parts.append(f"TP{self.split.tensor}")
        if self.split.pipeline > 1:
            parts.append(f"PP{self.split.pipeline}")
        if self.split.expert:
            parts.append("EP")
        return f"{len(self.groups)} x {' '.join(parts)}"


@dataclass(frozen=True)
class Terms:
    """What a plan is made under, beside hardware and model.

    Attributes:
        utilization: share of the memory that vLLM may use.
        kv_element_bytes: bytes of an element of the KV cache.
        batched: tokens of a prefill step; None: vLLM's default for the GPU.
        most_at_once: --max-num-seqs; None: vLLM's default for the GPU.
        eager: no CUDA graphs are captured.
        measured: all-reduces measured on this host.
        correction: what earlier launches on this host taught.
    """

    utilization: float
    kv_element_bytes: float = 2.0
    batched: int | None = None
    most_at_once: int | None = None
    eager: bool = False
    measured: MeasuredLinks | None = None
    correction: Correction | None = None


class Options:
    """All splits of one model on one host."""

    def __init__(self, host: Host, model: ModelConfig, engine: EngineSettings, terms: Terms) -> None:
        self.host, self.model, self.engine, self.terms = host, model, engine, terms

    @property
    def batched(self) -> int:
        """Tokens of a prefill step."""
        spec = self.host.spec
        return self.terms.batched or batched_tokens(self.host.memory_mib, spec.id if spec else "")

    def share(self, split: Split, model: ModelConfig | None = None) -> Share:
        """Return how the memory of a GPU is divided under a split."""
        return share_of(
            model or self.model,
            self.host.memory_mib,
            self.terms.utilization,
            tensor_parallel=split.tensor,
            pipeline_parallel=split.pipeline,
            data_parallel=split.data,
            expert_ranks=split.expert_ranks,
            batched=self.batched,
            eager=self.terms.eager,
            kv_element_bytes=self.terms.kv_element_bytes,
            correction=self.terms.correction,
        )

    def groups(self, split: Split) -> list[tuple[int, ...]]:
        """Return the GPUs of every engine that the host can hold under a split."""
        hardware, wide = self.host.hardware, split.tensor * split.data
        if wide == 1:  # the stages themselves are single GPUs: near ones make a pipeline
            return placement.groups_of(hardware, self.host.gpus, split.pipeline)
        stages = placement.groups_of(hardware, self.host.gpus, wide)
        return [
            tuple(gpu for stage in stages[place : place + split.pipeline] for gpu in stage)
            for place in range(0, len(stages) - split.pipeline + 1, split.pipeline)
        ]

    def speed(self, split: Split, groups: Sequence[tuple[int, ...]], share: Share) -> Speed | None:
        """Return the speed of an engine under a split, by the slowest of the groups; None when it cannot be told."""
        spec, compute = self.host.spec, compute_of(self.host.spec)
        if spec is None or compute is None:
            return None
        tensor, wide = split.tensor, split.tensor * split.data
        inner = [group[place : place + tensor] for group in groups for place in range(0, len(group), tensor)]
        outer = [group[place : place + wide] for group in groups for place in range(0, len(group), wide)]
        hardware, measured = self.host.hardware, self.terms.measured

        def slowest(parts: list[tuple[int, ...]]) -> tuple[int, ...]:
            return min(parts, key=lambda part: placement.quality(hardware, part))

        return Speed(
            self.model,
            split,
            spec,
            compute,
            curve_for(hardware, spec, slowest(inner), measured),
            kv_tokens=share.kv_tokens,
            batched=self.batched,
            most_at_once=self.terms.most_at_once or most_at_once(self.host.memory_mib, spec.id),
            kv_element_bytes=self.terms.kv_element_bytes,
            expert_curve=curve_for(hardware, spec, slowest(outer), measured) if split.expert else None,
        )

    @cached_property
    def all(self) -> tuple[list[Option], list[str]]:
        """Every split that the host and the model allow, smallest first, and why others are not allowed."""
        options: list[Option] = []
        problems: list[str] = []
        for split in self._splits():
            if split.gpus > len(self.host.gpus):
                said = f"{split.tensor} x {split.pipeline} GPUs a replica are more than the host's"
                problems.append(f"{said} {len(self.host.gpus)}")
                continue
            if problem := split_problem(self.model, split.tensor, split.pipeline, split.expert_ranks):
                problems.append(f"tensor parallel {split.tensor}, pipeline parallel {split.pipeline}: {problem}")
                continue
            groups = tuple(self.groups(split))
            if not groups:
                continue
            share = self.share(split)
            options.append(Option(split, groups, share, self._linked(split, groups), self.speed(split, groups, share)))
        return options, problems

    def _linked(self, split: Split, groups: Sequence[tuple[int, ...]]) -> bool:
        wide = split.tensor * split.data
        return all(
            placement.joined_by_nvlink(self.host.hardware, group[place : place + wide])
            for group in groups
            for place in range(0, len(group), wide)
        )

    def _splits(self) -> Iterator[Split]:
        engine, count = self.engine, len(self.host.gpus)
        powers = [2**n for n in range(count.bit_length()) if 2**n <= count]
        widest = self.widest
        for tensor in [engine.tensor_parallel] if engine.tensor_parallel else powers:
            if engine.tensor_parallel is None and tensor > widest:
                continue
            for pipeline in self._pipelines():
                blocked = split_problem(self.model, tensor, pipeline)
                yield Split(tensor, pipeline)
                if blocked and self.model.experts and tensor > 1:
                    yield Split(tensor, pipeline, expert=True)
        if engine.pipeline_parallel in {None, 1} and self.model.experts:
            yield from self._expert_splits(powers)

    def _expert_splits(self, powers: Sequence[int]) -> Iterator[Split]:
        """Yield splits whose attention works on different requests while whole experts are shared: NVLink only."""
        engine = self.engine
        largest = placement.largest_nvlink_group(self.host.hardware, self.host.gpus)
        for tensor in [engine.tensor_parallel] if engine.tensor_parallel else powers:
            for data in powers:
                if data > 1 and tensor * data <= largest:
                    yield Split(tensor, 1, data, expert=True)

    @property
    def widest(self) -> int:
        """Return the most GPUs that may share a layer.

        Where some GPUs have NVLink, a group stays inside it: another cut without a slow link always exists. On a host
        that is PCIe alone the numbers decide. Links that could not be read carry nothing.
        """
        largest = placement.largest_nvlink_group(self.host.hardware, self.host.gpus)
        if largest > 1 or not self.host.hardware.links:
            return largest
        return len(self.host.gpus)

    def _pipelines(self) -> Sequence[int]:
        """Return the pipeline sizes to look at: a user who sets tensor_parallel alone means no pipeline."""
        if self.engine.pipeline_parallel:
            return [self.engine.pipeline_parallel]
        return [1] if self.engine.tensor_parallel else range(1, len(self.host.gpus) + 1)
