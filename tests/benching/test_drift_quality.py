"""Drift is tied to what held the clocks down; answers are compared pair by pair."""

from __future__ import annotations

import random
from typing import Any

import pytest

from metalserve.benching.drift import drift
from metalserve.benching.quality import Question, answered, judge, questions
from metalserve.loading.asking import run_quality
from metalserve.loading.client import Endpoint
from tests.benching.standin import Known, run, serving


def long_step(loss: float, seconds: int = 1200) -> dict[str, Any]:
    """A step whose throughput falls by `loss` halfway through; it begins 10 s after the run."""
    rng = random.Random(2)
    level = [1000 * (1 - loss * (second > seconds / 2)) for second in range(seconds)]
    return {
        "duration_s": float(seconds),
        "from_s": 10.0,
        "buckets": [rng.gauss(value, 30) for value in level],
        "samples": {
            "due_s": [float(second) for second in range(seconds)],
            "ttft_ms": [rng.gauss(200, 10) for _ in level],
            "tpot_ms": [20 * 1000 / value for value in level],
        },
    }


def watched(*, hot: bool, seconds: int = 1200) -> list[dict[str, Any]]:
    rows = []
    for at in range(0, seconds, 10):
        late = hot and at > seconds / 2
        reasons = ["hw_thermal_slowdown", "hw_slowdown"] if late else ["sw_power_cap"]
        gpus = [
            {"index": n, "temperature_c": 88.0 if late and n == 3 else 64.0, "power_w": 640.0, "margin_c": 5.0,
             "sm_mhz": 1410 if late and n == 3 else 1900, "utilisation": 99.0,
             "held": reasons if n == 3 else ["sw_power_cap"]}
            for n in range(8)
        ]  # fmt: skip
        rows.append({"t_s": at + 10.0, "node": "a", "gpus": gpus})
    return rows


def test_a_drift_by_heat_names_the_gpu() -> None:
    found = drift(long_step(0.12), watched(hot=True))
    tokens = found["changes"]["output_tokens_s"]
    assert tokens["verdict"] == "lower" and tokens["percent"] == pytest.approx(-12, abs=1)
    assert found["changes"]["tpot_ms_p50"]["verdict"] == "higher"
    assert found["changes"]["ttft_ms_p95"]["verdict"] == "cannot tell"
    assert found["edge_s"] == 300
    assert found["says"][1] == (
        "a GPU 3: the hardware slows the clocks down because of heat in 100 % of the last samples; "
        "64 to 88 C, 1900 to 1410 MHz"
    )
    assert len(found["says"]) == 2 and len(found["gpus"]) == 8


def test_a_drift_without_a_reason_on_the_gpus_says_so() -> None:
    says = drift(long_step(0.12), watched(hot=False))["says"]
    assert "is lower than in the first" in says[0] and "the reason lies elsewhere" in says[1]


def test_no_drift_and_no_telemetry() -> None:
    says = drift(long_step(0.0), watched(hot=False))["says"]
    assert "did not drift measurably" in says[0] and says[1] == "no GPU was slowed by heat or power brake"
    assert "nothing says whether their clocks" in drift(long_step(0.0), [])["says"][1]
    assert drift(long_step(0.012), [])["says"][0].startswith("the throughput drifted by less than 2 %")
    assert drift(long_step(0.0, 3), [])["says"][0].startswith("too short")


def test_questions_are_many_different_and_right() -> None:
    asked = questions(240)
    assert len({q.text for q in asked}) == 240 and asked == questions(240) != questions(240, seed=1)
    assert {q.kind for q in asked} == {"arithmetic", "code"}
    for question in asked:
        if question.kind == "code":
            code = question.text.split("\n\n")[1]
            printed: list[int] = []
            exec(code, {"print": printed.append, "range": range, "sum": sum, "max": max, "len": len})
            assert printed == [question.answer]
        elif question.text.startswith("What is"):
            assert eval(question.text.removeprefix("What is ").partition("?")[0]) == question.answer


@pytest.mark.parametrize(
    ("text", "number"),
    [("42", 42), (" -7.", -7), ("The answer is 1,234.", 1234), ("<think>12, no 13</think> 14", 14), ("12.5", None),
     ("none", None), ("3 + 4 = 7", 7), ("88.0", 88)],
)  # fmt: skip
def test_the_number_that_an_answer_gives(text: str, number: int | None) -> None:
    assert answered(text) == number


def judged(only_a: int, only_b: int, both: int = 80, neither: int = 20) -> dict[str, Any]:
    asked = [Question("arithmetic", str(n), n) for n in range(both + only_a + only_b + neither)]
    a = [str(q.answer) if n < both + only_a else "-1" for n, q in enumerate(asked)]
    b = [
        str(q.answer) if n < both or both + only_a <= n < both + only_a + only_b else "-1" for n, q in enumerate(asked)
    ]
    return judge(asked, a, b)


def test_worse_better_and_what_cannot_be_told() -> None:
    worse = judged(15, 2)
    assert worse["verdict"] == "worse" and worse["high"] < 0 and "B is worse here" in worse["says"]
    assert judged(2, 15)["verdict"] == "better"
    none = judged(3, 2)
    assert none["verdict"] == "cannot tell" and "would not have been seen" in none["says"]
    assert judged(0, 0)["low"] < 0 < judged(0, 0)["high"]
    assert "neither can answer" in judged(1, 0, both=2, neither=117)["says"]
    few = [Question("code", "x", 1)] * 59
    assert judge(few, ["1"] * 59, ["1"] * 59)["verdict"] == "unknown"


def test_two_engines_are_asked_and_the_worse_one_is_found() -> None:
    right = {q.text: str(q.answer) for q in questions(90, 20)}
    wrong = {text: answer if n % 5 else "0" for n, (text, answer) in enumerate(right.items())}

    async def both() -> Any:
        async with serving(Known(answers=right)) as a, serving(Known(answers=wrong)) as b:
            ends = Endpoint(a), Endpoint(b)
            return await run_quality(*ends, count=90, seed=20, max_tokens=64, insecure=False)

    result = run(both())
    told = result["judgement"]
    assert (told["right_a"], told["right_b"], told["only_a"], told["verdict"]) == (90, 72, 18, "worse")
    assert told["difference"] == pytest.approx(-0.2) and told["high"] < 0
    assert result["simulated"] is True and len(result["questions"]) == 90
