"""The soak on the CPU, and how it watches, stops and always leaves nothing running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from metalserve.verify.measurement import Soak, read_value
from tests.probes.conftest import PROBES, PYTHON, load, run

FIELDS = ["index", "temperature.gpu", "temperature.gpu.tlimit", "power.draw", "clocks.sm"]
FIELDS.append("clocks_event_reasons.active")
OLD = ["index", "temperature.gpu", "power.draw", "clocks.sm", "clocks_throttle_reasons.active"]


@pytest.mark.usefixtures("torch")
def test_two_processes_for_two_seconds(tmp_path: Path) -> None:
    progress = tmp_path / "progress.json"
    rc, told = run("soak", "--cpu", "2", "--seconds", "2", "--size", "64", "--progress", str(progress))
    assert rc == 0, told
    assert (told["backend"], told["stopped"], told["simulated"]) == ("cpu", None, False)
    value = read_value(Soak, told)
    assert [gpu.index for gpu in value.gpus] == [0, 1]
    assert all(len(gpu.t_s) >= 2 and all(rate for rate in gpu.tflops) for gpu in value.gpus)
    assert value.gpus[0].reasons == (None,) * len(value.gpus[0].t_s), "what was not read is not `none`"
    assert json.loads(progress.read_text())["phase"] == "ended"


@pytest.mark.usefixtures("torch")
@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL", "stop file"])
def test_no_process_is_left_however_it_ends(how: str, tmp_path: Path) -> None:
    progress, stop = tmp_path / "progress.json", tmp_path / "stop"
    command = [PYTHON, str(PROBES / "soak.py"), "--json", "--cpu", "2", "--seconds", "60", "--size", "64"]
    command += ["--progress", str(progress), "--stop-file", str(stop)]
    soak = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not progress.exists():
        assert soak.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    workers = _children(soak.pid)
    assert len(workers) == 2
    if how == "stop file":
        stop.write_text("Xid: NVRM: Xid (PCI:0000:1b:00): 79\n")
    else:
        soak.send_signal(getattr(signal, how))
    out, _ = soak.communicate(timeout=30)
    if how == "SIGKILL":
        assert out == ""
    else:
        told = json.loads(out)
        assert told["stopped"] == ("SIGTERM" if how == "SIGTERM" else "Xid: NVRM: Xid (PCI:0000:1b:00): 79")
        assert soak.returncode == 1
    while any(_runs(pid) for pid in workers):
        assert time.monotonic() < deadline, "a worker outlived the soak"
        time.sleep(0.05)


def _children(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[1]) == parent:
                found.append(int(entry.name))
    return found


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return (Path("/proc") / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_line_of_nvidia_smi_is_read_with_all_its_gaps() -> None:
    soak = load("soak")
    line = "0, 41, 46, 111.31, 1980, 0x0000000000000044\n"
    assert soak.read_line(line, soak.FIELDS) == {
        "index": 0,
        "temperature_c": 41,
        "tlimit_margin_c": 46,
        "power_w": 111.31,
        "sm_mhz": 1980,
        "reasons": ["sw_power_cap", "hw_thermal_slowdown"],
    }
    gaps = soak.read_line("3, [N/A], [N/A], [Unknown Error], N/A, [Not Supported]", soak.FIELDS)
    assert gaps is None, "a GPU that answers with errors is no sample"
    empty = soak.read_line("3, [N/A], [N/A], N/A, [Not Supported], [N/A]", soak.FIELDS)
    assert empty == {"index": 3, **dict.fromkeys(("temperature_c", "tlimit_margin_c", "power_w", "sm_mhz", "reasons"))}
    assert soak.read_line("0, 41, 111.31, 1980, 0x0", soak.OLDEST_FIELDS)["reasons"] == []
    assert soak.read_line("0, 41, 111.31, 1980, 0x800", soak.OLDEST_FIELDS)["reasons"] == ["0x800"]
    for noise in ("", "No devices were found", "x, 1, 2, 3, 4, 5", "0, ERR!, 2, 3, 4, 0x0"):
        assert soak.read_line(noise, soak.FIELDS) is None


@pytest.mark.parametrize("known", [FIELDS, OLD])
def test_telemetry_takes_the_spelling_that_the_driver_knows(known: list[str], smi: Path) -> None:
    (smi.parent / "known").write_text("\n".join(known) + "\n")
    cells = dict.fromkeys(known, "0") | {"temperature.gpu": "41", known[-1]: "0x4"}
    (smi.parent / "lines").write_text(", ".join(cells[name] for name in known) + "\n")
    telemetry = load("soak").Telemetry(str(smi))
    telemetry.start()
    try:
        deadline = time.monotonic() + 10
        while 0 not in telemetry.latest:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert telemetry.latest[0]["temperature_c"] == 41
        assert telemetry.latest[0]["reasons"] == ["sw_power_cap"]
        assert telemetry.failed == "" and telemetry.said == ""
        # replaced whole: who is reading the old one must not go on in the middle of the new one
        new = smi.parent / "lines.new"
        new.write_text("Unable to determine the device handle for GPU0: 0000:1B:00.0: Unknown Error\n")
        new.replace(smi.parent / "lines")
        while not telemetry.failed:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert "Unable to determine" in telemetry.failed
    finally:
        telemetry.end()


def test_telemetry_that_cannot_be_had_is_said(tmp_path: Path) -> None:
    telemetry = load("soak").Telemetry(str(tmp_path / "no-such-tool"))
    telemetry.start()
    assert telemetry.said.startswith("none: ") and telemetry.latest == {}


def test_heat_above_the_limit_ends_the_load_but_one_reading_does_not() -> None:
    module = load("soak")
    arguments = SimpleNamespace(cpu=1, smi="", limit_c=89.0, stop_file=None, progress=None, seconds=60)
    soak = module.Soak(arguments)
    soak.series = [{name: [] for name in module.SERIES}]
    soak.rates = [(time.monotonic() + 60, 1.0)]
    heats = [95.0, 60.0, *[90.0] * (module.HOT_S - 1)]
    for heat in heats:
        soak.telemetry.latest = {0: {"temperature_c": heat}}
        soak._tick(1.0)
        soak._look_for_failure(None)
    soak._tick(1.0)
    with pytest.raises(module.Ended, match="heat: GPU 0 at 90 C, limit 89 C"):
        soak._look_for_failure(None)


def test_seconds_are_joined_without_losing_the_worst() -> None:
    joined = load("soak")._joined(
        {
            "t_s": [1, 2, 3], "tflops": [10.0, 20.0, 7.0], "temperature_c": [50, 90, None],
            "tlimit_margin_c": [30, -1, None], "power_w": [None, None, None], "sm_mhz": [1000, 2000, 1500],
            "reasons": [["sw_power_cap"], ["hw_thermal_slowdown"], None],
        },
        2,
    )  # fmt: skip
    assert joined["tflops"] == [15.0, 7.0] and joined["temperature_c"] == [90, None]
    assert joined["tlimit_margin_c"] == [-1, None] and joined["t_s"] == [2, 3]
    assert joined["reasons"] == [["hw_thermal_slowdown", "sw_power_cap"], None] and joined["power_w"] == [None, None]
