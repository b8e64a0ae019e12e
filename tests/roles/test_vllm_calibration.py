"""What an engine printed when it started, held against its plan and kept on the controller for the next plan."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from metalserve.catalogue.loader import load_gpus
from metalserve.desired.observed import Observation
from metalserve.errors import MetalserveError
from metalserve.hardware.section import Section
from metalserve.planning import LaunchPlan, hardware_by_name, plan_launch
from metalserve.planning.calibration import Learned, correction_of, read_corrections
from metalserve.planning.known import known_model
from metalserve.pyinfra_seam.learning import keep_learned
from metalserve.pyinfra_seam.report import RunReport
from metalserve.releases import load_release
from metalserve.settings import EngineSettings
from roles.vllm import records
from tests.planning.test_calibration import CPU, V033

MODEL = "meta-llama/Llama-3.3-70B-Instruct"


@pytest.fixture(scope="module")
def plan() -> LaunchPlan:
    catalogue = load_gpus()
    return plan_launch(
        hardware_by_name("8xH100-SXM", catalogue),
        known_model(MODEL),
        EngineSettings(tensor_parallel=4),
        load_release("2026.11-lts"),
        catalogue,
    )


def seen(log: str) -> Observation:
    kept = {"schema": 1, "replica": 0, "at": "2026-11-25T10:41:50Z", "ready_after_s": 80.0, "lines": log.splitlines()}
    return Observation(sections={records.SECTION: Section(json.dumps(kept), 0)})


def test_the_figures_of_the_start_stand_beside_the_plans(plan: LaunchPlan) -> None:
    words, learned = records.against_plan(seen(V033), plan, host="gpu-01", model=MODEL)
    assert "weights: planned" in words and "the engine printed 32.91" in words and "473,296" in words
    assert learned is not None
    assert (learned.host, learned.model, learned.vllm) == ("gpu-01", MODEL, "0.33.0")
    assert learned.observed == "2026-11-25T10:41:50Z"
    # weights 32.91 and KV cache 36.11 of 72.78 GiB leave 3.76 for all else
    corrected = plan_launch(
        hardware_by_name("8xH100-SXM", load_gpus()),
        known_model(MODEL),
        EngineSettings(tensor_parallel=4, gpu_memory_utilization=0.92),
        load_release("2026.11-lts"),
        load_gpus(),
        correction=learned.correction,
    )
    assert plan.memory is not None and corrected.memory is not None
    printed = 36.11 * 2**30
    assert abs(corrected.memory.kv_bytes - printed) < abs(plan.memory.kv_bytes - printed) or (
        abs(plan.memory.kv_bytes - printed) < 0.02 * printed
    )


def test_nothing_is_learned_from_a_cpu_or_without_a_record(plan: LaunchPlan) -> None:
    assert records.against_plan(seen(CPU), plan, host="gpu-01", model=MODEL)[1] is None
    assert records.against_plan(Observation(), plan, host="gpu-01", model=MODEL) == ("", None)


def learned(factor: float = 1.01, at: str = "2026-11-25T10:00:00Z") -> Learned:
    return Learned("gpu-01", MODEL, "0.33.0", 4, 1, factor, 2.0e9, at)


def report(*hosts: Learned) -> RunReport:
    made = RunReport()
    for one in hosts:
        made.host(one.host).learned = asdict(one)
    return made


def test_what_was_learned_is_kept_and_a_run_that_learns_the_same_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "reports/calibration.json"
    keep_learned(report(), path)
    assert not path.exists()
    keep_learned(report(learned()), path)
    first = path.read_text()
    found = correction_of(read_corrections(first, "x"), "gpu-01", MODEL, "0.33.0")
    assert found is not None and found.weights_factor == 1.01
    keep_learned(report(learned(at="2026-11-26T10:00:00Z")), path)
    assert path.read_text() == first
    keep_learned(report(learned(1.02)), path)
    assert [one.weights_factor for one in read_corrections(path.read_text(), "x")] == [1.02]


def test_a_file_that_is_none_of_ours_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    path.write_text("mine")
    with pytest.raises(MetalserveError, match="no corrections"):
        keep_learned(report(learned()), path)
    assert path.read_text() == "mine"
