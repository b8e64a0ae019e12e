"""`metalserve bench` on the lab: its totals are the engine's own, the node is watched meanwhile, A/B and page."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from metalserve.paths import ROOT
from tests.lab.fleet import Fleet

pytestmark = [pytest.mark.lab, pytest.mark.fleet, pytest.mark.slow]


def bench(fleet: Fleet, *arguments: str, rc: int = 0, timeout_s: float = 1200) -> str:
    command = [sys.executable, "-m", "metalserve", "bench", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=fleet.environment(), capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert done.returncode == rc, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def engine(fleet: Fleet, port: int = 8000) -> str:
    return f"http://{fleet.lab.address(fleet.lab.hosts[0])}:{port}"


def test_its_totals_are_the_engines_and_the_node_is_watched(serving: Fleet, tmp_path: Path) -> None:
    host, out, html = serving.lab.hosts[0], tmp_path / "run.json", tmp_path / "run.html"
    bench(serving, "run", engine(serving), "--clients", "1,4", "--warmup", "0.5", "--window", "4", "--prompt-tokens",
          "60", "--answer-tokens", "40", "--inventory", "inventories/lab.py", "--host", host, "--out", str(out),
          "--html", str(html))  # fmt: skip
    result: dict[str, Any] = json.loads(out.read_text())
    assert result["simulated"] is True
    for step in result["steps"]:
        assert step["failed"] == 0 and step["counters_agree"] is True
        assert step["totals"]["output_tokens"] == step["counters"]["generation_tokens"]
        assert step["totals"]["input_tokens"] == step["counters"]["prompt_tokens"]
    one, four = result["steps"]
    assert four["output_tokens_s"] > 1.5 * one["output_tokens_s"]
    within = [row for row in result["telemetry"] if one["from_s"] <= row["t_s"] <= four["to_s"]]
    assert within and {row["node"] for row in within} == {host} and all(row["gpus"] for row in within)
    assert html.read_text().count("<svg") >= 6


@pytest.mark.slow
def test_a_drift_is_tied_to_the_gpu_that_got_hot(serving: Fleet, tmp_path: Path) -> None:
    """The stand-in does not slow down with heat: what the GPU said in the last part is told all the same."""
    host, out = serving.lab.hosts[0], tmp_path / "long.json"
    load = ["--clients", "2", "--minutes", "1", "--warmup", "1", "--prompt-tokens", "40", "--answer-tokens", "40"]
    watch = ["--inventory", "inventories/lab.py", "--host", host]
    words = ["sustained", engine(serving), *load, *watch, "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "metalserve", "bench", *words],
        cwd=ROOT, env={**serving.environment(), "PYTHONUNBUFFERED": "1"}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "2 clients for 1 min\n"  # the step begins now
        time.sleep(25)
        serving.lab.fault(host, "thermal-throttle", gpu=2)
        said, _ = process.communicate(timeout=600)
    finally:
        process.kill()
        serving.lab.heal(host)
    assert f"{host} GPU 2: the hardware slows the clocks down because of heat in 100 % of the last samples" in said
    drift = json.loads(out.read_text())["drift"]
    assert drift["gpus"][2]["first"]["held"] == {} and drift["gpus"][2]["last"]["held"]["hw_thermal_slowdown"] == 1


@pytest.mark.slow
def test_two_engines_of_one_kind_do_not_differ(serving: Fleet, tmp_path: Path) -> None:
    out = tmp_path / "ab.json"
    bench(serving, "ab", engine(serving), engine(serving, 8001), "--clients", "2", "--pairs", "4", "--window", "6",
          "--warmup", "1", "--prompt-tokens", "40", "--answer-tokens", "40", "--out", str(out))  # fmt: skip
    result = json.loads(out.read_text())
    assert [step["side"] for step in result["steps"]] == list("ABBAABBA")
    assert all(step["counters_agree"] for step in result["steps"])
    assert abs(result["comparison"]["changes"]["output_tokens_s"]["percent"]) < 40
    # a stand-in cannot count: that this says nothing is said, and fails
    short = ["--questions", "60", "--max-tokens", "16", "--out", str(out)]
    assert "neither can answer" in bench(serving, "quality", engine(serving), engine(serving, 8001), *short)


def test_two_plans_of_one_node_in_turn(serving: Fleet, tmp_path: Path) -> None:
    host, out = serving.lab.hosts[-1], tmp_path / "plans.json"
    words = ["plans", "inventories/lab.py", host, "--b", "engine.max_model_len=512", "--clients", "2", "--pairs", "3",
             "--window", "4", "--warmup", "1", "--prompt-tokens", "40", "--answer-tokens", "40",
             "--out", str(out)]  # fmt: skip
    assert "would replace the engine" in bench(serving, *words, rc=3)
    said = bench(serving, *words, "--yes", timeout_s=5400)  # eight runs of the main job
    assert said.count("is in service") == 5 and f"putting {host}'s own plan back" in said
    result = json.loads(out.read_text())
    assert [step["side"] for step in result["steps"]] == list("BAABBA")
    assert all(step["completed"] and step["counters_agree"] for step in result["steps"])
    assert result["endpoints"]["B"]["max_model_len"] == 512 != result["endpoints"]["A"]["max_model_len"]
    # the inventory's own plan is in service again
    again = serving.run("--limit", host, timeout_s=1800)
    assert again.rc == 0 and "nothing changed" in again.out
