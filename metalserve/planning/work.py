"""What one step of the engine reads and computes on a GPU: bytes and operations, exact for the shapes. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from metalserve.catalogue.speeds import Compute
from metalserve.planning.memory import files_factor, stage_layers, weight_parts
from metalserve.planning.model import ModelConfig

SPARSE_TOKENS = 2048
"""Tokens that sparse attention (DeepSeek V3.2) reads the latent vectors of; its config's index_topk."""


@dataclass(frozen=True)
class Split:
    """How one engine lies over its GPUs.

    Attributes:
        tensor: GPUs that share each layer.
        pipeline: stages.
        data: groups of GPUs that each hold the attention and work on requests of their own.
        expert: whole experts are laid over all GPUs of a stage.
    """

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    expert: bool = False

    @property
    def gpus(self) -> int:
        """GPUs of the engine."""
        return self.tensor * self.pipeline * self.data

    @property
    def expert_ranks(self) -> int:
        """GPUs over which whole experts are laid; 0 when each expert is split by tensor parallel."""
        return self.tensor * self.data if self.expert else 0


class Work:
    """The work of a model under a split; all figures are for one GPU, summed over the pipeline's stages."""

    def __init__(self, model: ModelConfig, split: Split, kv_element_bytes: float = 2) -> None:
        self.model, self.split, self.kv_element_bytes = model, split, kv_element_bytes

    @cached_property
    def _parts(self) -> tuple[float, float, float]:
        parts, factor = weight_parts(self.model, self.split.tensor, self.split.expert_ranks), files_factor(self.model)
        return parts.always * factor, parts.experts * factor, parts.embedding

    @property
    def slowest_stage(self) -> float:
        """Share of the layers in the largest stage times the stages: 1 when all are alike."""
        stages = stage_layers(self.model.layers, self.split.pipeline)
        return max(stages) * len(stages) / self.model.layers

    def weight_bytes(self, tokens: float) -> float:
        """Return the weights that a step with `tokens` on this rank reads, bytes: all but the input embedding."""
        always, experts, embedding = self._parts
        hit = 0.0
        if self.model.experts:
            each = self.model.experts
            # with expert parallel the tokens of all ranks meet the experts of one GPU
            seen = tokens * (self.split.data if self.split.expert else 1)
            hit = 1 - (1 - min(1.0, each.per_token / each.count)) ** max(1.0, seen)
        return always + experts * hit + embedding

    def kv_bytes(self, context: float) -> float:
        """Return what attention reads of one request with `context` tokens, bytes on one GPU."""
        model = self.model
        full = model.full_layers
        if model.latent:
            latent = (model.latent.kv_rank + model.latent.rope_dim) * self.kv_element_bytes
            if model.latent.index_dim:
                return full * (latent * min(context, SPARSE_TOKENS) + (model.latent.index_dim + 4) * context)
            return full * latent * context
        width = 2 * max(1, model.kv_heads // self.split.tensor) * model.head_dim * self.kv_element_bytes
        return width * (full * context + (model.layers - full) * min(context, model.window))

    @cached_property
    def active_params(self) -> float:
        """Parameters that one token passes, over all GPUs of its tensor-parallel group; without the input embedding."""
        model = self.model
        attention, dense, experts = model.layer_params(1)
        each = model.experts
        routed = experts * each.per_token / each.count if each else 0.0
        return attention + dense + routed + model.embedding_params

    def attention_flops(self, tokens: float) -> float:
        """Return the operations of attention in the prefill of `tokens`, over the tensor-parallel group."""
        model = self.model
        width = model.heads * 2 * model.head_dim
        if model.latent:
            width = model.heads * (model.latent.nope_dim + model.latent.rope_dim + model.latent.value_dim)
        seen = min(tokens, SPARSE_TOKENS) if model.latent and model.latent.index_dim else tokens
        full = model.full_layers * tokens * seen / (1 if seen < tokens else 2)
        part = (model.layers - model.full_layers) * tokens * min(tokens / 2, model.window)
        return 2 * width * (full + part)

    def rate(self, compute: Compute) -> float:
        """Return the rate at which the tensor cores multiply these weights, operations a second."""
        method = self.model.quantisation
        bf16 = compute.bf16
        if method is None:
            return bf16 * 1e12
        name, small = method.method, method.bytes_per_param < 0.6
        if (small and "fp4" in name and name != "mxfp4") or (name == "modelopt" and small):
            return (compute.fp4 or bf16) * 1e12
        if name == "mxfp4" and compute.fp4:  # Blackwell multiplies them with activations in MXFP8
            return (compute.fp8 or bf16) * 1e12
        if small:  # integer weights are unpacked and multiplied in 16 bit
            return bf16 * 1e12
        if name == "compressed-tensors":
            return (compute.fp8 or compute.int8 or bf16) * 1e12
        if name in {"fp8", "modelopt"}:
            return (compute.fp8 or bf16) * 1e12
        return bf16 * 1e12
