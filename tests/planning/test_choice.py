"""Decisions by numbers: limits, concurrency, measured links, runners-up, and what must hold for any workload."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metalserve.catalogue.loader import load_gpus
from metalserve.hardware.node import Gpu, NodeHardware
from metalserve.planning import LaunchPlan, hardware_by_name, plan_launch
from metalserve.planning.allreduce import MeasuredLinks
from metalserve.planning.known import known_model, known_models
from metalserve.planning.memory import HIDDEN_FROM_CUDA_MIB, MIB, share_of
from metalserve.releases import load_release
from metalserve.settings import EngineSettings
from tests.planning.conftest import Planning, host

GPUS = load_gpus()
RELEASE = load_release("2026.11-lts")


def plan_of(gpu: str, model: str, measured: MeasuredLinks | None = None, **engine: object) -> LaunchPlan:
    settings = EngineSettings(**engine)  # type: ignore[arg-type]
    return plan_launch(hardware_by_name(gpu, GPUS), known_model(model), settings, RELEASE, GPUS, measured=measured)


def words(plan: LaunchPlan) -> str:
    assert plan.chosen is not None
    return plan.chosen.option.words


def test_70b_on_pcie_takes_the_cheaper_of_pipeline_and_tensor_parallel() -> None:
    few = plan_of("4xL40S", "Llama-3.3-70B-Instruct")
    many = plan_of("4xL40S", "Llama-3.3-70B-Instruct", intent="throughput")
    assert (words(few), words(many)) == ("1 x TP4", "1 x TP2 PP2")
    for plan in (few, many):
        assert plan.chosen is not None
        assert sum("PCIe costs" in reason for reason in plan.reasons) == 1
        others = {r.candidate.option.words: r for r in plan.runners_up}
        assert {"1 x TP1 PP4"} <= set(others)
        for other in others.values():
            assert other.candidate.host_tokens_s < plan.chosen.host_tokens_s
            assert "tokens/s" in other.why or "ms a token" in other.why


def test_a_host_with_better_links_than_the_tables_keeps_tensor_parallel() -> None:
    good = MeasuredLinks(((2, 2**26, 25.0), (4, 2**26, 22.0)))
    plan = plan_of("4xL40S", "Llama-3.3-70B-Instruct", good, intent="throughput")
    assert words(plan) == "1 x TP4"
    assert any("22 GB/s measured on this host" in reason for reason in plan.reasons)


def test_a_limit_on_the_time_a_token_buys_wider_engines() -> None:
    loose = plan_of("8xH100-SXM", "Llama-3.3-70B-Instruct", workload={"tpot_ms": 60})
    tight = plan_of("8xH100-SXM", "Llama-3.3-70B-Instruct", workload={"tpot_ms": 15})
    assert loose.tensor_parallel == 4
    assert tight.tensor_parallel == 8
    for plan, limit in ((loose, 60), (tight, 15)):
        assert plan.chosen is not None
        assert plan.chosen.estimate is not None
        assert plan.chosen.estimate.tpot_ms.value <= limit
        assert "--max-num-seqs" in plan.vllm_args
        assert str(plan.most_at_once) == plan.vllm_args[plan.vllm_args.index("--max-num-seqs") + 1]


def test_a_limit_that_cannot_be_kept_is_said() -> None:
    plan = plan_of("8xH100-SXM", "Llama-3.3-70B-Instruct", workload={"tpot_ms": 2})
    assert plan.fits
    assert plan.chosen is not None
    assert not plan.chosen.keeps
    assert "No split keeps the limit; this one has the shortest time a token." in plan.reasons
    assert "--max-num-seqs" not in plan.vllm_args


def test_few_requests_want_wide_engines_and_many_want_replicas() -> None:
    few = plan_of("8xH100-SXM", "Qwen3-32B", workload={"concurrency": 4})
    many = plan_of("8xH100-SXM", "Qwen3-32B", workload={"concurrency": 512})
    assert few.tensor_parallel > many.tensor_parallel
    assert many.replicas > few.replicas


def test_latent_attention_mixture_by_load() -> None:
    quiet = plan_of("8xH200-SXM", "DeepSeek-V3")
    busy = plan_of("8xH200-SXM", "DeepSeek-V3", intent="throughput")
    assert words(quiet) == "1 x TP8"
    assert words(busy) == "1 x DP8 EP"
    assert busy.kv_tokens > 4 * quiet.kv_tokens  # the latent vectors are no longer on every GPU
    text = " ".join(busy.vllm_args)
    assert "--data-parallel-size 8 --enable-expert-parallel" in text
    assert busy.as_dict()["data_parallel_size"] == 8
    assert busy.gpus_per_replica == (tuple(range(8)),)


def test_experts_that_cannot_be_split_are_laid_whole() -> None:
    model = replace(known_model("Qwen3-235B-A22B"), weights_bytes=None)
    assert model.experts is not None
    from metalserve.planning.model import Quantisation

    blocked = replace(model, quantisation=Quantisation("fp8", 1.0, block=128))  # 1536 / 8 = 192 is no multiple of 128
    plan = plan_launch(hardware_by_name("8xH100-SXM", GPUS), blocked, EngineSettings(tensor_parallel=8), RELEASE, GPUS)
    assert plan.fits, plan.refused
    assert plan.split.expert
    assert "--enable-expert-parallel" in plan.vllm_args


def test_two_bridges_make_two_good_groups() -> None:
    bridged = NodeHardware(
        gpus=tuple(
            Gpu(index=i, name="NVIDIA A100 80GB PCIe", device_id="20b5", memory_mib=81920) for i in range(4)
        ),
        links={(0, 1): "SYS", (0, 2): "NV12", (0, 3): "SYS", (1, 2): "SYS", (1, 3): "NV12", (2, 3): "SYS"},
        smi_state="ok",
    )  # fmt: skip
    for model, shape in (("Qwen3-32B", (2, 2, 1)), ("Llama-3.3-70B-Instruct", (1, 2, 2))):
        plan = plan_launch(bridged, known_model(model), EngineSettings(tensor_parallel=2, pipeline_parallel=shape[2]),
                           RELEASE, GPUS)  # fmt: skip
        assert plan.fits, plan.refused
        assert sorted(gpu for group in plan.gpus_per_replica for gpu in group) == [0, 1, 2, 3]
        flat = [group[i : i + 2] for group in plan.gpus_per_replica for i in range(0, len(group), 2)]
        assert sorted(flat) == [(0, 2), (1, 3)]
    free = plan_launch(bridged, known_model("Llama-3.3-70B-Instruct"), EngineSettings(), RELEASE, GPUS)
    assert free.tensor_parallel <= 2


def test_groups_that_cross_sockets_are_said(planning: Planning) -> None:
    split = replace(host({}, 2, default="SYS"), numa_nodes={0: "0", 1: "1"})
    plan = planning(split, "Llama-3.3-70B-Instruct", tensor_parallel=2, max_model_len=4096)
    assert any("GPUs 0, 1 lie on NUMA nodes 0, 1" in reason for reason in plan.reasons)
    assert plan.numa == (("0", "1"),)


def test_what_would_change_the_choice() -> None:
    plan = plan_of("4xL40S", "Llama-3.3-70B-Instruct")
    assert any(line.startswith("intent throughput: 1 x TP2 PP2") for line in plan.would_change)


def test_nearest_that_fits_names_hosts() -> None:
    plan = plan_of("8xH100-SXM", "DeepSeek-V3")
    assert "2 such hosts together (--nodes 2)" in plan.refused
    alone = plan_of("1xH100-SXM", "Llama-3.3-70B-Instruct")
    assert "2 such GPUs (tensor parallel 2, pipeline parallel 1)" in alone.refused
    assert "an FP8 checkpoint" not in alone.refused  # 67.7 GiB of 72.8 leave too little
    short = plan_of("1xH100-SXM", "gpt-oss-120b")
    assert "engine.max_model_len 7168" in short.refused
    assert plan_of("1xH100-SXM", "gpt-oss-120b", max_model_len=7168).fits


def test_unknown_gpu_is_planned_without_numbers() -> None:
    strange = NodeHardware(
        gpus=tuple(Gpu(index=i, name="NVIDIA Novelty", device_id="ffff", memory_mib=81559) for i in range(4)),
        links={(a, b): "SYS" for a in range(4) for b in range(a + 1, 4)}, smi_state="ok",
    )  # fmt: skip
    plan = plan_launch(strange, known_model("Qwen2.5-7B-Instruct"), EngineSettings(), RELEASE, GPUS)
    assert (plan.fits, plan.replicas, plan.tensor_parallel) == (True, 4, 1)
    assert any("no rates of this GPU" in reason for reason in plan.reasons)
    assert plan.as_dict()["per_engine"] is None


def test_json_has_speed_and_memory_in_parts() -> None:
    told = plan_of("8xH100-SXM", "Llama-3.3-70B-Instruct").as_dict()
    memory = told["memory_per_gpu_gib"]
    assert isinstance(memory, dict)
    parts = sum(memory[name] for name in ("weights", "context", "nccl", "activations", "cuda_graphs", "kv_cache"))
    assert parts == pytest.approx(memory["budget"], abs=0.05)
    engine = told["per_engine"]
    assert isinstance(engine, dict)
    assert sum(engine["tpot_ms_parts"].values()) == pytest.approx(engine["tpot_ms"]["value"], abs=0.1)
    assert told["quantization"] is None
    assert {"runners_up", "would_change", "workload", "max_num_batched_tokens"} <= set(told)


SHAPES = st.sampled_from(["1xH100-SXM", "8xH100-SXM", "4xL40S", "8xH200-SXM", "2xRTX-4090", "4xH100-NVL", "8xB200"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    gpu=SHAPES, model=st.sampled_from(known_models()), intent=st.sampled_from(["latency", "balanced", "throughput"]),
    prompt=st.integers(1, 50_000), answer=st.integers(1, 20_000), concurrency=st.none() | st.integers(1, 5000),
    tpot=st.none() | st.floats(0.5, 500),
)  # fmt: skip
def test_any_workload_is_planned_within_the_memory(
    gpu: str, model: str, intent: str, prompt: int, answer: int, concurrency: int | None, tpot: float | None
) -> None:
    workload = {"prompt_tokens": prompt, "answer_tokens": answer, "concurrency": concurrency, "tpot_ms": tpot}
    plan = plan_of(gpu, model, intent=intent, workload=workload)
    if not plan.fits:
        assert plan.refused
        return
    assert plan.memory is not None
    assert plan.chosen is not None
    estimate = plan.chosen.estimate
    assert estimate is not None
    assert plan.memory.weights + plan.memory.overhead + plan.memory.kv_bytes <= plan.memory.budget * 1.000001
    assert estimate.running * plan.workload.context <= max(plan.kv_tokens, plan.workload.context) * 1.001  # type: ignore[union-attr]
    assert estimate.tokens_s.low <= estimate.tokens_s.value <= estimate.tokens_s.high
    best = max((r.candidate.value for r in plan.runners_up if r.candidate.keeps), default=0.0)
    assert not plan.chosen.keeps or plan.chosen.value * 3 > best  # risk decides between near ones only


@settings(max_examples=100, deadline=None)
@given(
    model=st.sampled_from(known_models()), mib=st.integers(16_000, 300_000), utilization=st.floats(0.5, 1),
    tensor=st.sampled_from([1, 2, 4, 8]), pipeline=st.integers(1, 4), batched=st.sampled_from([512, 2048, 8192]),
)  # fmt: skip
def test_memory_never_over_budget_and_more_gpus_never_fit_less(
    model: str, mib: int, utilization: float, tensor: int, pipeline: int, batched: int
) -> None:
    config = known_model(model)

    def share(tp: int, pp: int, size: int = mib) -> int:
        found = share_of(config, size, utilization, tensor_parallel=tp, pipeline_parallel=pp, batched=batched)
        assert found.budget <= (size - HIDDEN_FROM_CUDA_MIB) * MIB
        assert found.kv_tokens * found.per_token <= max(0.0, found.kv_bytes)
        return found.kv_tokens

    few = share(tensor, pipeline)
    assert share(tensor, pipeline, mib + 10_000) >= few
    if tensor * pipeline > 1:  # from one GPU to two NCCL's buffers come in
        assert share(2 * tensor, pipeline) >= few
