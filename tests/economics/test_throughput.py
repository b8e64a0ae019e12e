"""The rate: out of a plan, out of a benchmark; what is not there is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from metalserve.economics.bench import from_bench
from metalserve.economics.throughput import from_plan, with_planned_share
from metalserve.errors import MetalserveError

PLAN: dict[str, Any] = {
    "fits": True,
    "replicas": 2,
    "model": "some/model",
    "gpu": "8xh100-sxm",
    "simulated": False,
    "workload": {"prompt_tokens": 1024, "answer_tokens": 512},
    "per_engine": {
        "tokens_per_s": {"low": 2000.0, "value": 2500.0, "high": 3000.0},
        "tpot_ms_parts": {
            "weights": 10, "kv": 5, "compute": 5, "prefill": 15, "all_reduce": 8, "fixed": 5, "bubble": 0,
        },
    },
}  # fmt: skip

VLLM: dict[str, Any] = {
    "max_concurrency": 64,
    "duration": 100.0,
    "completed": 500,
    "failed": 0,
    "total_input_tokens": 600_000,
    "total_output_tokens": 150_000,
}


def test_a_plan_counts_all_engines_and_keeps_its_range() -> None:
    found = from_plan(PLAN, where="plan.json")
    assert (found.low, found.output, found.high) == (4000, 5000, 6000)
    assert found.input_per_output == 2
    # 15 of 40 ms: the all-reduces serve prompts and answers alike.
    assert found.prefill_share == pytest.approx(0.375)
    assert found.basis == "planned"
    names = [row.name for row in found.assumptions()]
    assert names == ["throughput.output_tok_s", "throughput.input_per_output", "allocation.prefill_share"]


@pytest.mark.parametrize("key", ["replicas", "per_engine", "workload"])
def test_a_plan_without_speed_is_refused(key: str) -> None:
    plan = copy.deepcopy(PLAN)
    plan[key] = None
    with pytest.raises(MetalserveError, match="no speed"):
        from_plan(plan, where="plan.json")


def test_a_plan_that_does_not_fit_is_refused() -> None:
    with pytest.raises(MetalserveError, match="too big"):
        from_plan({"fits": False, "refused": "too big"}, where="plan.json")


def test_simulated_hardware_stays_simulated() -> None:
    assert from_plan({**PLAN, "simulated": True}, where="x").simulated


def test_a_result_of_vllm_bench_serve() -> None:
    found = from_bench(VLLM, where="b.json", concurrency=64)
    assert found.output == found.low == found.high == 1500
    assert found.input_per_output == 4
    assert found.basis == "measured"
    assert found.prefill_share is None


@pytest.mark.parametrize(
    "change",
    [
        {"duration": 0},
        {"total_output_tokens": 0},
        {"total_output_tokens": "150000"},
        {"failed": 30},
        {"max_concurrency": 32},
        {"duration": float("nan")},
        {"total_input_tokens": None},
        {"total_input_tokens": True},
    ],
)
def test_what_is_no_rate_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(MetalserveError):
        from_bench({**VLLM, **change}, where="b.json", concurrency=64)


def step(load: float, rate: float, **more: Any) -> dict[str, Any]:
    values = {
        "mode": "closed", "load": load, "from_s": 10.0, "to_s": 70.0, "duration_s": 60.0, "requests": 100,
        "failed": 0, "input_tokens": 6000, "cached_tokens": 1500, "input_tokens_s": 3 * rate, "output_tokens_s": rate,
    }  # fmt: skip
    return {**values, **more}


BENCH: dict[str, Any] = {
    "schema": 1,
    "kind": "steps",
    "simulated": True,
    "steps": [step(1, 50), step(8, 300), step(64, 900)],
    "knee": {"load": 64.0, "within": 8.0},
    "telemetry": [
        {"t_s": 5.0, "node": "n1", "gpus": [{"index": 0, "power_w": 100.0}]},
        {"t_s": 20.0, "node": "n1", "gpus": [{"index": 0, "power_w": 500.0}, {"index": 1, "power_w": None}]},
        {"t_s": 60.0, "node": "n1", "gpus": [{"index": 0, "power_w": 600.0}]},
    ],
}


def test_a_result_of_metalserve_bench() -> None:
    found = from_bench(BENCH, where="b.json")
    # The highest load that kept the objectives, not the knee.
    assert found.output == 300
    assert found.input_per_output == 3
    assert found.cached_share == 0.25
    # Watts within the window alone: 500 and 600.
    assert found.gpu_w == 550
    assert found.simulated
    assert "8 clients" in found.source


def test_without_objectives_the_knee_is_taken_and_a_load_can_be_named() -> None:
    assert from_bench({**BENCH, "knee": {"load": 64.0, "within": None}}, where="b").output == 900
    assert from_bench(BENCH, where="b", concurrency=1).output == 50
    with pytest.raises(MetalserveError, match="1, 8, 64"):
        from_bench(BENCH, where="b", concurrency=2)
    with pytest.raises(MetalserveError, match="--concurrency"):
        from_bench({**BENCH, "knee": {}}, where="b")


def test_a_sustained_run_has_one_load() -> None:
    found = from_bench({**BENCH, "kind": "sustained", "knee": None, "steps": [step(32, 700)]}, where="b")
    assert found.output == 700


def test_a_fleets_rate_is_divided_by_its_nodes_and_never_silently() -> None:
    two = [*BENCH["telemetry"], {"t_s": 20.0, "node": "n2", "gpus": []}]
    with pytest.raises(MetalserveError, match="--bench-nodes"):
        from_bench({**BENCH, "telemetry": two}, where="b")
    assert from_bench({**BENCH, "telemetry": two}, where="b", nodes=2).output == 150
    assert from_bench(VLLM, where="b", nodes=3).output == 500


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "ab"},
        {"schema": 2},
        {"steps": []},
        {"steps": [step(8, 300, failed=5)]},
        {"steps": [step(8, 0)]},
        {"steps": [step(8, 300, output_tokens_s=None)]},
    ],
)
def test_a_bench_without_a_rate_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(MetalserveError):
        from_bench({**BENCH, **change}, where="b")


def test_a_measured_rate_takes_the_planners_division() -> None:
    measured, planned = from_bench(BENCH, where="b"), from_plan(PLAN, where="p")
    found = with_planned_share(measured, planned, 0.1)
    # Prompts take 0.375 of the time. A quarter is cached, a tenth of the work of that is left:
    # 0.375 x (1 - 0.25 x 0.9) = 0.290625, of 0.290625 + 0.625.
    assert found.prefill_share == pytest.approx(0.290625 / 0.915625)
    rows = {row.name: row for row in found.assumptions()}
    assert rows["allocation.prefill_share"].basis == "planned"
    assert rows["throughput.output_tok_s"].basis == "measured"
    assert from_bench(VLLM, where="b").lengths == (1200, 300)


def test_what_was_not_measured_stays_unknown() -> None:
    bare = {**BENCH, "telemetry": [], "steps": [step(8, 300, cached_tokens=None)]}
    found = from_bench(bare, where="b")
    assert found.cached_share is None
    assert found.gpu_w is None
    assert {row.name for row in found.assumptions()} == {"throughput.output_tok_s", "throughput.input_per_output"}
