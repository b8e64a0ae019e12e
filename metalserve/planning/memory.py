"""Memory of one GPU: weights and KV cache are exact arithmetic, one overhead term is fitted. Bytes, tokens; pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from metalserve.planning.model import ModelConfig

GIB = 2**30
MIB = 2**20

HIDDEN_FROM_CUDA_MIB = 560
"""What nvidia-smi counts and CUDA does not give: an H100 prints 81559 MiB, vLLM sees 79.1 GiB (its start-up logs)."""

GRAPHS_GIB = 1.0
"""CUDA graphs, inside the budget since vLLM 0.21: 0.3 to 2.2 GiB in start-up logs, with the default sizes near 1."""

MOE_OVERHEAD_GIB = {8192: 8.0, 0: 5.0}
"""Overhead of mixtures by batched tokens: 7.3 to 8.1 GiB in start-up logs of MiniMax-M2.5, Llama 4 Scout and
gpt-oss-120b at 8192 tokens; 5 is the low end, for small batches."""

KV_ERROR_DENSE, KV_ERROR_MOE = 0.03, 0.15
"""How far the KV cache of the plan may be off: median errors against start-up logs (dense -1.6 to +0.6 %)."""


@dataclass(frozen=True)
class Share:
    """What one GPU of a replica holds, bytes; `kv_tokens` is for the whole replica."""

    budget: float
    weights: float
    overhead: float
    kv_bytes: float
    kv_tokens: int

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


def stage_layers(layers: int, pipeline_parallel: int) -> list[int]:
    """Return the layers of each pipeline stage as vLLM splits them: extra ones go to the stages before the last."""
    stages = [layers // pipeline_parallel] * pipeline_parallel
    for number in range(layers % pipeline_parallel):
        stages[-(number % max(1, pipeline_parallel - 1) + 2) if pipeline_parallel > 1 else 0] += 1
    return stages


def weights_bytes(model: ModelConfig, tensor_parallel: int = 1, pipeline_parallel: int = 1) -> float:
    """Return the weights on the fullest GPU of a replica, bytes.

    Where the size of the files is known, the computed share is scaled by it, so that the sum over the GPUs is exact.
    """
    worst = _fullest(model, tensor_parallel, pipeline_parallel)
    if model.weights_bytes is None:
        return worst
    return worst * model.weights_bytes / _fullest(_unpadded(model), 1, 1)


def _unpadded(model: ModelConfig) -> ModelConfig:
    """Return the model as it lies in its files."""
    return replace(model, quantisation=replace(model.quantisation, pad=1)) if model.quantisation else model


def _fullest(model: ModelConfig, tensor_parallel: int, pipeline_parallel: int) -> float:
    attention, dense, experts = model.layer_params(tensor_parallel)
    if model.experts and model.quantisation:
        width = model.experts.intermediate
        experts *= math.ceil(width / model.quantisation.pad) * model.quantisation.pad / width
    quantised = model.quantisation.bytes_per_param if model.quantisation else model.dtype_bytes
    only_experts = model.quantisation is not None and model.quantisation.experts_only
    body = (attention + dense) * (model.dtype_bytes if only_experts else quantised) + experts * quantised
    if model.experts:  # routers stay as they are
        body += model.experts.layers * model.experts.count * model.hidden * model.dtype_bytes
    stages = stage_layers(model.layers, pipeline_parallel)
    ends = model.embedding_params * model.dtype_bytes / tensor_parallel
    held = []
    for number, layers in enumerate(stages):
        share = body * layers / model.layers
        first, last = number == 0, number == len(stages) - 1
        copies = int(first) + int(last and (not model.tied or not first))
        held.append(share + copies * ends)
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


def window_bytes(model: ModelConfig, tensor_parallel: int, pipeline_parallel: int, element_bytes: float = 2) -> float:
    """Return what the layers with a sliding window hold for one sequence on the fullest GPU, bytes."""
    layers = max(stage_layers(model.layers, pipeline_parallel)) * (1 - model.full_layers / model.layers)
    return 2 * layers * max(1, model.kv_heads // tensor_parallel) * model.head_dim * element_bytes * model.window


def overhead_bytes(model: ModelConfig, tensor_parallel: int, pipeline_parallel: int, batched: int) -> float:
    """Return what vLLM needs beside weights and KV cache, bytes: context, activations, NCCL, CUDA graphs.

    Fitted on 10 dense start-up logs (H100, A5000, L40S; TP 1 to 4): KV cache within -1.6 and +0.6 %. For mixtures
    there is no formula yet, only what was seen.
    """
    several = tensor_parallel * pipeline_parallel > 1
    if model.is_moe:
        gib = next(value for least, value in MOE_OVERHEAD_GIB.items() if batched >= least)
        return gib * GIB
    base = 1.10 if several else 0.75
    activations = 2 * batched * (2 * model.intermediate / tensor_parallel + 2 * model.hidden)
    logits = min(batched, 256) * model.vocab * 6
    return (base + GRAPHS_GIB) * GIB + activations + logits


def share_of(
    model: ModelConfig,
    memory_mib: float,
    utilization: float,
    *,
    tensor_parallel: int = 1,
    pipeline_parallel: int = 1,
    gpu_id: str = "",
    kv_element_bytes: float = 2,
) -> Share:
    """Return how a GPU of `memory_mib` (as nvidia-smi prints it) is divided; the KV tokens are lowered by the error."""
    budget = (memory_mib - HIDDEN_FROM_CUDA_MIB) * MIB * utilization
    weights = weights_bytes(model, tensor_parallel, pipeline_parallel)
    overhead = overhead_bytes(model, tensor_parallel, pipeline_parallel, batched_tokens(memory_mib, gpu_id))
    left = budget - weights - overhead - window_bytes(model, tensor_parallel, pipeline_parallel, kv_element_bytes)
    per_token = kv_bytes_per_token(model, tensor_parallel, pipeline_parallel, kv_element_bytes)
    error = KV_ERROR_MOE if model.is_moe or model.rough or model.window else KV_ERROR_DENSE
    tokens = max(0, math.floor(left * (1 - error) / per_token)) // 16 * 16
    return Share(budget, weights, overhead, left, tokens)
