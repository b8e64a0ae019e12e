"""Memory of one GPU: weights and KV cache are exact arithmetic, one overhead term is fitted. Bytes, tokens; pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from metalserve.planning.model import ModelConfig

GIB = 2**30
MIB = 2**20

HIDDEN_FROM_CUDA_MIB = 560
"""What nvidia-smi counts and CUDA does not give: an H100 prints 81559 MiB, vLLM sees 79.1 GiB (its start-up logs)."""

CONTEXT_GIB, NCCL_GIB = 0.75, 0.35
"""CUDA context and allocator, and NCCL's buffers with several GPUs; fitted together with the activations below."""

GRAPHS_GIB = 1.0
"""CUDA graphs, inside the budget since vLLM 0.21: 0.3 to 2.2 GiB in start-up logs, with the default sizes near 1."""

MOE_OVERHEAD_GIB = {70: 8.0, 0: 5.0}
"""Overhead of mixtures by the card's memory, GiB: 7.3 to 9.2 in start-up logs of MiniMax-M2.5, Llama 4 Scout and
gpt-oss-120b on cards of 80 GiB (9.2 even with 1,024 batched tokens); on cards of 32 GiB 2 to 5."""

KV_ERROR_DENSE, KV_ERROR_MOE = 0.03, 0.15
"""How far the KV cache of the plan may be off: median errors against start-up logs (dense -1.6 to +0.6 %)."""


@dataclass(frozen=True)
class Overhead:
    """What a GPU holds beside weights and KV cache, bytes."""

    context: float
    nccl: float
    activations: float
    graphs: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.context + self.nccl + self.activations + self.graphs


@dataclass(frozen=True)
class Correction:
    """What an earlier launch of this model on this host taught (`calibration`).

    Attributes:
        weights_factor: weights against what is computed.
        overhead: bytes to add to the computed overhead of each GPU.
    """

    weights_factor: float = 1.0
    overhead: float = 0.0


@dataclass(frozen=True)
class Share:
    """What one GPU of an engine holds, bytes; `kv_tokens` is for the whole engine, lowered by the plan's error.

    Attributes:
        budget: what vLLM may use.
        weights: weights of the fullest GPU.
        parts: what is held beside weights and KV cache.
        window: KV cache of one sequence's layers with a sliding window.
        kv_bytes: what is left for the KV cache.
        per_token: KV cache of one token.
        error: half width of the KV cache's range, as a share.
        groups: groups of layers that vLLM counts the KV cache by.
    """

    budget: float
    weights: float
    parts: Overhead
    window: float
    kv_bytes: float
    per_token: float
    kv_tokens: int
    error: float
    groups: int = 1

    @property
    def printed_tokens(self) -> float:
        """KV tokens of this GPU as vLLM prints them, not lowered: it divides by the groups of layers of other kinds."""
        return max(0.0, self.kv_bytes + self.window) / (self.per_token * self.groups)

    @property
    def overhead(self) -> float:
        """What the GPU holds beside weights and KV cache."""
        return self.parts.total

    @property
    def fits(self) -> bool:
        """The weights and the overhead leave room for a KV cache."""
        return self.kv_tokens > 0


def batched_tokens(memory_mib: float, gpu_id: str = "") -> int:
    """Return vLLM's default --max-num-batched-tokens for the API server (arg_utils.get_batch_defaults, 0.33.0)."""
    gib = memory_mib / 1024
    if gib >= 160:
        return 16384
    # The real rule compares the driver's figure with 70 GiB and leaves A100s out by name.
    return 8192 if gib >= 70 and not gpu_id.startswith("a100") else 2048


def most_at_once(memory_mib: float, gpu_id: str = "") -> int:
    """Return vLLM's default --max-num-seqs for the API server (arg_utils.get_batch_defaults, 0.33.0)."""
    return 1024 if batched_tokens(memory_mib, gpu_id) > 2048 else 256


def stage_layers(layers: int, pipeline_parallel: int) -> list[int]:
    """Return the layers of each pipeline stage as vLLM splits them: extra ones go to the stages before the last."""
    stages = [layers // pipeline_parallel] * pipeline_parallel
    for number in range(layers % pipeline_parallel):
        stages[-(number % max(1, pipeline_parallel - 1) + 2) if pipeline_parallel > 1 else 0] += 1
    return stages


@dataclass(frozen=True)
class Parts:
    """Weights of all layers on one GPU, bytes: what every token reads, what the routed experts are, one embedding."""

    always: float
    experts: float
    embedding: float


def weight_parts(model: ModelConfig, tensor_parallel: int = 1, expert_ranks: int = 0) -> Parts:
    """Return the weights of all layers on one GPU as they lie in its memory, bytes.

    Args:
        model: the model.
        tensor_parallel: GPUs that share each layer.
        expert_ranks: GPUs over which whole experts are laid (expert parallel); 0: tensor parallel splits each expert.
    """
    attention, dense, experts = model.layer_params(tensor_parallel)
    if expert_ranks:
        experts *= tensor_parallel / expert_ranks
    if model.experts and model.quantisation:
        width = model.experts.intermediate
        experts *= math.ceil(width / model.quantisation.pad) * model.quantisation.pad / width
    quantised = model.quantisation.bytes_per_param if model.quantisation else model.dtype_bytes
    only_experts = model.quantisation is not None and model.quantisation.experts_only
    always = (attention + dense) * (model.dtype_bytes if only_experts else quantised)
    if model.experts:  # routers stay as they are
        always += model.experts.layers * model.experts.count * model.hidden * model.dtype_bytes
    return Parts(always, experts * quantised, model.embedding_params * model.dtype_bytes / tensor_parallel)


def weights_bytes(
    model: ModelConfig, tensor_parallel: int = 1, pipeline_parallel: int = 1, expert_ranks: int = 0
) -> float:
    """Return the weights on the fullest GPU of a replica, bytes.

    Where the size of the files is known, the computed share is scaled by it, so that the sum over the GPUs is exact.
    """
    return _fullest(model, tensor_parallel, pipeline_parallel, expert_ranks) * files_factor(model)


def files_factor(model: ModelConfig) -> float:
    """Return how much larger the weight files are than what the shapes say; 1 when their size is not known."""
    if model.weights_bytes is None:
        return 1.0
    quantisation = replace(model.quantisation, pad=1) if model.quantisation else None
    return model.weights_bytes / _fullest(replace(model, quantisation=quantisation), 1, 1, 0)


def _fullest(model: ModelConfig, tensor_parallel: int, pipeline_parallel: int, expert_ranks: int) -> float:
    parts = weight_parts(model, tensor_parallel, expert_ranks)
    stages = stage_layers(model.layers, pipeline_parallel)
    held = []
    for number, layers in enumerate(stages):
        share = (parts.always + parts.experts) * layers / model.layers
        first, last = number == 0, number == len(stages) - 1
        copies = int(first) + int(last and (not model.tied or not first))
        held.append(share + copies * parts.embedding)
    return max(held)


def kv_bytes_per_token(
    model: ModelConfig, tensor_parallel: int = 1, pipeline_parallel: int = 1, element_bytes: float = 2
) -> float:
    """Return the KV cache of one token on the fullest GPU, bytes; layers with a window are not in it."""
    layers = max(stage_layers(model.layers, pipeline_parallel)) * model.full_layers / model.layers
    if model.latent:  # the latent vector is held whole by every GPU of a tensor-parallel group
        index = model.latent.index_dim + 4 if model.latent.index_dim else 0  # FP8 keys and one 32-bit scale
        return layers * ((model.latent.kv_rank + model.latent.rope_dim) * element_bytes + index)
    return 2 * layers * max(1, model.kv_heads // tensor_parallel) * model.head_dim * element_bytes


def kv_groups(model: ModelConfig) -> int:
    """Return the groups that vLLM lays a model's layers into, all of one size and kind each; 1 when all are alike.

    Start-up logs with an FP8 cache agree: Qwen3.5-122B-A10B (12 of 48 layers full) prints a fourth, gemma-4-26B-A4B (5
    of 30) a sixth of what its full layers alone would hold.
    """
    other = model.layers - model.full_layers
    if not 0 < other < model.layers:
        return 1
    size = min(model.full_layers, other)
    return math.ceil(model.full_layers / size) + math.ceil(other / size)


def window_bytes(model: ModelConfig, tensor_parallel: int, pipeline_parallel: int, element_bytes: float = 2) -> float:
    """Return what the layers with a sliding window hold for one sequence on the fullest GPU, bytes."""
    layers = max(stage_layers(model.layers, pipeline_parallel)) * (1 - model.full_layers / model.layers)
    return 2 * layers * max(1, model.kv_heads // tensor_parallel) * model.head_dim * element_bytes * model.window


def overhead_parts(
    model: ModelConfig, tensor_parallel: int, gpus: int, batched: int, *, memory_mib: float = 81559, graphs: bool = True
) -> Overhead:
    """Return what vLLM needs beside weights and KV cache: context, NCCL, activations, CUDA graphs.

    Fitted on 10 dense start-up logs (H100, A5000, L40S; TP 1 to 4): KV cache within -1.6 and +0.6 %. For mixtures
    there is no formula yet, only the sum that was seen, of which activations and graphs take what is left.

    Args:
        model: the model.
        tensor_parallel: GPUs that share each layer.
        gpus: GPUs of the engine.
        batched: --max-num-batched-tokens.
        memory_mib: memory of the GPU.
        graphs: CUDA graphs are captured inside the budget.
    """
    nccl = NCCL_GIB * GIB if gpus > 1 else 0.0
    if model.is_moe:
        gib = next(value for least, value in MOE_OVERHEAD_GIB.items() if memory_mib >= least * 1024)
        rest = gib * GIB - CONTEXT_GIB * GIB - nccl
        captured = min(rest, GRAPHS_GIB * GIB) if graphs else 0.0
        return Overhead(CONTEXT_GIB * GIB, nccl, rest - captured, captured)
    activations = 2 * batched * (2 * model.intermediate / tensor_parallel + 2 * model.hidden)
    activations += min(batched, 256) * model.vocab * 6
    return Overhead(CONTEXT_GIB * GIB, nccl, activations, GRAPHS_GIB * GIB if graphs else 0.0)


def share_of(
    model: ModelConfig,
    memory_mib: float,
    utilization: float,
    *,
    tensor_parallel: int = 1,
    pipeline_parallel: int = 1,
    data_parallel: int = 1,
    expert_ranks: int = 0,
    batched: int | None = None,
    eager: bool = False,
    gpu_id: str = "",
    kv_element_bytes: float = 2,
    correction: Correction | None = None,
) -> Share:
    """Return how a GPU of `memory_mib` (as nvidia-smi prints it) is divided; the KV tokens are lowered by the error."""
    budget = (memory_mib - HIDDEN_FROM_CUDA_MIB) * MIB * utilization
    weights = weights_bytes(model, tensor_parallel, pipeline_parallel, expert_ranks)
    batched = batched or batched_tokens(memory_mib, gpu_id)
    gpus = tensor_parallel * pipeline_parallel * data_parallel
    parts = overhead_parts(model, tensor_parallel, gpus, batched, memory_mib=memory_mib, graphs=not eager)
    if correction:
        weights *= correction.weights_factor
        parts = replace(parts, context=parts.context + correction.overhead)
    window = window_bytes(model, tensor_parallel, pipeline_parallel, kv_element_bytes)
    left = budget - weights - parts.total - window
    per_token = kv_bytes_per_token(model, tensor_parallel, pipeline_parallel, kv_element_bytes)
    error = KV_ERROR_MOE if model.is_moe or model.rough or model.window else KV_ERROR_DENSE
    tokens = max(0, math.floor(left * (1 - error) / per_token)) // 16 * 16 * data_parallel
    return Share(budget, weights, parts, window, left, per_token, tokens, error, kv_groups(model))
