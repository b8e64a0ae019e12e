"""The lab's simulated tools, their output parsed and checked: profiles are healthy, each fault is found on its GPU."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from metalserve.catalogue.loader import load_gpus
from metalserve.hardware.node import node_hardware
from metalserve.lab.profiles import load_profile, profile_names
from metalserve.settings import ExpectSettings
from metalserve.verify.finding import Finding, worst
from metalserve.verify.topology import check_node

from .simulated import VERSION, SimulatedHost

WITH_GPUS = [name for name in profile_names() if load_profile(name)["gpus"]]


def check(host: SimulatedHost, **expect: Any) -> list[Finding]:
    return check_node(host.hardware(), ExpectSettings(**expect), load_gpus())


def bad(findings: list[Finding]) -> list[Finding]:
    return [f for f in findings if f.status not in ("ok", "skipped")]


@pytest.mark.parametrize("profile", WITH_GPUS)
def test_a_healthy_host_has_no_finding_above_ok(tmp_path: Path, profile: str) -> None:
    host = SimulatedHost(tmp_path, profile)
    gpu = host.profile["gpu"]
    assert gpu is not None
    findings = check(
        host, gpu=gpu["catalogue_id"], count=len(host.profile["gpus"]), nvme_count=len(host.profile["nvme"])
    )
    assert [str(f) for f in bad(findings)] == []
    assert worst(findings) == "ok"


@pytest.mark.parametrize("profile", WITH_GPUS)
def test_the_profile_comes_back_from_the_text(tmp_path: Path, profile: str) -> None:
    host = SimulatedHost(tmp_path, profile)
    hardware, gpu = host.hardware(), host.profile["gpu"]
    assert gpu is not None
    assert [g.pci for g in hardware.gpus] == [g["bus"] for g in host.profile["gpus"]]
    assert {g.name for g in hardware.gpus} == {gpu["name"]}
    assert {g.memory_mib for g in hardware.gpus} == {gpu["memory_mib"]}
    assert {g.power_limit_w for g in hardware.gpus} == {gpu["power"]["default"]}
    assert {g.pcie_width_max for g in hardware.gpus} == {gpu["pcie_width"]}
    assert hardware.nvswitch_count == len(host.profile["nvswitches"])
    assert hardware.needs_fabric_manager == host.profile["fabric"]["manager"]
    assert hardware.needs_nvlsm == host.profile["fabric"]["nvlsm"]
    assert len(hardware.nvme) == len(host.profile["nvme"])
    assert hardware.driver_version == hardware.module_version == VERSION
    assert (hardware.problems, hardware.unread) == ((), ())


@pytest.mark.parametrize(
    ("profile", "fault", "checks", "subject"),
    [
        ("h100-sxm-8", {"kind": "gpu-off-bus", "gpu": 3}, {"gpu-present"}, "0000:4e:00.0"),
        ("h100-sxm-8", {"kind": "nvlink-degraded", "gpu": 2}, {"pair-links", "nvlink-count"}, "GPU 2"),
        ("a100-sxm-4", {"kind": "nvlink-degraded", "gpu": 1}, {"pair-links", "nvlink-count"}, "GPU 1"),
        ("h100-nvl-2", {"kind": "nvlink-degraded", "gpu": 1}, {"pair-links", "nvlink-count"}, "GPU 1"),
        ("h100-sxm-8", {"kind": "remap-pending", "gpu": 1}, {"memory-remap", "ecc", "recovery-action"}, "GPU 1"),
        ("h100-sxm-8", {"kind": "remap-failed", "gpu": 1}, {"memory-remap", "ecc", "recovery-action"}, "GPU 1"),
        ("l40s-4", {"kind": "thermal-throttle", "gpu": 0}, {"slowdown"}, "GPU 0"),
        ("l40s-4", {"kind": "pcie-downgraded", "gpu": 2}, {"pcie-width"}, "GPU 2"),
        ("l40s-4", {"kind": "nvme-downgraded", "drive": 0}, {"nvme-link"}, "/dev/nvme0n1"),
    ],
)
def test_a_fault_is_found_where_it_is_and_nowhere_else(
    tmp_path: Path, profile: str, fault: dict[str, Any], checks: set[str], subject: str
) -> None:
    host = SimulatedHost(tmp_path, profile)
    host.inject(**fault)
    findings = bad(check(host))
    assert {f.check for f in findings} == checks
    assert all(subject in f.subject for f in findings), [str(f) for f in findings]
    assert worst(findings) == "fail"
    assert all(f.impact and f.remedy and f.source for f in findings)


def test_a_pending_remap_by_itself_is_a_warning(tmp_path: Path) -> None:
    host = SimulatedHost(tmp_path, "h100-sxm-8")
    host.inject("remap-pending", gpu=1)
    (remap,) = [f for f in bad(check(host)) if f.check == "memory-remap"]
    assert remap.status == "warn"


def test_without_fabric_manager_the_fabric_says_so_once(tmp_path: Path) -> None:
    host = SimulatedHost(tmp_path, "h100-sxm-8")
    del host.running["fabricmanager"]
    (finding,) = bad(check(host))
    assert (finding.check, finding.status, finding.subject) == ("fabric-state", "fail", "all 8 GPUs")
    assert "In Progress" in finding.observed


def test_before_the_driver_only_the_driver_is_missing(tmp_path: Path) -> None:
    host = SimulatedHost(tmp_path, "l40s-4")
    host.loaded = None
    findings = check(host, gpu="l40s", count=4)
    assert [f.check for f in bad(findings)] == ["driver"]
    assert "communicate" in bad(findings)[0].observed


def test_an_upgrade_without_reload_is_a_mismatch(tmp_path: Path) -> None:
    host = SimulatedHost(tmp_path, "l40s-4")
    host.installed = "595.91.07"
    findings = bad(check(host))
    assert [(f.check, f.status) for f in findings] == [("driver", "fail"), ("driver-on-disk", "warn")]
    assert host.hardware().smi_state == "mismatch"


def test_a_host_without_gpus_fails_in_plain_words(tmp_path: Path) -> None:
    host = SimulatedHost(tmp_path, "none")
    (finding,) = bad(check(host))
    assert finding.status == "fail"
    assert "no NVIDIA GPU on its PCI bus" in finding.observed
    assert bad(check(host, count=0)) == []


def test_what_was_bought_is_held_against_what_is_there(tmp_path: Path) -> None:
    host = SimulatedHost(tmp_path, "l40s-4")
    count, model = bad(check(host, gpu="h100-nvl", count=8))[:2]
    assert (count.check, count.observed) == ("gpu-count", "4 GPU(s) on the PCI bus")
    assert model.check == "gpu-model"
    assert "is l40s" in model.observed
    assert {f.check for f in bad(check(host, nvme_count=9))} == {"nvme-count"}
    (unknown,) = [f for f in bad(check(host, gpu="l400s")) if f.check == "gpu-model"]
    assert "did you mean" in unknown.observed


def test_reading_all_outputs_of_an_eight_gpu_host_takes_under_50_ms(tmp_path: Path) -> None:
    sections = SimulatedHost(tmp_path, "h100-sxm-8").sections()
    node_hardware(sections)  # loads the catalogue
    times = []
    for _ in range(5):
        started = time.process_time()
        node_hardware(sections)
        times.append(time.process_time() - started)
    assert min(times) < 0.050
