"""`metalserve bench` against a real engine: it runs, and its totals equal the engine's own counters."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from metalserve.loading.asking import run_quality
from metalserve.loading.client import Endpoint
from metalserve.loading.run import Plan, run_ab, run_steps
from tests.real_vllm.engine import Engine


def endpoint(engine: Engine) -> Endpoint:
    return Endpoint(f"http://127.0.0.1:{engine.port}", key=engine.key)


def test_its_totals_are_the_engines_own(engine: Engine) -> None:
    names = ("prompt_tokens_total", "generation_tokens_total")
    before = {name: engine.metric(f"vllm:{name}") for name in names}
    # long enough that requests begin and end within it on a machine that others use as well
    plan = Plan(workload="rag", prompt=400, answer=24, warmup_s=1, window_s=30)
    result: dict[str, Any] = asyncio.run(run_steps(endpoint(engine), plan, "closed", [1, 4], 4, lambda _: None))
    assert result["simulated"] is False
    sent = {"prompt_tokens_total": 0, "generation_tokens_total": 0}
    for step in result["steps"]:
        assert step["failed"] == 0 and step["counters_agree"] is True, step["errors"]
        assert step["counters"]["prompt_tokens"] == step["totals"]["input_tokens"]
        sent["prompt_tokens_total"] += step["totals"]["input_tokens"]
        sent["generation_tokens_total"] += step["totals"]["output_tokens"]
    grown = {name: engine.metric(f"vllm:{name}") - before[name] for name in names}
    first = grown["prompt_tokens_total"] - sent["prompt_tokens_total"]  # the request that told the tokens of a word
    assert first == pytest.approx(128 * result["workload"]["tokens_per_word"], rel=0.05)
    assert grown["generation_tokens_total"] == sent["generation_tokens_total"] + 1
    four = result["steps"][1]
    assert four["completed"] >= 4
    counted = four["counters"]  # the shared front, as the engine itself counts it
    assert counted["prefix_cache_hits"] > 0.3 * counted["prefix_cache_queries"] > 0
    assert four["cached_tokens"] > 0.3 * four["input_tokens"] > 0
    assert four["ttft_ms"]["p50"] < four["e2e_ms"]["p50"] and four["tpot_ms"]["p50"] > 0


def test_an_engine_against_itself_does_not_differ_in_what_it_answers(engine: Engine) -> None:
    ends = endpoint(engine), endpoint(engine)
    result = asyncio.run(run_quality(*ends, count=60, seed=1, max_tokens=16, insecure=False))
    told = result["judgement"]
    assert told["compared"] == 60 and told["only_a"] + told["only_b"] <= 6 and told["verdict"] == "cannot tell"
    plan = Plan(workload="chat", prompt=60, answer=16, warmup_s=0.5, window_s=2)
    blocks = asyncio.run(run_ab(*ends, plan, "closed", 2, 3, lambda _: None))["steps"]
    assert all(block["counters_agree"] for block in blocks)
