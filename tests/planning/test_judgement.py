"""What the planner decides where an experienced operator would know the answer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from metalserve.catalogue.loader import load_gpus
from metalserve.hardware.node import NodeHardware
from metalserve.planning import LaunchPlan, hardware_by_name
from metalserve.planning.known import known_model
from metalserve.planning.model import Quantisation
from tests.planning.conftest import Planning, host

FP8 = Quantisation("fp8", 1 + 4 / 128**2, block=128)


def shape(plan: LaunchPlan) -> tuple[int, int, int]:
    return plan.replicas, plan.tensor_parallel, plan.pipeline_parallel


@pytest.mark.parametrize(
    ("gpus", "model", "expected"),
    [
        ("4xL40S", "Qwen2.5-7B-Instruct", (4, 1, 1)),
        ("8xRTX-4090", "Qwen2.5-7B-Instruct", (8, 1, 1)),
        ("8xH100-SXM", "Qwen2.5-7B-Instruct", (8, 1, 1)),
        ("1xL4", "Llama-3.1-8B-Instruct", (1, 1, 1)),
        ("8xH100-SXM", "Llama-3.3-70B-Instruct", (2, 4, 1)),
        ("8xH200-SXM", "Llama-3.3-70B-Instruct", (2, 4, 1)),
        ("4xA100-SXM-80", "Llama-3.3-70B-Instruct", (1, 4, 1)),
        ("4xL40S", "Llama-3.3-70B-Instruct", (1, 4, 1)),
        ("4xH100-NVL", "Llama-3.3-70B-Instruct", (2, 2, 1)),
        ("8xH200-SXM", "Llama-3.1-405B-Instruct", (1, 8, 1)),
        ("8xH200-SXM", "DeepSeek-V3", (1, 8, 1)),
        ("8xH100-SXM", "gpt-oss-120b", (4, 2, 1)),
        ("2xT4", "Qwen2.5-7B-Instruct", (1, 2, 1)),
    ],
)
def test_shape(planning: Planning, gpus: str, model: str, expected: tuple[int, int, int]) -> None:
    plan = planning(gpus, model)
    assert plan.fits, plan.refused
    assert shape(plan) == expected


def test_every_gpu_is_in_at_most_one_replica(planning: Planning) -> None:
    plan = planning("8xH100-SXM", "Llama-3.3-70B-Instruct")
    used = [gpu for group in plan.gpus_per_replica for gpu in group]
    assert sorted(used) == list(range(8))
    assert plan.ports == (8000, 8001)
    assert plan.replica_args(1)[plan.vllm_args.index("--port") + 1] == "8001"


def test_latency_spends_gpus_where_they_shorten_a_token(planning: Planning) -> None:
    assert shape(planning("8xH100-SXM", "Llama-3.3-70B-Instruct", intent="latency")) == (1, 8, 1)
    # one token's all-reduce is small even for PCIe: 7 GiB a GPU instead of 14 pay for it, a fixed time a step does not
    assert shape(planning("4xL40S", "Qwen2.5-7B-Instruct", intent="latency")) == (2, 2, 1)
    assert planning("8xH100-SXM", "Qwen2.5-7B-Instruct", intent="latency").tensor_parallel < 8


def test_405b_in_bf16_does_not_fit_and_what_would(planning: Planning) -> None:
    plan = planning("8xH100-SXM", "Llama-3.1-405B-Instruct")
    assert not plan.fits
    assert "94.5 GiB of weights" in plan.refused
    assert "an FP8 checkpoint of the model" in plan.refused
    assert "tensor parallel 8, pipeline parallel 1" in plan.refused
    assert "16 such GPUs (tensor parallel 8, pipeline parallel 2)" in plan.refused
    assert plan.vllm_args == ()


def test_405b_in_fp8_fits(planning: Planning) -> None:
    model = replace(known_model("Llama-3.1-405B-Instruct"), quantisation=FP8)
    plan = planning("8xH100-SXM", model)
    assert shape(plan) == (1, 8, 1)
    assert plan.kv_tokens > 200_000


def test_deepseek_does_not_fit_eight_h100(planning: Planning) -> None:
    plan = planning("8xH100-SXM", "DeepSeek-V3")
    assert not plan.fits
    assert "16 such GPUs" in plan.refused


def test_bridged_pairs_are_never_crossed_by_tensor_parallel(planning: Planning) -> None:
    crossed = host({(0, 3): "NV12", (1, 2): "NV12"}, 4)
    plan = planning(crossed, "Llama-3.3-70B-Instruct", max_model_len=4096)
    assert plan.gpus_per_replica in (((0, 3), (1, 2)), ((0, 3, 1, 2),))
    assert plan.tensor_parallel == 2


def test_pipeline_stages_are_nvlink_pairs(planning: Planning) -> None:
    model = replace(known_model("Llama-3.1-405B-Instruct"), quantisation=FP8)
    plan = planning("8xH100-NVL", model)
    assert shape(plan) == (1, 2, 4)
    assert plan.gpus_per_replica == ((0, 1, 2, 3, 4, 5, 6, 7),)


def test_a_lone_gpu_among_pairs_is_left_out(planning: Planning) -> None:
    odd = host({(1, 2): "NV12", (3, 4): "NV12"}, 5)
    plan = planning(odd, "Llama-3.3-70B-Instruct", tensor_parallel=2, max_model_len=8192)
    assert plan.gpus_per_replica == ((1, 2), (3, 4))
    assert any("1 of 5 GPUs stay idle" in reason for reason in plan.reasons)


def test_unevenly_linked_quad_is_cut_evenly(planning: Planning) -> None:
    links = {(0, 1): "NV4", (0, 2): "NV2", (0, 3): "NV2", (1, 2): "NV2", (1, 3): "NV2", (2, 3): "NV4"}
    plan = planning(host(links, 4), "Llama-3.3-70B-Instruct", tensor_parallel=2, max_model_len=8192)
    assert plan.gpus_per_replica == ((0, 1), (2, 3))


def test_uneven_links_that_cannot_be_avoided_are_said(planning: Planning) -> None:
    links = {(0, 1): "NV4", (0, 2): "NV2", (0, 3): "NV2", (1, 2): "NV2", (1, 3): "NV2", (2, 3): "NV4"}
    plan = planning(host(links, 4), "Llama-3.3-70B-Instruct")
    assert plan.gpus_per_replica == ((0, 1, 2, 3),)
    assert "GPUs 0, 1, 2, 3 are linked unevenly: their all-reduce runs at the slowest pair." in plan.reasons
    even = planning("4xH100-SXM", "Llama-3.3-70B-Instruct")
    assert not [reason for reason in even.reasons if "unevenly" in reason]


def test_a_pipeline_over_pcie_takes_near_gpus(planning: Planning) -> None:
    near = host({(0, 2): "NODE", (1, 3): "NODE"}, 4)
    plan = planning(near, "Llama-3.3-70B-Instruct", tensor_parallel=1, pipeline_parallel=2, max_model_len=8192)
    assert plan.gpus_per_replica == ((0, 2), (1, 3))


def test_links_that_could_not_be_read_mean_no_tensor_parallel(planning: Planning) -> None:
    blind = replace(hardware_by_name("4xH100-SXM", load_gpus()), links={})
    plan = planning(blind, "Llama-3.3-70B-Instruct")
    assert plan.tensor_parallel == 1
    assert plan.reasons[0] == "Links: links not known."


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ({"tensor_parallel": 3}, "64 attention heads do not divide by 3"),
        ({"tensor_parallel": 16}, "16 x 1 GPUs a replica are more than the host's 8"),
        ({"replicas": 5}, "engine.replicas is 5, but 8 GPUs hold 4 of 2 GPUs each, the least that the model fits"),
        ({"extra_args": ["--port", "1"]}, "engine.extra_args sets --port, which is engine.port's"),
        ({"extra_args": ["--tensor_parallel_s=2"]}, "sets --tensor-parallel-size, which is engine.tensor_parallel's"),
        ({"extra_args": ["-tp", "2"]}, "which is engine.tensor_parallel's"),
        (
            {"extra_args": ["--swap-space", "16"]},
            "vLLM 0.33.0 would not start: --swap-space was removed in vLLM 0.18.0",
        ),
        ({"extra_args": ["--dtype", "fp8"]}, "--dtype cannot be 'fp8'"),
        ({"port": 65535}, "2 replicas from port 65535 on need a port above 65535"),
        ({"max_model_len": 10_000_000}, "10,000,000 are needed"),
    ],
)
def test_settings_that_cannot_work_are_refused(planning: Planning, engine: dict[str, object], words: str) -> None:
    plan = planning("8xH100-SXM", "Llama-3.3-70B-Instruct", **engine)
    assert not plan.fits
    assert words in plan.refused
    assert plan.vllm_args == ()


def test_a_secret_in_extra_args_is_refused_without_showing_it(planning: Planning) -> None:
    plan = planning("1xL4", "Llama-3.1-8B-Instruct", extra_args=["--api-key", "sesame"])
    assert "engine.api_key" in plan.refused
    assert "sesame" not in str(plan)


def test_settings_are_taken_as_said(planning: Planning) -> None:
    plan = planning(
        "8xH100-SXM", "Qwen2.5-7B-Instruct", tensor_parallel=2, replicas=1, max_model_len=4096, port=9000,
        gpu_memory_utilization=0.5, extra_args=["--enable-log-requests"],
    )  # fmt: skip
    assert shape(plan) == (1, 2, 1)
    words = " ".join(plan.vllm_args)
    assert words.startswith("/srv/models/x --served-model-name x --host 0.0.0.0 --port 9000 --tensor-parallel-size 2")
    assert "--max-model-len 4096 --gpu-memory-utilization 0.5" in words
    assert words.endswith("--enable-log-requests")


def test_fp8_kv_cache_doubles_the_tokens(planning: Planning) -> None:
    plain = planning("1xL40S", "Llama-3.1-8B-Instruct")
    small = planning("1xL40S", "Llama-3.1-8B-Instruct", extra_args=["--kv-cache-dtype", "fp8"])
    assert small.kv_tokens == pytest.approx(2 * plain.kv_tokens, rel=0.01)


def test_online_fp8_is_counted(planning: Planning) -> None:
    plan = planning("1xH100-SXM", "Qwen2.5-72B-Instruct", extra_args=["--quantization", "fp8"], max_model_len=1024)
    assert not plan.fits  # 74 GB of FP8 weights against 72.8 GiB
    assert "FP8 checkpoint" not in plan.refused


def test_hosts_on_which_nothing_can_be_planned(planning: Planning) -> None:
    assert "nvidia-smi shows no GPU (its state: absent)" in planning(NodeHardware(), "Qwen2.5-7B-Instruct").refused
    good = hardware_by_name("2xL4", load_gpus())
    blind = replace(good, gpus=(good.gpus[0], replace(good.gpus[1], memory_mib=None)))
    assert "memory of GPU 1 could not be read" in planning(blind, "Qwen2.5-7B-Instruct").refused
    mixed = replace(good, gpus=(good.gpus[0], replace(good.gpus[1], name="NVIDIA L40S")))
    assert "several kinds" in planning(mixed, "Qwen2.5-7B-Instruct").refused
    sliced = replace(good, gpus=(good.gpus[0], replace(good.gpus[1], mig_enabled=True)))
    assert "MIG is on" in planning(sliced, "Qwen2.5-7B-Instruct").refused


def test_what_the_gpu_cannot_compute_is_said(planning: Planning) -> None:
    model = replace(known_model("Llama-3.1-8B-Instruct"), quantisation=FP8)
    plan = planning("1xA10", model)
    assert plan.fits
    assert any("no FP8 tensor cores" in reason for reason in plan.reasons)
    turing = planning("1xT4", "Qwen2.5-7B-Instruct", max_model_len=1024, extra_args=["--quantization", "fp8"])
    assert "half" in turing.vllm_args


def test_json_has_the_documented_fields(planning: Planning) -> None:
    value = planning("8xH100-SXM", "Llama-3.3-70B-Instruct").as_dict()
    wanted = {
        "version", "tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "max_model_len", "fits",
        "weights_gib_per_gpu", "kv_cache_tokens", "reasons", "vllm_args",
    }  # fmt: skip
    assert wanted <= set(value)
    assert value["weights_gib_per_gpu"] == 32.85
