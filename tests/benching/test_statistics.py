"""Intervals, percentiles, arrivals and knees against what is known of them."""

from __future__ import annotations

import itertools
import math
import random
import statistics as known
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metalserve.benching.arrivals import gaps
from metalserve.benching.knee import find_knee
from metalserve.benching.results import Outcome, percentile, summary
from metalserve.benching.statistics import BLOCK_S, change, mcnemar, mean, paired_change, paired_difference


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=50), st.integers(1, 99))
def test_percentiles_are_those_of_the_standard_library(values: list[float], percent: int) -> None:
    expected = known.quantiles(values, n=100, method="inclusive")[percent - 1]
    assert percentile(sorted(values), percent) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_an_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = random.Random(5)
    held = 0
    for trial in range(60):
        a, b = ([rng.gauss(100, 15) for _ in range(60)] for _ in range(2))
        found = change(a, b, mean, rounds=200, seed=trial)
        assert found is not None
        held += found.low <= 0 <= found.high
    assert 0.88 <= held / 60 <= 1.0  # 95 % asked for


def test_a_change_is_found_and_a_series_that_hangs_together_is_not_believed_too_much() -> None:
    rng = random.Random(1)
    a = [rng.gauss(100, 5) for _ in range(300)]
    found = change(a, [value * 0.95 for value in a], mean, block=BLOCK_S)
    assert found is not None and found.verdict == "lower" and found.percent == pytest.approx(-5, abs=0.01)
    slow = [100 + 10 * math.sin(second / 15) + rng.gauss(0, 1) for second in range(300)]
    alone, together = change(slow, slow, mean), change(slow, slow, mean, block=BLOCK_S)
    assert alone is not None and together is not None
    assert together.high - together.low > 2 * (alone.high - alone.low)
    assert change([1, 2], [1, 2], mean) is None and change([0.0] * 9, [1.0] * 9, mean) is None


def test_pairs_cancel_what_both_share() -> None:
    drift = [100, 90, 80, 70, 60, 50]
    found = paired_change([float(d) for d in drift], [1.02 * d for d in drift])
    assert found is not None and found.verdict == "higher" and found.low == pytest.approx(2, abs=0.01)
    unpaired = change([float(d) for d in drift], [1.02 * d for d in drift], mean)
    assert unpaired is not None and unpaired.verdict == "cannot tell"


@pytest.mark.parametrize(
    ("a", "b", "p"), [(0, 0, 1.0), (0, 6, 0.03125), (1, 5, 0.21875), (10, 10, 1.0), (5, 0, 0.0625)]
)
def test_mcnemar_is_the_exact_binomial(a: int, b: int, p: float) -> None:
    assert mcnemar(a, b) == pytest.approx(p) == mcnemar(b, a)


def test_the_paired_interval_has_a_width_even_without_a_difference() -> None:
    difference, low, high = paired_difference(100, 0, 0, 20)
    assert difference == 0 and low < 0 < high and high - low == pytest.approx(2 * 1.96 * 1 / 122, rel=0.01)
    assert paired_difference(80, 20, 2, 18)[2] < 0


@pytest.mark.parametrize(("kind", "cv"), [("constant", 0.0), ("poisson", 1.0), ("bursty", 4.0)])
def test_gaps_have_the_rate_and_the_variation_asked_for(kind: Any, cv: float) -> None:
    found = list(itertools.islice(gaps(20, kind, seed=3), 40_000))
    assert known.mean(found) == pytest.approx(0.05, rel=0.1)
    assert known.stdev(found) / known.mean(found) == pytest.approx(cv, rel=0.12, abs=1e-9)
    assert found[:50] == list(itertools.islice(gaps(20, kind, seed=3), 50))


def test_only_the_window_counts() -> None:
    early = Outcome(9.0, 9.0, [9.5, 10.5, 11.5], 11.5, 10, 3)
    inside = Outcome(10.0, 10.2, [11.0, 12.0], 12.0, 20, 4)
    late = Outcome(19.0, 19.0, [19.5, 20.5], 20.5, 30, 2)
    lost = Outcome(15.0, 15.0, [], 15.1, error="HTTP 500: x")
    told = summary([early, inside, late, lost], 10.0, 20.0)
    assert (told["requests"], told["completed"], told["failed"]) == (3, 2, 1)
    assert told["output_tokens"] == 2 + 4 + 1  # two of the early one's, all of the next (two a piece), one of the last
    assert told["input_tokens"] == 50 and told["requests_s"] == pytest.approx(0.2)
    assert told["ttft_ms"]["p50"] == pytest.approx(750)  # 1000 from when it was due, not from when it was sent; 500
    assert told["generator_lag_ms"] == pytest.approx(200, rel=0.05) and told["errors"] == {"HTTP 500: x": 1}
    assert summary([], 0, 10)["ttft_ms"] is None


def step(load: float, tokens: float, **more: Any) -> dict[str, Any]:
    spread = {"p95": 100.0}
    return {"mode": "closed", "load": load, "output_tokens_s": tokens, "completed": 50, "failed": 0, "requests": 50,
            "duration_s": 10.0, "requests_s": 5.0, "ttft_ms": spread, "tpot_ms": spread, **more}  # fmt: skip


def test_the_knee_is_the_last_step_before_more_stops_to_pay() -> None:
    steps = [step(1, 100), step(2, 195), step(4, 370), step(8, 620), step(16, 700), step(32, 690)]
    knee = find_knee(steps)
    assert (knee.load, knee.reached, knee.saturation, knee.peak_output_tokens_s) == (8, True, 7.0, 700)
    assert "from 8 to 16 clients each one more added 10.0 tokens/s, 10 %" in knee.why
    assert find_knee(steps, gain=0.05).load == 16
    assert find_knee([step(8, 1176.2), step(16, 1176.0)]).why == "from 8 to 16 clients each one more added nothing"
    assert find_knee([step(8, 800), step(16, 720)]).why.endswith("added nothing, but cost 10.0 tokens/s")
    assert find_knee(steps[:3]).reached is False
    assert find_knee([]).load is None
    assert find_knee([step(1, 100, completed=0)]).why == "no step has a whole answer"


def test_objectives_are_broken_by_one_failure_or_one_late_percentile() -> None:
    steps = [step(1, 100), step(2, 150, ttft_ms={"p95": 300.0}), step(4, 200, failed=1)]
    assert find_knee(steps, ttft_ms=200).within == 1
    assert find_knee(steps, ttft_ms=500).within == 2
    assert find_knee(steps, tpot_ms=50).within is None
