"""The rate: out of a plan, out of a benchmark; what is not there is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from metalserve.economics.bench import from_bench
from metalserve.economics.throughput import from_plan
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
        {"failed": 3},
        {"max_concurrency": 32},
        {"duration": float("nan")},
        {"total_input_tokens": None},
        {"total_input_tokens": True},
    ],
)
def test_what_is_no_rate_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(MetalserveError):
        from_bench({**VLLM, **change}, where="b.json", concurrency=64)
