"""Against an engine with known latencies the bench recovers them, and counts the tokens that it counts."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from metalserve.errors import MetalserveError
from metalserve.loading.client import Endpoint
from metalserve.loading.run import Plan, run_ab, run_steps
from tests.benching.standin import NAME, Known, run, serving


def plan(tmp_path: Path, tokens: int = 20, **more: Any) -> Plan:
    requests = tmp_path / "requests.jsonl"
    requests.write_text(json.dumps({"prompt": "one two three four five", "max_tokens": tokens}))
    return Plan(jsonl=requests, **{"warmup_s": 0.3, "window_s": 1.5, **more})


def steps(given: Plan, mode: str, loads: list[float], most: int = 64, **values: Any) -> tuple[dict[str, Any], Known]:
    async def both() -> Any:
        model = Known(**values)
        async with serving(model) as url:
            return await run_steps(Endpoint(url), given, mode, loads, most, lambda _: None), model

    found: tuple[dict[str, Any], Known] = run(both())
    return found


def test_it_recovers_what_the_engine_is_made_of(tmp_path: Path) -> None:
    result, _ = steps(plan(tmp_path, window_s=4.0), "closed", [1, 4, 8], slots=4, first_s=0.06, token_s=0.004)
    one, four, eight = result["steps"]
    assert one["ttft_ms"]["p50"] == pytest.approx(60, rel=0.05)
    assert one["tpot_ms"]["p50"] == pytest.approx(4, rel=0.05)
    assert four["tpot_ms"]["p50"] == pytest.approx(4, rel=0.05)
    assert one["itl_ms"]["p99"] == pytest.approx(4, rel=0.05)
    answer_s = 0.06 + 19 * 0.004
    assert one["e2e_ms"]["p50"] == pytest.approx(1000 * answer_s, rel=0.05)
    assert result["knee"]["peak_output_tokens_s"] == pytest.approx(4 * 20 / answer_s, rel=0.05)
    assert result["knee"]["saturation"] == pytest.approx(4, rel=0.05)
    assert (result["knee"]["load"], result["knee"]["reached"]) == (4, True)
    # beyond the slots an answer waits for one: Little's law
    assert eight["e2e_ms"]["mean"] == pytest.approx(2000 * answer_s, rel=0.05)
    assert eight["requests_s"] == pytest.approx(4 / answer_s, rel=0.05)
    assert result["simulated"] is True


def test_its_totals_are_the_engines_own(tmp_path: Path) -> None:
    result, model = steps(plan(tmp_path, window_s=1.0), "closed", [2, 5], slots=8, first_s=0.01, token_s=0.001)
    asked = sum(step["totals"]["requests"] for step in result["steps"])
    assert model.counts["requests"] == asked + 1  # and the one that measured the tokens of a word
    assert sum(s["counters"]["generation_tokens"] for s in result["steps"]) == model.counts["generation"] - 1
    for step in result["steps"]:
        assert step["counters_agree"] is True
        own = step["totals"]
        assert own["output_tokens"] == step["counters"]["generation_tokens"] == 20 * own["requests"]
        assert own["input_tokens"] == step["counters"]["prompt_tokens"]
        assert step["completed"] == step["requests"] and step["failed"] == 0
        assert step["requests"] < own["requests"]  # the warm-up does not count
        assert sum(step["buckets"]) == pytest.approx(step["output_tokens"], abs=0.1)
        assert step["cached_tokens"] > 0 and step["cached_from"] == "usage"


def test_clients_are_doubled_until_it_no_longer_pays(tmp_path: Path) -> None:
    result, _ = steps(plan(tmp_path, window_s=2.0), "closed", [], slots=2, first_s=0.08, token_s=0.004)
    assert [step["load"] for step in result["steps"]] == [1, 2, 4, 8]
    assert result["knee"]["load"] == 2
    result, _ = steps(plan(tmp_path, window_s=2.0), "closed", [], most=4, slots=64)
    assert [step["load"] for step in result["steps"]] == [1, 2, 4] and not result["knee"]["reached"]


def test_objectives_limit_the_load(tmp_path: Path) -> None:
    given = plan(tmp_path, window_s=2.0, ttft_ms=35.0)
    result, _ = steps(given, "closed", [2, 6], slots=2, first_s=0.02, token_s=0.001)
    assert result["knee"]["within"] == 2 and result["objectives"]["ttft_ms_p95"] == 35


def test_an_open_loop_sees_a_stall_that_a_closed_one_hides(tmp_path: Path) -> None:
    """Coordinated omission: while the engine stands still, a closed loop asks nothing."""
    model: dict[str, Any] = {"slots": 64, "first_s": 0.01, "token_s": 0.0005, "stall": (2.0, 4.0)}
    given = plan(tmp_path, 4, arrivals="constant", window_s=6.0)
    closed, _ = steps(given, "closed", [1], **model)
    opened, _ = steps(given, "open", [40], **model)
    assert closed["steps"][0]["ttft_ms"]["p99"] < 20
    assert opened["steps"][0]["ttft_ms"]["p90"] > 1000
    assert opened["steps"][0]["requests"] == pytest.approx(240, abs=1)
    assert "no coordinated omission" in opened["notes"][0] and "(coordinated omission)" in closed["notes"][0]


def test_a_rate_beyond_what_is_served_is_found(tmp_path: Path) -> None:
    given = plan(tmp_path, 2, arrivals="poisson", window_s=6.0)
    result, _ = steps(given, "open", [20, 60], slots=2, first_s=0.0495, token_s=0.0005)  # 40 requests/s
    assert (result["knee"]["load"], result["knee"]["reached"]) == (20, True)
    assert result["steps"][1]["requests_s"] == pytest.approx(40, rel=0.05)
    late = result["steps"][1]["ttft_ms"]
    assert late["p95"] > 5 * result["steps"][0]["ttft_ms"]["p95"]


def test_failures_are_counted_by_what_they_say(tmp_path: Path) -> None:
    result, _ = steps(plan(tmp_path, window_s=3.0), "closed", [4], first_s=0.05, fail_every=5, broken_every=7)
    (step,) = result["steps"]
    assert step["failed"] == sum(step["errors"].values()) > 0
    assert step["completed"] + step["failed"] == step["requests"]
    assert any("HTTP 500: EngineCore is dead" in error for error in step["errors"])
    assert len(step["errors"]) >= 2
    assert step["counters_agree"] is False and any("the engine counted" in note for note in result["notes"])


def test_an_endpoint_that_is_not_there_or_refuses_the_key(tmp_path: Path) -> None:
    with pytest.raises(MetalserveError, match="nothing answers"):
        run(run_steps(Endpoint("http://127.0.0.1:9"), plan(tmp_path), "closed", [1], 1, lambda _: None))
    with pytest.raises(MetalserveError, match="HTTP 401: Unauthorized"):
        steps(plan(tmp_path), "closed", [1], key="secret")


def test_a_workload_is_sized_by_the_models_own_tokens(tmp_path: Path) -> None:
    given = Plan(workload="rag", warmup_s=0.5, window_s=10.0, prompt=800, answer=10)
    result, _ = steps(given, "closed", [2], first_s=0.05)
    (step,) = result["steps"]
    assert step["input_tokens"] / step["completed"] == pytest.approx(800, rel=0.1)
    assert result["workload"]["shape"]["prompt"] == 800 and result["workload"]["tokens_per_word"] == 1


async def in_turn(given: Plan, slower: float) -> Any:
    a, b = Known(first_s=0.02, token_s=0.001), Known(first_s=0.02, token_s=0.001 * slower)
    async with serving(a) as one, serving(b) as two:
        return await run_ab(Endpoint(one), Endpoint(two), given, "closed", 2, 4, lambda _: None)


def test_ab_in_turn_finds_a_difference(tmp_path: Path) -> None:
    result = run(in_turn(plan(tmp_path, 10, window_s=1.5), 1.5))
    assert [block["side"] for block in result["steps"]] == list("ABBAABBA")
    tpot = result["comparison"]["changes"]["tpot_ms.p50"]
    assert tpot["verdict"] == "higher" and tpot["percent"] == pytest.approx(50, abs=3)
    tokens = result["comparison"]["changes"]["output_tokens_s"]
    assert tokens["verdict"] == "lower" and tokens["percent"] == pytest.approx(100 * (29 / 33.5 - 1), abs=2)
    assert result["endpoints"]["A"]["model"] == NAME


def test_it_runs_in_real_time_too(tmp_path: Path) -> None:
    async def both() -> Any:
        async with serving(Known(first_s=0.1, token_s=0.01)) as url:
            given = plan(tmp_path, window_s=1.0, warmup_s=0.2)
            return await run_steps(Endpoint(url), given, "closed", [2], 2, lambda _: None)

    (step,) = asyncio.run(both())["steps"]
    assert step["counters_agree"] is True and step["completed"] >= 2
    assert step["ttft_ms"]["p50"] >= 100 and step["tpot_ms"]["p50"] >= 9
