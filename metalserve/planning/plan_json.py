"""A launch plan as JSON: one form (schema 1, docs/plan-schema.md) that other programs may rely on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metalserve.planning.choice import Candidate
from metalserve.planning.memory import GIB, Share

if TYPE_CHECKING:
    from metalserve.planning.launch import LaunchPlan

VERSION = 1
"""Raised when a key changes its meaning or goes away; new keys do not raise it."""

MOST_RUNNERS_UP = 6


def plan_dict(plan: LaunchPlan) -> dict[str, object]:
    """Return a plan for JSON."""
    memory, workload = plan.memory, plan.workload
    return {
        "version": VERSION,
        "fits": plan.fits,
        "refused": plan.refused or None,
        "vllm_version": plan.vllm_version,
        "replicas": plan.replicas,
        "data_parallel_size": plan.replicas * plan.split.data,
        "engine_data_parallel_size": plan.split.data,
        "tensor_parallel_size": plan.split.tensor,
        "pipeline_parallel_size": plan.split.pipeline,
        "expert_parallel": plan.split.expert,
        "quantization": plan.quantization,
        "gpus_per_replica": [list(group) for group in plan.gpus_per_replica],
        "numa_nodes_per_replica": [list(nodes) for nodes in plan.numa],
        "max_model_len": plan.max_model_len,
        "gpu_memory_utilization": plan.gpu_memory_utilization,
        "max_num_batched_tokens": plan.batched or None,
        "max_num_seqs": plan.most_at_once,
        "weights_gib_per_gpu": _gib(memory.weights) if memory else None,
        "overhead_gib_per_gpu": _gib(memory.overhead) if memory else None,
        "kv_cache_gib_per_gpu": _gib(memory.kv_bytes) if memory else None,
        "memory_per_gpu_gib": memory_dict(memory) if memory else None,
        "kv_cache_tokens": plan.kv_tokens,
        "kv_cache_error_pct": 100 * memory.error if memory else None,
        "max_concurrency_full_context": round(plan.kv_tokens / plan.max_model_len, 1) if plan.max_model_len else None,
        "workload": {
            "prompt_tokens": workload.prompt,
            "answer_tokens": workload.answer,
            "concurrency": workload.concurrency,
            "tpot_ms": workload.tpot_ms,
            "ttft_ms": workload.ttft_ms,
            "assumed": workload.assumed,
        }
        if workload
        else None,
        "per_engine": plan.chosen.estimate.as_dict() if plan.chosen and plan.chosen.estimate else None,
        "host_tokens_per_s": round(plan.chosen.host_tokens_s) if plan.chosen and plan.chosen.estimate else None,
        "limits_kept": plan.chosen.keeps if plan.chosen and plan.chosen.estimate else None,
        "reasons": list(plan.reasons),
        "runners_up": [{**candidate_dict(r.candidate), "lost": r.why} for r in plan.runners_up[:MOST_RUNNERS_UP]],
        "would_change": list(plan.would_change),
        "vllm_args": list(plan.vllm_args),
        "ports": list(plan.ports),
    }


def memory_dict(share: Share) -> dict[str, float]:
    """Return the fullest GPU's memory in GiB, part by part."""
    return {
        "budget": _gib(share.budget),
        "weights": _gib(share.weights),
        "context": _gib(share.parts.context),
        "nccl": _gib(share.parts.nccl),
        "activations": _gib(share.parts.activations),
        "cuda_graphs": _gib(share.parts.graphs),
        "kv_cache": _gib(share.kv_bytes + share.window),
    }


def candidate_dict(one: Candidate) -> dict[str, object]:
    """Return one option for JSON."""
    split = one.option.split
    return {
        "words": one.option.words,
        "replicas": one.engines,
        "tensor_parallel_size": split.tensor,
        "pipeline_parallel_size": split.pipeline,
        "engine_data_parallel_size": split.data,
        "expert_parallel": split.expert,
        "kv_cache_tokens": one.option.share.kv_tokens,
        "per_engine": one.estimate.as_dict() if one.estimate else None,
        "host_tokens_per_s": round(one.host_tokens_s) if one.estimate else None,
        "limits_kept": one.keeps if one.estimate else None,
    }


def _gib(size: float) -> float:
    return round(size / GIB, 2)
