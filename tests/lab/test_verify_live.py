"""Measurements on a converged host of the lab that is up, asked for as a user does: deploys/verify.py --data ..."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from metalserve.errors import MetalserveError
from metalserve.lab.api import Lab
from metalserve.paths import ROOT

pytestmark = [pytest.mark.lab, pytest.mark.fleet]

SOAKING = "systemctl -q is-active metalserve-measure && cat /run/metalserve/measure/phase"
ENGINES = "systemctl list-units --plain --no-legend --state=active 'metalserve-vllm-*.service' | grep -c ."


@dataclass
class Verify:
    """One host, and runs of deploys/verify.py on it."""

    lab: Lab
    host: str
    directory: Path
    engines: int

    def start(self, *data: str) -> subprocess.Popen[str]:
        words = [word for entry in data for word in ("--data", entry)]
        command = [
            sys.executable,
            "-m",
            "pyinfra",
            "-y",
            "inventories/lab.py",
            "deploys/verify.py",
            "--limit",
            self.host,
        ]
        environment = {
            **os.environ,
            "METALSERVE_LAB_DIR": str(self.lab.layout.root),
            "METALSERVE_LAB_ID": str(self.lab.layout.lab_id),
            "METALSERVE_REPORT": str(self.directory / "report.json"),
            "METALSERVE_BASELINES_DIR": str(self.directory / "baselines"),
            "PYINFRA_PROGRESS": "off",
            "COLUMNS": "200",
        }
        return subprocess.Popen(
            [*command, *words],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *data: str) -> tuple[int, str, dict[str, Any]]:
        (self.directory / "report.json").unlink(missing_ok=True)
        process = self.start(*data)
        out, _ = process.communicate(timeout=300)
        path = self.directory / "report.json"
        report: dict[str, Any] = json.loads(path.read_text())["hosts"][self.host] if path.exists() else {}
        return process.returncode, out, report

    def soaking(self, run: subprocess.Popen[str]) -> None:
        """Wait until the load is on."""
        deadline = time.monotonic() + 90
        while not self.lab.ssh(self.host, SOAKING).stdout.endswith(" soak\n"):
            assert time.monotonic() < deadline and run.poll() is None
            time.sleep(0.5)

    def serving(self) -> None:
        """Wait until all engines are back."""
        deadline = time.monotonic() + 120
        while self.lab.ssh(self.host, ENGINES).stdout.strip() != str(self.engines):
            assert time.monotonic() < deadline, "engines were not started again"
            time.sleep(1)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Verify:
    lab = Lab()
    try:
        hosts = lab.fleet.hosts
    except MetalserveError as error:
        pytest.skip(str(error))
    host = next((h.name for h in hosts if h.profile == "h100-sxm-8"), hosts[0].name)
    done = lab.ssh(host, ENGINES)
    if done.returncode != 0:
        pytest.skip(f"{host} serves nothing: converge it first (pyinfra inventories/lab.py deploys/gpu_node.py)")
    return Verify(lab, host, tmp_path_factory.mktemp("verify"), int(done.stdout))


@pytest.fixture
def verify(found: Verify) -> Iterator[Verify]:
    yield found
    found.lab.heal(found.host)
    found.lab.ssh(found.host, "systemctl stop metalserve-measure 2>/dev/null; :")
    found.serving()


def status(report: dict[str, Any], check: str, subject: str | None = None) -> set[str]:
    return {f["status"] for f in report["findings"] if f["check"] == check and subject in (None, f["subject"])}


def test_engines_are_not_disturbed_unasked(verify: Verify) -> None:
    rc, out, report = verify.run("depth=standard", "soak_seconds=5")
    assert rc == 0, out
    assert "engine(s) hold the GPUs" in report["measurements"]["skipped"]
    assert report["measurements"]["soak"] is None
    assert verify.lab.ssh(verify.host, ENGINES).stdout.strip() == str(verify.engines)


def test_quick_puts_no_load_and_costs_few_sessions(verify: Verify) -> None:
    rc, out, report = verify.run()
    assert rc == 0, out
    assert report["sessions"] <= 3 and report["measurements"] == {}


def test_an_unknown_depth_is_refused_before_contact(verify: Verify) -> None:
    rc, out, report = verify.run("depth=thorough")
    assert rc != 0 and report == {}
    assert "verify.depth: must be one of 'quick', 'standard' or 'deep'" in out and "Connected" not in out


@pytest.mark.slow
def test_a_healthy_host_is_measured_and_becomes_its_baseline(verify: Verify) -> None:
    rc, out, report = verify.run("depth=standard", "soak_seconds=5", "stop_engines=true")
    assert rc == 0, out
    told = report["measurements"]
    assert told["simulated"] is True and told["depth"] == "standard" and told["skipped"] is None
    assert told["soak"]["stopped"] is None and len(told["soak"]["gpus"]) == len(report["hardware"]["gpus"])
    assert told["nvlink"]["all_reduce"] and told["storage"]["model_load_s"] is not None
    assert {"ok"} == status(report, "soak-drift") | status(report, "busbw") | status(report, "drive-read")
    baseline = json.loads((verify.directory / "baselines" / f"{verify.host}.json").read_text())
    assert baseline["simulated"] is True and baseline == told["baseline"]
    verify.serving()
    rc, out, report = verify.run("depth=standard", "soak_seconds=5", "stop_engines=true")
    assert rc == 0, out
    assert status(report, "baseline") == {"ok"}


@pytest.mark.slow
def test_a_gpu_that_heat_slows_is_found_by_its_drift(verify: Verify) -> None:
    verify.lab.fault(verify.host, "thermal-throttle", 1)
    rc, out, report = verify.run("depth=standard", "soak_seconds=8", "stop_engines=true")
    assert rc != 0, out
    assert status(report, "soak-drift", "GPU 1") == status(report, "soak-throttle", "GPU 1") == {"fail"}
    assert status(report, "soak-drift", "GPU 0") == status(report, "soak-throttle", "GPU 0") == {"ok"}


@pytest.mark.slow
def test_a_killed_controller_leaves_a_measurement_that_the_next_one_follows(verify: Verify) -> None:
    first = verify.start("depth=standard", "soak_seconds=25", "stop_engines=true")
    verify.soaking(first)
    started = verify.lab.ssh(verify.host, "systemctl show -P InvocationID metalserve-measure").stdout
    first.send_signal(signal.SIGKILL)
    first.communicate()
    second = verify.start("depth=standard", "soak_seconds=25")
    out, _ = second.communicate(timeout=180)
    report = json.loads((verify.directory / "report.json").read_text())["hosts"][verify.host]
    assert second.returncode == 0, out
    assert started.strip() and "a measurement runs already: following it" in out
    assert report["measurements"]["soak"]["seconds"] >= 25
    assert "engines are stopped while the host is measured" in out


@pytest.mark.slow
def test_a_measurement_that_is_killed_starts_the_engines_and_says_so(verify: Verify) -> None:
    process = verify.start("depth=standard", "soak_seconds=60", "stop_engines=true")
    verify.soaking(process)
    verify.lab.ssh(verify.host, "systemctl kill -s KILL metalserve-measure")
    out, _ = process.communicate(timeout=120)
    assert "it was killed" in out
    assert verify.lab.ssh(verify.host, "docker ps -q --filter name=metalserve-measure").stdout == ""
    verify.serving()
