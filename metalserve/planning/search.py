"""The splits of a model that a host allows, the one that is taken, or the nearest that would fit. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from metalserve.catalogue.models import GpuCatalogue, GpuSpec
from metalserve.hardware.node import NodeHardware
from metalserve.planning import placement
from metalserve.planning.choice import Option, choose, cost
from metalserve.planning.constraints import split_problem
from metalserve.planning.memory import GIB, Share, kv_bytes_per_token, share_of
from metalserve.planning.model import ModelConfig, quantised_online

if TYPE_CHECKING:
    from metalserve.settings import EngineSettings

LEAST_CONTEXT = 8192
"""Below this many tokens of context (or the model's own, where shorter) a planned launch does not count as fitting."""


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


class Search:
    """One planning: the options that the hardware allows, the choice, and the words for it."""

    def __init__(
        self, host: Host, model: ModelConfig, engine: EngineSettings, utilization: float, kv_element_bytes: float
    ) -> None:
        self.host, self.model, self.engine = host, model, engine
        self.utilization, self.kv_element_bytes = utilization, kv_element_bytes

    def share(self, tensor: int, pipeline: int, model: ModelConfig | None = None) -> Share:
        """Return how the memory of a GPU is divided under a split."""
        spec = self.host.spec
        return share_of(
            model or self.model,
            self.host.memory_mib,
            self.utilization,
            tensor_parallel=tensor,
            pipeline_parallel=pipeline,
            gpu_id=spec.id if spec else "",
            kv_element_bytes=self.kv_element_bytes,
        )

    @property
    def needed_tokens(self) -> int:
        """KV tokens without which the launch does not count as fitting."""
        if self.engine.max_model_len:
            return self.engine.max_model_len
        return min(self.model.max_position, LEAST_CONTEXT)

    def groups(self, tensor: int, pipeline: int) -> list[tuple[int, ...]]:
        """Return the GPUs of every replica that the host can hold under a split."""
        hardware = self.host.hardware
        if tensor == 1:  # the stages themselves are single GPUs: near ones make a pipeline
            return placement.groups_of(hardware, self.host.gpus, pipeline)
        stages = placement.groups_of(hardware, self.host.gpus, tensor)
        return [
            tuple(gpu for stage in stages[place : place + pipeline] for gpu in stage)
            for place in range(0, len(stages) - pipeline + 1, pipeline)
        ]

    def plan(self) -> tuple[Option | None, list[str], str]:
        """Return the chosen option, what there is to say about it, and why there is none."""
        engine, model = self.engine, self.model
        options, problems = self._options()
        count = len(self.host.gpus)
        if not options:
            nothing = problems[0] if problems else f"{count} GPUs are too few"
            return None, [], nothing
        fitting = [option for option in options if option.share.kv_tokens >= self.needed_tokens]
        if not fitting:
            return None, [], self._refusal(options)
        enough = [option for option in fitting if len(option.groups) >= (engine.replicas or 1)]
        if not enough:
            most = max(fitting, key=lambda option: len(option.groups))
            room = f"{count} GPUs hold {len(most.groups)} of {most.size} GPUs each"
            return None, [], f"engine.replicas is {engine.replicas}, but {room}, the least that the model fits"
        links = placement.describe(self.host.hardware, self.host.gpus)
        chosen, said = choose(enough, options, engine.intent, links, model, count)
        if engine.replicas is not None and engine.replicas < len(chosen.groups):
            chosen = replace(chosen, groups=chosen.groups[: engine.replicas])
            said.append(f"engine.replicas limits the host to {engine.replicas}.")
        used = sum(len(group) for group in chosen.groups)
        if used < count:
            said.append(f"{count - used} of {count} GPUs stay idle.")
        said += self._uneven(chosen)
        if model.rough:
            said.append(f"The memory is a rough estimate: {model.rough}.")
        return chosen, said, ""

    def _uneven(self, option: Option) -> list[str]:
        """Return a sentence for each tensor-parallel group whose pairs are not linked alike."""
        hardware, size = self.host.hardware, option.tensor_parallel
        stages = [group[place : place + size] for group in option.groups for place in range(0, len(group), size)]
        return [
            f"GPUs {', '.join(map(str, stage))} are linked unevenly: their all-reduce runs at the slowest pair."
            for stage in stages
            if size > 1 and placement.uneven(hardware, stage)
        ]

    def _options(self) -> tuple[list[Option], list[str]]:
        """Return every split that the host and the model allow, smallest first, and why others are not allowed."""
        hardware, count = self.host.hardware, len(self.host.gpus)
        engine = self.engine
        largest = placement.largest_nvlink_group(hardware, self.host.gpus)
        options: list[Option] = []
        problems: list[str] = []
        powers = [2**n for n in range(count.bit_length()) if 2**n <= count]
        for tensor in [engine.tensor_parallel] if engine.tensor_parallel else powers:
            if engine.tensor_parallel is None and tensor > largest:
                continue
            for pipeline in self._pipelines():
                if tensor * pipeline > count:
                    problems.append(f"{tensor} x {pipeline} GPUs a replica are more than the host's {count}")
                    continue
                if problem := split_problem(self.model, tensor, pipeline):
                    problems.append(f"tensor parallel {tensor}, pipeline parallel {pipeline}: {problem}")
                    continue
                groups = self.groups(tensor, pipeline)
                if not groups:
                    continue
                linked = all(
                    placement.joined_by_nvlink(hardware, group[place : place + tensor])
                    for group in groups
                    for place in range(0, len(group), tensor)
                )
                options.append(Option(tensor, pipeline, tuple(groups), self.share(tensor, pipeline), linked))
        return options, problems

    def _pipelines(self) -> Sequence[int]:
        """Return the pipeline sizes to look at: a user who sets tensor_parallel alone means no pipeline."""
        if self.engine.pipeline_parallel:
            return [self.engine.pipeline_parallel]
        return [1] if self.engine.tensor_parallel else range(1, len(self.host.gpus) + 1)

    def context(self, option: Option) -> tuple[int, str]:
        """Return the context length in tokens and the sentence that explains it."""
        model, tokens = self.model, option.share.kv_tokens
        if self.engine.max_model_len:
            room = tokens / self.engine.max_model_len
            return self.engine.max_model_len, (
                f"engine.max_model_len is {self.engine.max_model_len:,}; the KV cache of {tokens:,} tokens holds "
                f"{room:.1f} requests of that length at once."
            )
        if tokens >= model.max_position:
            return model.max_position, (
                f"The model's whole context of {model.max_position:,} tokens is served; the KV cache holds {tokens:,}."
            )
        length = max(1024, tokens // 1024 * 1024) if tokens >= 1024 else tokens
        return length, (
            f"The context is cut to {length:,} of the model's {model.max_position:,} tokens: the KV cache holds "
            f"{tokens:,}."
        )

    def _refusal(self, options: Sequence[Option]) -> str:
        """Return why nothing fits and what is the nearest that does."""
        best = max(options, key=lambda option: (option.share.kv_tokens, option.share.kv_bytes))
        share, size = best.share, best.tensor_parallel * best.pipeline_parallel
        model, name = self.model, self.host.name
        free = share.budget - share.weights - share.overhead
        why = (
            f"{model.architecture} needs {share.weights / GIB:.1f} GiB of weights and {share.overhead / GIB:.1f} GiB "
            f"overhead on each of {size} {name}, of {share.budget / GIB:.1f} GiB usable"
        )
        if free > 0:
            per_token = kv_bytes_per_token(model, best.tensor_parallel, best.pipeline_parallel, self.kv_element_bytes)
            why += (
                f"; the {free / GIB:.1f} GiB left hold {share.kv_tokens:,} tokens of {per_token / 1024:.0f} KiB, "
                f"{self.needed_tokens:,} are needed"
            )
        return f"{why}. Nearest that fits: {self._nearest(best)}."

    def _nearest(self, best: Option) -> str:
        ways = []
        tokens = best.share.kv_tokens // 1024 * 1024
        if tokens >= 1024 and self.engine.max_model_len:
            ways.append(f"engine.max_model_len {tokens}")
        model = self.model
        if model.quantisation is None:
            small = quantised_online(model)
            for option in sorted(self._options()[0], key=lambda option: cost(option, len(self.host.gpus))):
                share = self.share(option.tensor_parallel, option.pipeline_parallel, small)
                if share.kv_tokens >= self.needed_tokens and not split_problem(small, option.tensor_parallel, 1):
                    ways.append(
                        f"an FP8 checkpoint of the model ({share.weights / GIB:.1f} GiB a GPU at tensor parallel "
                        f"{option.tensor_parallel}, pipeline parallel {option.pipeline_parallel})"
                    )
                    break
        for factor in (2, 4, 8, 16):
            tensor, pipeline = best.tensor_parallel, best.pipeline_parallel * factor
            if split_problem(model, tensor, pipeline):
                break
            if self.share(tensor, pipeline).kv_tokens >= self.needed_tokens:
                total = tensor * pipeline
                ways.append(f"{total} such GPUs (tensor parallel {tensor}, pipeline parallel {pipeline})")
                break
        return ", or ".join(ways) if ways else "a smaller or more strongly quantised model"
