from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from metalserve.cli.read import command
from metalserve.errors import MetalserveError

from . import samples
from .kinds import SAMPLES


def run(*args: str, text: str | None = None) -> Result:
    return CliRunner().invoke(command, list(args), input=text, standalone_mode=False)


def test_without_arguments_the_kinds_are_listed() -> None:
    listed = run().output
    for kind in ("topo", "smi-q", "nvlink-status", "lspci", "nvme-list", "kernel-log"):
        assert kind in listed


def test_topo_as_json() -> None:
    read = json.loads(run("topo", "-", "--json", text=samples.TOPO_2_BRIDGED).output)
    assert (read["schema"], read["kind"], read["gpus"]) == (1, "topo", ["GPU0", "GPU1"])
    assert read["links"] == {"GPU0,GPU1": "NV12"}
    assert (read["nics"], read["numa_nodes"]) == (["NIC0"], [0, 1])
    assert read["summary"] == "2 GPUs, all 1 pairs NV12"


def test_several_files_give_a_line_each_and_a_bad_one_the_status(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.txt", tmp_path / "bad.txt"
    good.write_text(samples.NVLINK_PAIR)
    bad.write_text("GPU 0: NVIDIA X\n\t Link 0: 1 GB/sLink 1: 1 GB/s\n")
    result = run("nvlink-status", "--json", str(good), str(bad), str(tmp_path / "none.txt"))
    first, second, third = (json.loads(line) for line in result.output.splitlines())
    assert [(g["active"], g["inactive"], g["gb_per_s"]) for g in first["gpus"]] == [(12, 6, 26.562)] * 2
    assert "not understood" in second["error"]
    assert third["file"] == str(tmp_path / "none.txt")
    assert "cannot be read" in third["error"]
    assert result.return_value == 1


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (samples.TOPO_2_BRIDGED, "topo"),
        (samples.SMI_Q, "smi-q"),
        (samples.SMI_CSV, "smi-csv"),
        (samples.SMI_LIST, "smi-list"),
        (samples.NVLINK_PAIR, "nvlink-status"),
        (samples.LSPCI, "lspci"),
        (samples.NVME_V2, "nvme-list"),
        (samples.NVME_TABLE, "nvme-list"),
        (samples.KERNEL_LOG, "kernel-log"),
    ],
)
def test_the_kind_is_recognised(text: str, kind: str) -> None:
    assert json.loads(run("-", "--json", text=text).output)["kind"] == kind


def test_events_and_reports_have_the_documented_keys() -> None:
    log = json.loads(run("kernel-log", "-", "--json", text=samples.KERNEL_LOG).output)
    assert {"xid", "pci", "kind", "message"} <= set(log["events"][0])
    report = json.loads(run("smi-q", "-", "--json", text=samples.SMI_Q).output)
    assert report["driver"] == "580.178.04"
    wanted = {"name", "memory_mib", "event_reasons", "fabric_state", "recovery_action", "remapped_pending"}
    assert wanted | {"remapped_failure"} <= set(report["gpus"][0])


def test_what_is_nothing_known_is_refused_with_a_hint() -> None:
    with pytest.raises(MetalserveError, match="did you mean 'topo'"):
        CliRunner().invoke(command, ["topu"], standalone_mode=False, catch_exceptions=False)
    assert run("-", text="hello").return_value == 1


def test_for_people_it_prints_lines() -> None:
    shown = run("topo", "-", text=samples.TOPO_2_BRIDGED).output
    assert "summary: 2 GPUs, all 1 pairs NV12" in shown


def test_broken_smi_is_an_error_that_says_so() -> None:
    text = "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 535.309\n"
    for words in (("smi-q", "-"), ("topo", "-"), ("-",)):
        result = run(*words, "--json", text=text)
        read = json.loads(result.output)
        assert (
            read["error"] == "nvidia-smi failed (mismatch): Failed to initialize NVML: Driver/library version mismatch"
        )
        assert (read["state"], result.return_value) == ("mismatch", 1)
    lost = "Unable to determine the device handle for GPU0000:1B:00.0: Unknown Error\n"
    assert json.loads(run("smi-csv", "-", "--json", text=lost).output)["unreachable"] == ["0000:1b:00.0"]


def test_a_missing_file_does_not_end_the_others(tmp_path: Path) -> None:
    good = tmp_path / "good.txt"
    good.write_text(samples.SMI_LIST)
    missing = str(tmp_path / "missing.txt")
    first, second = (json.loads(line) for line in run(missing, str(good), "--json").output.splitlines())
    assert (first["file"], "cannot be read" in first["error"], second["kind"]) == (missing, True, "smi-list")


def test_damage_is_told_as_what_the_text_looks_like() -> None:
    read = json.loads(run("-", "--json", text=samples.TOPO_2_BRIDGED.replace("NV12\tSYS", "NV12SYS")).output)
    assert read["kind"] == "topo"
    assert read["error"].startswith("as topo: ")


def test_files_of_other_systems_are_read(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(samples.SMI_LIST.replace("\n", "\r\n").encode("utf-16"))
    assert len(json.loads(run(str(tmp_path / "list.txt"), "--json").output)["gpus"]) == 2
    (tmp_path / "bytes.bin").write_bytes(bytes(range(256)) * 20)
    assert run(str(tmp_path / "bytes.bin"), "--json").return_value == 1


@pytest.mark.parametrize("kind", sorted(SAMPLES))
def test_every_kind_is_shown_to_people(kind: str) -> None:
    result = run(kind, "-", text=SAMPLES[kind][0])
    assert (result.return_value, result.exception) == (0, None)
    assert result.output.strip()
