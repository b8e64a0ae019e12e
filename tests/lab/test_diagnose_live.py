"""`metalserve diagnose` on the lab: each injected fault gets the verdict that its cure needs, from one SSH session."""

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

pytestmark = [pytest.mark.lab, pytest.mark.fleet]

FAULTS = [
    ("gpu-off-bus", "gpu-off-bus", "reboot"),
    ("remap-pending", "remap-pending", "reset-gpu"),
    ("remap-failed", "remap-failed", "quarantine"),
]
SLOW_FAULTS = [
    ("fabric-manager-dead", "fabric-down", "restart-services"),
    ("container-stuck", "engine-hang", "restart-engine"),
]
NVSWITCH = "lab-h100x8"


def diagnose(fleet: Fleet, place: Path, *hosts: str, rc: int = 0) -> dict[str, Any]:
    command = [sys.executable, "-m", "metalserve", "diagnose", "--inventory", "inventories/lab.py", "--json"]
    done = subprocess.run(
        [*command, "--save", str(place), *hosts],
        cwd=ROOT, env=fleet.environment(), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == rc, done.stdout[-3000:] + done.stderr
    told: dict[str, Any] = json.loads(done.stdout)["hosts"]
    return told


def test_a_well_node_needs_nothing_and_a_driver_that_is_two_a_reload(serving: Fleet, tmp_path: Path) -> None:
    serving.lab.heal(NVSWITCH)
    sessions = accepted(serving, NVSWITCH)
    well = diagnose(serving, tmp_path, NVSWITCH)[NVSWITCH]
    assert accepted(serving, NVSWITCH) - sessions == 2, "one SSH session, and the one that counts"
    assert well["rung"] == "nothing", well["causes"]
    assert Path(well["bundle"]).is_file() and well["simulated"] is True
    serving.lab.fault(NVSWITCH, "driver-mismatch")
    try:
        told = diagnose(serving, tmp_path, NVSWITCH)[NVSWITCH]
    finally:
        serving.lab.heal(NVSWITCH)
    assert told["rung"] == "reload-driver", told["causes"]
    assert "driver-mismatch" in {cause["id"] for cause in told["causes"] if not cause["explained_by"]}


def accepted(fleet: Fleet, host: str) -> int:
    return int(fleet.lab.ssh(host, "journalctl -t sshd --no-pager -o cat | grep -c 'Accepted publickey'").stdout)


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "cause", "rung"), [*FAULTS, *SLOW_FAULTS])
def test_each_fault_gets_the_step_that_cures_it(
    serving: Fleet, tmp_path: Path, fault: str, cause: str, rung: str
) -> None:
    serving.lab.heal(NVSWITCH)
    serving.lab.fault(NVSWITCH, fault, sticky=fault == "container-stuck")  # else the watch cures it
    try:
        until = time.monotonic() + (180 if fault == "container-stuck" else 0)  # the watch takes its time to be sure
        while True:
            told = diagnose(serving, tmp_path, NVSWITCH)[NVSWITCH]
            if told["rung"] == rung or time.monotonic() > until:
                break
            time.sleep(5)
    finally:
        serving.lab.heal(NVSWITCH)
        serving.lab.stop(NVSWITCH, grace_s=0)  # the Xids of this boot stay in its kernel log
        serving.lab.start(NVSWITCH)
        serving.wait_for_tokens(NVSWITCH, range(8000, 8008))
    assert told["rung"] == rung, told["causes"]
    assert cause in {each["id"] for each in told["causes"] if not each["explained_by"] and not each["past"]}


@pytest.mark.slow
def test_a_host_that_cannot_be_reached_is_said_and_the_others_are_judged(serving: Fleet, tmp_path: Path) -> None:
    gone, *others = serving.lab.hosts
    serving.lab.fault(gone, "unreachable")
    try:
        told = diagnose(serving, tmp_path, rc=1)
    finally:
        serving.lab.heal(gone)
    assert "error" in told[gone] and set(told) == {gone, *others}
    assert all("rung" in told[name] for name in others)
