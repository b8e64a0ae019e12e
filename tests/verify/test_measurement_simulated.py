"""The lab's simulated probes, judged: every profile is healthy, and each fault is found on its GPU."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metalserve.catalogue.loader import load_gpus
from metalserve.lab.engine.standin import measured
from metalserve.lab.profiles import load_profile, profile_names
from metalserve.settings import ExpectSettings
from metalserve.verify.expectation import expectation
from metalserve.verify.finding import Finding
from metalserve.verify.measurement import Nvlink, Soak, Storage, read_value
from metalserve.verify.measurement_bandwidth import check_bandwidth
from metalserve.verify.measurement_drive import check_drive
from metalserve.verify.measurement_soak import check_soak
from tests.verify.simulated import SimulatedHost

WITH_GPUS = [name for name in profile_names() if load_profile(name)["gpus"]]


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def host(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatedHost]:
    monkeypatch.setattr(measured, "LAB", str(tmp_path))
    monkeypatch.setattr(measured, "time", Clock())
    yield SimulatedHost(tmp_path, request.param)


def judged(host: SimulatedHost) -> list[Finding]:
    """Run all probes of a simulated host and judge what they say."""
    gpu = host.profile["gpu"]
    assert gpu is not None
    slowdown = float(gpu["temperature"]["slowdown"])
    hardware, catalogue = host.hardware(), load_gpus()
    kind: Any = {"bridge": "bridge", "pcie": "pcie"}.get(host.profile["fabric"]["kind"])
    expected = expectation(hardware, ExpectSettings(gpu=gpu["catalogue_id"], links=kind), catalogue)
    values = {
        "seconds": 60.0,
        "limit_c": slowdown,
        "stop_file": "",
        "progress": "",
        "path": "/srv",
        "device": "nvme0n1",
    }
    arguments = argparse.Namespace(**values)
    told = {name: getattr(measured, name)(arguments) for name in ("bandwidth", "soak", "storage")}
    json.dumps(told)
    assert all(part["simulated"] is True for part in told.values())
    findings = check_bandwidth(read_value(Nvlink, told["bandwidth"]), expected, hardware, catalogue)
    findings += check_soak(read_value(Soak, told["soak"]), slowdown_c=slowdown)
    return findings + check_drive(read_value(Storage, told["storage"]), hardware)


def bad(findings: list[Finding]) -> list[Finding]:
    return [f for f in findings if f.status not in ("ok", "skipped")]


@pytest.mark.parametrize("host", WITH_GPUS, indirect=True)
def test_a_healthy_host_of_every_profile_measures_well(host: SimulatedHost) -> None:
    if len(host.profile["gpus"]) == 1:
        assert "PyTorch" not in str(judged(host))
    assert [str(f) for f in bad(judged(host))] == []


@pytest.mark.parametrize("host", WITH_GPUS, indirect=True)
def test_a_gpu_that_heat_slows_is_found_and_no_other(host: SimulatedHost) -> None:
    last = len(host.profile["gpus"]) - 1
    host.inject("thermal-throttle", gpu=last)
    found = bad(judged(host))
    assert {f.subject for f in found} == {f"GPU {last}", "host"}
    checks = {f.check for f in found if f.failing}
    assert {"soak-throttle", "soak"} <= checks
    (ended,) = [f for f in found if f.check == "soak"]
    assert f"heat: GPU {last} at" in ended.observed


@pytest.mark.parametrize("host", ["h100-sxm-8", "h200-sxm-8", "b200-sxm-8"], indirect=True)
def test_lost_links_are_found_by_what_they_cost(host: SimulatedHost) -> None:
    host.inject("nvlink-degraded", gpu=5)
    found = bad(judged(host))
    assert ("pair-bandwidth", "GPU 5", "fail") in [(f.check, f.subject, f.status) for f in found]
    assert {f.subject for f in found} <= {"GPU 5", "host"}


@pytest.mark.parametrize("host", ["h100-sxm-8", "l40s-4"], indirect=True)
@pytest.mark.parametrize("fault", ["slow-disk", "nvme-downgraded"])
def test_a_slow_drive_is_found(host: SimulatedHost, fault: str) -> None:
    host.inject(fault)
    found = bad(judged(host))
    if fault == "slow-disk":
        assert [(f.check, f.status) for f in found] == [("drive-read", "fail")]
    else:  # it gives what its link gives: the check of the link fails it
        assert found == []
