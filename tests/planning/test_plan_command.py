"""`metalserve plan`: from a GPU's name, a report, with a workload, over several hosts, with what was learned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from metalserve.catalogue.loader import load_gpus
from metalserve.cli import root
from metalserve.errors import MetalserveError
from metalserve.hardware.export import hardware_dict
from metalserve.paths import ROOT
from metalserve.planning import hardware_by_name
from metalserve.planning.calibration import Learned, as_json
from metalserve.planning.observed import hardware_from, measured_from, measured_from_figures
from metalserve.planning.plan_json import plan_dict
from tests.planning.conftest import Planning


def run(*args: str) -> tuple[int, str]:
    result = CliRunner().invoke(root, ["plan", *args], standalone_mode=False)
    if result.exception:
        raise result.exception
    return int(result.return_value or 0), result.output


def report(tmp_path: Path, **more: Any) -> str:
    """A report of one host, as a run of deploys/verify.py leaves it."""
    hardware = hardware_dict(hardware_by_name("4xL40S", load_gpus()))
    host = {"name": "gpu1", "status": "unchanged", "hardware": hardware, "findings": [], "changes": [], **more}
    path = tmp_path / "report.json"
    whole = {"schema": 1, "started": "2026-11-25T10:00:00Z", "complete": True, "hosts": {"gpu1": host}}
    path.write_text(json.dumps(whole))
    return str(path)


def all_reduce(gpus: int, busbw: float) -> dict[str, object]:
    return {"gpus": list(range(gpus)), "size_bytes": 2**28, "busbw_gb_s": busbw, "algbw_gb_s": busbw}


def test_a_host_of_a_report(tmp_path: Path) -> None:
    measured = {
        "nvlink": {"backend": "nccl", "all_reduce": [all_reduce(4, 22.0)]},
        "storage": {"read_gb_s": 7.0},
    }
    path = report(tmp_path, measurements=measured)
    code, text = run("--report", path, "--host", "gpu1", "--model", "Llama-3.3-70B-Instruct", "--intent", "throughput")
    assert code == 0
    assert "tensor parallel 4" in text
    assert "22 GB/s measured on this host over 4 GPUs" in text
    assert "at the 7.0 GB/s that the drive gave" in text
    code, plain = run("--gpu", "4xL40S", "--model", "Llama-3.3-70B-Instruct", "--intent", "throughput")
    assert "tensor parallel 2, pipeline parallel 2" in plain


def test_what_was_measured_on_a_stand_in_is_not_taken(tmp_path: Path) -> None:
    measured = {"simulated": True, "nvlink": {"backend": "nccl", "all_reduce": [all_reduce(4, 22.0)]}}
    path = report(tmp_path, measurements=measured, simulated=True)
    _, text = run("--report", path, "--host", "gpu1", "--model", "Llama-3.3-70B-Instruct")
    assert text.startswith("simulated: true")
    assert "measured on this host" not in text
    _, told = run("--report", path, "--host", "gpu1", "--model", "Llama-3.3-70B-Instruct", "--json")
    assert json.loads(told)["simulated"] is True


def test_workload_on_the_command_line() -> None:
    _, text = run("--gpu", "8xH100-SXM", "--model", "Llama-3.3-70B-Instruct", "--json", "--prompt-tokens", "8000",
                     "--answer-tokens", "200", "--concurrency", "32", "--tpot-ms", "40")  # fmt: skip
    value = json.loads(text)
    assert value["workload"] == {"prompt_tokens": 8000, "answer_tokens": 200, "concurrency": 32, "tpot_ms": 40.0,
                                 "ttft_ms": None, "assumed": False}  # fmt: skip
    assert 1 <= value["per_engine"]["concurrency"] <= 32 // value["replicas"]
    assert value["limits_kept"] is True
    assert value["per_engine"]["tpot_ms"]["value"] <= 40


def test_several_hosts() -> None:
    code, text = run("--gpu", "8xH100-SXM", "--nodes", "2", "--model", "DeepSeek-V3")
    assert code == 0
    assert "node 0:" in text
    assert text.count("docker run") == 2
    assert text.count("--headless") == 1
    code, told = run("--gpu", "8xH100-SXM", "--nodes", "2", "--model", "DeepSeek-V3", "--json")
    assert [m["serves"] for m in json.loads(told)["members"]] == [True, False]


def test_a_calibration_file(tmp_path: Path) -> None:
    learned = Learned("gpu1", "Qwen3-32B", "0.33.0", 4, 1, 1.0, 3 * 2**30, "2026-11-25T10:00:00Z")
    kept = tmp_path / "learned.json"
    kept.write_text(as_json([learned]))
    path = report(tmp_path)
    plain = json.loads(run("--report", path, "--host", "gpu1", "--model", "Qwen3-32B", "--json")[1])
    taught = json.loads(
        run("--report", path, "--host", "gpu1", "--model", "Qwen3-32B", "--json", "--calibration", str(kept))[1]
    )
    assert taught["overhead_gib_per_gpu"] == pytest.approx(plain["overhead_gib_per_gpu"] + 3, abs=0.02)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), "give either --gpu COUNTxGPU or --host NAME"),
        (("--gpu", "1xL4", "--host", "x"), "give either"),
        (("--gpu", "1xL4", "--tpot-ms", "0"), "--tpot-ms"),
        (("--gpu", "1xL4", "--prompt-tokens", "-3"), "--prompt-tokens"),
        (("--host", "x", "--report", "/nowhere.json"), "cannot be read"),
    ],
)
def test_what_is_refused(args: tuple[str, ...], words: str) -> None:
    with pytest.raises(MetalserveError, match=words):
        run(*args, "--model", "Llama-3.1-8B-Instruct")


def test_a_baseline_stands_for_a_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METALSERVE_BASELINES_DIR", str(tmp_path))
    kept = {"started": "2026-11-25T10:00:00Z", "figures": {"busbw": 22.0}, "gpus": ["GPU-1", "GPU-2", "GPU-3", "GPU-4"]}
    (tmp_path / "gpu1.json").write_text(json.dumps(kept))
    inventory = tmp_path / "inventory.py"
    hosts = [("gpu1", {"release": "2026.11-lts", "engine": {"intent": "throughput"}})]
    # pyinfra's own reader would put gevent in place of threads, for every test after this one
    monkeypatch.setattr("metalserve.pyinfra_seam.inventory.load_inventory", lambda path: hosts)
    args = ("--inventory", str(inventory), "--report", report(tmp_path), "--host", "gpu1")
    _, text = run(*args, "--model", "Llama-3.3-70B-Instruct")
    assert "22 GB/s measured on this host over 4 GPUs" in text
    assert "at most 150 ms a token" in text  # the inventory's intent
    assert "(release 2026.11-lts)" in text
    _, other = run(*args, "--model", "Llama-3.3-70B-Instruct", "--intent", "balanced")
    assert "at most 150 ms a token" not in other
    assert measured_from_figures({"busbw": 22.0}, 4, simulated=True) is None
    with pytest.raises(MetalserveError, match="no host gpu2 in the inventory"):
        run("--inventory", str(inventory), "--host", "gpu2", "--model", "Llama-3.3-70B-Instruct")


def test_no_such_host(tmp_path: Path) -> None:
    with pytest.raises(MetalserveError, match="no host gpu9 in the report"):
        run("--report", report(tmp_path), "--host", "gpu9", "--model", "Qwen3-32B")


def test_hardware_comes_back_from_a_report_as_it_was() -> None:
    for name in ("8xH100-SXM", "4xL40S", "4xH100-NVL"):
        hardware = hardware_by_name(name, load_gpus())
        again = hardware_from(json.loads(json.dumps(hardware_dict(hardware))), "x")
        assert (again.gpus, dict(again.links), again.smi_state) == (hardware.gpus, dict(hardware.links), "ok")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "no hardware of this host"),
        ({"schema": 99}, "schema 99"),
        ({"schema": 1, "gpus": [{"name": "no index"}]}, "cannot be read"),
        ({"schema": 1, "gpus": ["text"]}, "cannot be read"),
        ({"schema": 1, "links": "text"}, "cannot be read"),
    ],
)
def test_hardware_that_is_none(values: dict[str, Any], words: str) -> None:
    with pytest.raises(MetalserveError, match=words):
        hardware_from(values, "x")
    assert measured_from(values) is None


def test_every_json_key_is_documented(planning: Planning) -> None:
    text = (ROOT / "docs" / "plan-schema.md").read_text(encoding="utf-8")
    keys = set(plan_dict(planning("8xH100-SXM", "Llama-3.3-70B-Instruct")))
    group = json.loads(run("--gpu", "8xH100-SXM", "--nodes", "2", "--model", "DeepSeek-V3", "--json")[1])
    missing = [key for key in (*keys, *group, *group["members"][0]) if f"`{key}`" not in text]
    assert missing == []
