"""Records of starts: where the time went, which start was slow, and what that says of the load format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from metalserve.cli.weights import command
from metalserve.pyinfra_seam.report import RunReport
from metalserve.weights.loads import Load, faster_format, latest, load_of, parse_loads, slower
from tests.hardware.test_vllm_log import TIMES_02X, TIMES_08

RECORD: dict[str, Any] = {
    "schema": 1, "replica": 0, "model": "m", "revision": "a" * 40, "image": "vllm:1", "gpus": "GPU-1,GPU-2",
    "format": "auto", "at": "2026-11-25T18:00:00Z", "ready_after_s": 120.0, "gate_s": 3.0,
    "weights_bytes": 140_000_000_000, "read_bytes": 139_000_000_000, "warmed_bytes": None,
    "lines": TIMES_02X.splitlines(),
}  # fmt: skip


def record(**more: Any) -> Load:
    (load,) = parse_loads(json.dumps({**RECORD, **more}))
    return load


def test_where_the_time_of_a_start_went() -> None:
    load = record()
    assert (load.gpus, load.gate_s, load.weights_s, load.compile_s, load.graphs_s) == (2, 3.0, 30.02, 24.32, 34.0)
    assert load.placing_s == pytest.approx(31.890731 - 30.02)
    assert load.warm_up_s == pytest.approx(64.98 - 24.32 - 34)
    assert load.rest_s == pytest.approx(120 - 3 - 31.890731 - 64.98)
    assert sum(seconds for _, seconds in load.parts) == pytest.approx(120)
    assert load.in_words(11.0) == (
        "ready in 120 s: gate 3 s, weights 30 s (4.7 GB/s, the way to the drive carries 11.0), placing 2 s, "
        "compile 24 s, graphs 34 s, warm-up 7 s, rest 20 s"
    )


def test_old_engines_tell_the_same() -> None:
    load = record(lines=TIMES_08.splitlines(), ready_after_s=210.0, gate_s=None)
    assert (load.weights_s, load.compile_s, load.graphs_s) == (53.3, 48.62, 50.0)
    assert load.warm_up_s == pytest.approx(133.53 - 48.62 - 50)
    assert sum(seconds for _, seconds in load.parts) == pytest.approx(210)


def test_what_came_from_memory_is_said() -> None:
    warm = record(read_bytes=0, warmed_bytes=140_000_000_000, format="fastsafetensors")
    assert warm.cached == 1.0
    assert "weights 30 s (4.7 GB/s, fastsafetensors, 100% of it from memory)" in warm.in_words(11.0)
    assert record(read_bytes=None).cached is None


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"lines": []}, "ready in 120 s: gate 3 s"),
        ({"lines": ["nothing of vLLM"], "gate_s": 0.4}, "ready in 120 s"),
        ({"ready_after_s": None}, "how long it took is not known"),
        ({"weights_bytes": None, "gate_s": None, "lines": ["Loading weights took 30.02 seconds"]},
         "ready in 120 s: weights 30 s, rest 90 s"),
    ],
)  # fmt: skip
def test_what_is_not_told_stays_unknown(more: dict[str, Any], words: str) -> None:
    assert record(**more).in_words() == words


def test_damaged_lines_are_left_out() -> None:
    text = "no json\n[]\n{}\n" + json.dumps({**RECORD, "schema": 2}) + "\n" + json.dumps(RECORD) + "\n"
    assert [load.replica for load in parse_loads(text)] == [0]


def test_the_report_gives_back_what_it_was_given() -> None:
    load = record()
    assert load_of(json.loads(json.dumps(load.as_dict()))) == load
    assert load_of({"replica": 1, "unheard": 2, "at": None}) == Load(1)


def test_a_start_that_became_slow_is_warned_of_and_says_where() -> None:
    good = record(at="2026-11-24T00:00:00Z")
    slow = record(ready_after_s=240.0, lines=[TIMES_02X.replace("30.02", "150.02").replace("31.890731", "151.9")])
    found = slower([good, slow], 0)
    assert found is not None
    assert found.status == "warn"
    assert found.expected == "at most 1.5 times its best start of this model and image, 120 s on 2026-11-24T00:00:00Z"
    assert found.observed == "240 s; most of it in weights (+120 s)"
    assert "drive" in found.remedy
    within = slower([good, record(ready_after_s=170.0)], 0)
    assert within is not None
    assert within.status == "ok"


@pytest.mark.parametrize(
    "before",
    [
        [],
        [{"image": "vllm:2"}],
        [{"revision": "b" * 40}],
        [{"gpus": "GPU-1"}],
        [{"model": "n"}],
        [{"ready_after_s": None}],
    ],
)
def test_only_starts_of_the_same_kind_are_compared(before: list[dict[str, Any]]) -> None:
    assert slower([*(record(**{"ready_after_s": 1.0, **one}) for one in before), record()], 0) is None


def test_a_small_model_that_takes_twice_its_seconds_is_no_matter() -> None:
    found = slower([record(ready_after_s=9.0), record(ready_after_s=19.0)], 0)
    assert found is not None
    assert found.status == "ok"


def test_the_last_start_of_each_engine() -> None:
    loads = [record(replica=1), record(replica=0, ready_after_s=1.0), record(replica=0, ready_after_s=2.0)]
    assert [(load.replica, load.ready_s) for load in latest(loads)] == [(0, 2.0), (1, 120.0)]


def took(seconds: float, load_format: str = "auto", **more: Any) -> Load:
    return record(format=load_format, lines=[f"Loading weights took {seconds:.2f} seconds"], **more)


KIND = record().kind


@pytest.mark.parametrize(
    ("loads", "running", "chosen"),
    [
        ([], "auto", "auto"),
        ([took(30)], "auto", "auto"),
        ([took(30), took(10, "fastsafetensors")], "auto", "fastsafetensors"),
        ([took(30), took(26, "fastsafetensors")], "auto", "auto"),  # not clearly
        ([took(30), took(10, "fastsafetensors", image="vllm:2")], "auto", "auto"),  # of another image
        ([took(60), took(30), took(25, "fastsafetensors")], "auto", "auto"),  # against the best of each
        ([took(10, "fastsafetensors")], "auto", "auto"),  # nothing to compare with
        ([took(10, "fastsafetensors")], "fastsafetensors", "fastsafetensors"),  # what was chosen stays
        ([took(9), took(10, "fastsafetensors")], "fastsafetensors", "auto"),
        ([took(30), took(20, "fastsafetensors"), took(10, "instanttensor")], "auto", "instanttensor"),
    ],
)
def test_another_loader_is_taken_only_where_it_was_measured_to_be_faster(
    loads: list[Load], running: str, chosen: str
) -> None:
    name, why = faster_format(loads, KIND, running)
    assert name == chosen
    assert why


@given(
    st.lists(st.tuples(st.sampled_from(["auto", "fastsafetensors", "runai_streamer"]), st.floats(1, 100)), max_size=6)
)
def test_a_choice_is_stable_once_it_was_followed(starts: list[tuple[str, float]]) -> None:
    loads = [took(50), *(took(seconds, name) for name, seconds in starts)]
    chosen, _ = faster_format(loads, KIND)
    best = min((load.weights_s for load in loads if load.load_format == chosen and load.weights_s), default=50.0)
    again, _ = faster_format([*loads, took(best, chosen)], KIND, chosen)
    assert again == chosen


def report(path: Path, *loads: Load) -> Path:
    made = RunReport()
    host = made.host("gpu-01")
    host.loads = [load.as_dict() for load in loads]
    host.measurements = {"storage": {"read_gb_s": 11.0}}
    made.host("gpu-02")
    made.write(path)
    return path


def test_the_command_shows_the_last_starts_and_fails_for_a_slow_one(tmp_path: Path) -> None:
    path = report(tmp_path / "run.json", record(at="2026-11-24T00:00:00Z"), record(ready_after_s=400.0))
    ran = CliRunner().invoke(command, ["loads", "--report", str(path)], standalone_mode=False)
    assert ran.exception is None
    assert ran.return_value == 1
    assert "gpu-01; its drive gave 11.0 GB/s when it was measured" in ran.output
    assert ran.output.count(" engine 0 (m, 2 GPUs) ready in ") == 1
    assert "slow: engine 0: 400 s; most of it in rest" in ran.output
    assert "gpu-02: the report has no start of an engine" in ran.output
    both = CliRunner().invoke(command, ["loads", "gpu-01", "--all", "--report", str(path)], standalone_mode=False)
    assert both.output.count(" engine 0 (m, 2 GPUs) ready in ") == 2
    told = CliRunner().invoke(command, ["loads", "--json", "--report", str(path)], standalone_mode=False)
    data = json.loads(told.output)
    assert data["gpu-01"]["loads"][0]["weights_gb_s"] == pytest.approx(140 / 30.02)
    assert data["gpu-02"]["loads"] == []


def test_the_command_names_a_host_that_is_not_there(tmp_path: Path) -> None:
    path = report(tmp_path / "run.json")
    ran = CliRunner().invoke(command, ["loads", "gpu-09", "--report", str(path)])
    assert ran.exit_code
    assert "has no host gpu-09; it has: gpu-01, gpu-02" in str(ran.exception)
