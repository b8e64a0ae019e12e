"""One engine over several hosts: which split, what each node is told, and that the release accepts it."""

from __future__ import annotations

import pytest

from metalserve.catalogue.loader import load_gpus
from metalserve.catalogue.vllm_check import check_args
from metalserve.planning import hardware_by_name
from metalserve.planning.known import known_model, known_models
from metalserve.planning.multinode import HEAD, GroupPlan, plan_group
from metalserve.releases import load_release
from metalserve.settings import EngineSettings

GPUS = load_gpus()
RELEASE = load_release("2026.11-lts")


def group(gpu: str, model: str, nodes: int, **engine: object) -> GroupPlan:
    settings = EngineSettings(**engine)  # type: ignore[arg-type]
    return plan_group(hardware_by_name(gpu, GPUS), known_model(model), settings, RELEASE, GPUS, nodes)


@pytest.mark.parametrize(
    ("gpu", "model", "nodes", "engine", "shape"),
    [
        ("8xH100-SXM", "DeepSeek-V3", 2, {}, (8, 2, 1, False)),
        ("8xH200-SXM", "DeepSeek-V3", 2, {"intent": "throughput"}, (1, 1, 16, True)),
        ("8xH100-SXM", "Llama-3.1-405B-Instruct", 2, {}, (8, 2, 1, False)),
        ("8xH100-SXM", "Llama-3.1-405B-Instruct", 2, {"intent": "throughput"}, (8, 2, 1, False)),
        ("4xH100-SXM", "Llama-3.1-405B-Instruct", 4, {}, (4, 4, 1, False)),
        ("4xH100-NVL", "Llama-3.3-70B-Instruct", 2, {}, (2, 2, 1, False)),
        ("8xH100-SXM", "Llama-3.3-70B-Instruct", 2, {"tensor_parallel": 4, "pipeline_parallel": 4}, (4, 4, 1, False)),
    ],
)
def test_shape(gpu: str, model: str, nodes: int, engine: dict[str, object], shape: tuple[int, int, int, bool]) -> None:
    plan = group(gpu, model, nodes, **engine)
    assert plan.fits, plan.refused
    assert (plan.tensor_parallel, plan.pipeline_parallel, plan.data_parallel, plan.expert_parallel) == shape


def test_pipeline_members() -> None:
    plan = group("8xH100-SXM", "DeepSeek-V3", 2)
    assert [member.serves for member in plan.members] == [True, False]
    assert [member.gpus for member in plan.members] == [tuple(range(8))] * 2
    head, worker = (" ".join(plan.member_args(node, "10.0.0.1")) for node in (0, 1))
    assert "--nnodes 2 --node-rank 0 --master-addr 10.0.0.1 --master-port 29501" in head
    assert "--headless" not in head
    assert worker.endswith("--node-rank 1 --master-addr 10.0.0.1 --master-port 29501 --headless")
    assert HEAD not in head + worker
    assert HEAD in plan.members[0].vllm_args


def test_expert_members() -> None:
    plan = group("8xH200-SXM", "DeepSeek-V3", 2, intent="throughput")
    head, worker = (" ".join(plan.member_args(node, "fd00::1")) for node in (0, 1))
    assert "--data-parallel-size 16 --data-parallel-size-local 8 --data-parallel-address fd00::1" in head
    assert "--data-parallel-start-rank 8" in worker
    assert worker.endswith("--enable-expert-parallel --headless")
    alone = plan_group(
        hardware_by_name("8xH200-SXM", GPUS), known_model("DeepSeek-V3"), EngineSettings(), RELEASE, GPUS, 2
    )
    assert plan.kv_tokens > alone.kv_tokens


def test_refusals() -> None:
    assert "two nodes or more" in group("8xH100-SXM", "DeepSeek-V3", 1).refused
    small = group("1xL4", "Llama-3.1-405B-Instruct", 2)
    assert not small.fits
    assert "378.0 GiB of weights" in small.refused
    assert "heads do not divide" in group("8xH100-SXM", "Llama-3.3-70B-Instruct", 2, tensor_parallel=3).refused
    value = small.as_dict()
    assert value["fits"] is False
    assert value["members"] == []


@pytest.mark.parametrize("gpu", ["8xH100-SXM", "4xL40S", "8xB200", "4xH100-NVL"])
def test_every_model_is_accepted_or_refused_in_words(gpu: str) -> None:
    for name in known_models():
        for intent in ("balanced", "throughput"):
            plan = group(gpu, name, 2, intent=intent)
            if not plan.fits:
                assert plan.refused
                continue
            assert len(plan.members) == 2
            used = plan.tensor_parallel * plan.pipeline_parallel * plan.data_parallel
            assert used == sum(len(member.gpus) for member in plan.members)
            for node in (0, 1):
                words = plan.member_args(node, "10.0.0.1")
                assert [p for p in check_args(words, "0.33.0") if p.severity == "error"] == []
