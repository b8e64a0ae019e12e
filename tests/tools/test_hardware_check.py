"""The hardware kit: what it left of a real 2xH100 guest is read and judged, and it ends well where there is no GPU.

The fixture is what tools/hardware_check.sh wrote there (2026-11-25); UUIDs and serial numbers are replaced, sections
about the machine itself are left out, and of its kernel log only the driver's lines are kept.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from metalserve.catalogue.loader import load_gpus
from metalserve.hardware.node import NodeHardware, node_hardware
from metalserve.hardware.section import Section
from metalserve.paths import ROOT
from metalserve.settings import ExpectSettings
from metalserve.verify.expectation import expectation
from metalserve.verify.measurement import Nvlink, Soak, read_value
from metalserve.verify.measurement_bandwidth import check_bandwidth
from metalserve.verify.measurement_soak import check_soak

REAL = Path(__file__).parent / "fixtures" / "h100x2"
FILES = {
    "captures.txt", "smi.xml", "bandwidth.json", "soak.json", "storage.json",
    "verify.json", "report.html", "summary.txt",
}  # fmt: skip


@pytest.fixture(scope="module")
def kit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hardware_report", ROOT / "tools" / "hardware_report.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def hardware(kit: ModuleType) -> NodeHardware:
    captured = kit.sections((REAL / "captures.txt").read_text())
    return node_hardware({name: Section(text, code) for name, (code, text) in captured.items()})


def test_every_capture_of_a_real_host_is_read_whole(kit: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert kit.read_captures(REAL) is True
    said = capsys.readouterr().out
    assert "NOT READ" not in said and "not understood" not in said and "no parser" not in said
    read = [line.split()[0] for line in said.splitlines() if line.endswith(" read")]
    assert set(read) >= {
        "smi-q",
        "smi-xml",
        "smi-table",
        "topo",
        "p2p-r",
        "nvlink-status",
        "nvlink-errors",
        "kernel-log",
    }
    assert "lspci           not on this host" in said


def test_a_damaged_capture_is_told(kit: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (REAL / "captures.txt").read_text()
    (tmp_path / "captures.txt").write_text(text.replace("\tNV18", "NV18"))
    shutil.copy(REAL / "smi.xml", tmp_path)
    assert kit.read_captures(tmp_path) is False
    assert "topo            NOT READ" in capsys.readouterr().out


def test_what_two_real_gpus_gave_is_good(hardware: NodeHardware) -> None:
    assert [(g.index, g.name) for g in hardware.gpus] == [(0, "NVIDIA H100 80GB HBM3"), (1, "NVIDIA H100 80GB HBM3")]
    expected = expectation(hardware, ExpectSettings(), load_gpus())
    between = read_value(Nvlink, json.loads((REAL / "bandwidth.json").read_text()))
    findings = {f.check: f for f in check_bandwidth(between, expected, hardware, load_gpus())}
    assert findings["busbw"].status == "ok" and "345.57 GB/s" in findings["busbw"].observed
    assert findings["pair-bandwidth"].status == "ok"
    soak = check_soak(read_value(Soak, json.loads((REAL / "soak.json").read_text())))
    states = {(f.check, f.subject): f.status for f in soak}
    assert {status for (check, _), status in states.items() if check in ("soak-drift", "soak-throttle")} == {"ok"}
    # 2 C below the slowdown at 77 C, though nothing slowed down: worth a look
    assert [subject for (check, subject), status in states.items() if (check, status) == ("soak-margin", "warn")] == [
        "GPU 0"
    ]


def test_without_gpus_it_still_leaves_all_it_can(tmp_path: Path) -> None:
    if shutil.which("nvidia-smi") is not None:
        pytest.skip("this machine has GPUs")
    out = tmp_path / "out"
    done = subprocess.run(
        ["sh", "tools/hardware_check.sh", "-o", str(out), "-s", "1"],
        cwd=ROOT,
        env={**os.environ, "PYTHON": sys.executable, "STORAGE_SECONDS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert {path.name for path in out.iterdir()} == FILES
    assert "smi-q           not on this host" in done.stdout, done.stdout + done.stderr
    assert "PyTorch" in done.stdout
    if os.geteuid() == 0:
        assert "gpu-count: host: this host has no NVIDIA GPU on its PCI bus" in done.stdout
    assert "<html" in (out / "report.html").read_text()


def test_wrong_usage_is_one_line() -> None:
    done = subprocess.run(["sh", "tools/hardware_check.sh", "-s", "long"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr == "hardware_check: -s long: give whole seconds\n"
