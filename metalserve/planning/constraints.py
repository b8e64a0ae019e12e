"""What forbids a split: heads, quantisation blocks, layers, compute capability. Pure."""

from __future__ import annotations

from metalserve.catalogue.models import GpuSpec
from metalserve.catalogue.vllm_flags import version_key
from metalserve.planning.model import ModelConfig


def split_problem(
    model: ModelConfig, tensor_parallel: int, pipeline_parallel: int, expert_ranks: int = 0
) -> str | None:
    """Return why the model cannot be split so, or None; the rules are those of vLLM's config checks and layers.

    Args:
        model: the model.
        tensor_parallel: GPUs that share each layer.
        pipeline_parallel: stages.
        expert_ranks: GPUs over which whole experts are laid; 0: tensor parallel splits each expert.
    """
    if expert_ranks and (not model.experts or model.experts.count < expert_ranks):
        count = model.experts.count if model.experts else 0
        return f"{count} experts cannot be laid over {expert_ranks} GPUs"
    if pipeline_parallel > model.layers:
        return f"{model.layers} layers cannot make {pipeline_parallel} pipeline stages"
    if tensor_parallel == 1:
        return None
    if model.heads % tensor_parallel:
        return f"{model.heads} attention heads do not divide by {tensor_parallel}"
    if not model.latent and model.kv_heads % tensor_parallel and tensor_parallel % model.kv_heads:
        return f"{model.kv_heads} key/value heads neither divide by {tensor_parallel} nor into it"
    return _block_problem(model, tensor_parallel, bool(expert_ranks))


def _block_problem(model: ModelConfig, tensor_parallel: int, whole_experts: bool) -> str | None:
    block = model.quantisation.block if model.quantisation else 1
    if block == 1:
        return None
    widths = {}
    if model.experts and not whole_experts:
        widths["the experts' width"] = model.experts.intermediate
    if not (model.quantisation and model.quantisation.experts_only):
        if not model.experts or model.experts.layers < model.layers:
            widths["the MLP's width"] = model.intermediate
        if not model.latent:
            widths["the attention's width"] = model.heads * model.head_dim
    for name, width in widths.items():
        if width % tensor_parallel or (width // tensor_parallel) % block:
            return f"{name} {width} over {tensor_parallel} GPUs is no whole number of quantisation blocks of {block}"
    return None


def capability_problem(model: ModelConfig, spec: GpuSpec | None, version: str) -> str | None:
    """Return why the GPU cannot run this vLLM or these weights at all, or None."""
    if spec is None:
        return None
    # Architectures in the release images: 7.0 until 0.19, 7.5 from 0.20 on (their Dockerfiles).
    least = (7, 5) if version_key(version) >= (0, 20) else (7, 0)
    if spec.capability < least:
        needed = ".".join(map(str, least))
        return f"{spec.id} has compute capability {spec.compute_capability}, vLLM {version} needs {needed}"
    method = model.quantisation.method if model.quantisation else ""
    if method == "fp8" and spec.capability < (7, 5):
        return f"FP8 weights need compute capability 7.5, {spec.id} has {spec.compute_capability}"
    return None


def capability_notes(model: ModelConfig, spec: GpuSpec | None) -> list[str]:
    """Return what the GPU's capability means for this model, in sentences."""
    if spec is None:
        return ["The GPU is not in the catalogue: what it can compute was not checked."]
    notes = []
    quantisation = model.quantisation
    if quantisation and quantisation.method == "fp8" and not spec.fp8:
        notes.append(
            f"{spec.id} has no FP8 tensor cores: vLLM runs FP8 weights as weight-only (Marlin), so memory halves but "
            "computing does not get faster."
        )
    if quantisation and quantisation.bytes_per_param < 0.6 and "fp4" in quantisation.method and not spec.fp4:
        notes.append(f"{spec.id} has no FP4 tensor cores: the 4-bit weights are unpacked as they are used.")
    if model.dtype == "bfloat16" and spec.capability < (8, 0):
        notes.append(f"{spec.id} cannot compute in bfloat16: the engine is started with --dtype half.")
    return notes
