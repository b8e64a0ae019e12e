"""The lab's simulated tools, their output parsed and checked: profiles are healthy, each fault is found on its GPU."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metalserve.catalogue.loader import load_gpus
from metalserve.errors import MetalserveError
from metalserve.hardware.node import node_hardware
from metalserve.lab import faults
from metalserve.lab.profiles import load_profile, profile_names
from metalserve.lab.sim.view import LATCH
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


SEEN_BY = {
    "gpu-off-bus": {"gpu-present", "xid"},
    "nvlink-degraded": {"pair-links", "nvlink-count", "xid"},
    "remap-pending": {"memory-remap", "ecc", "recovery-action", "xid"},
    "remap-failed": {"memory-remap", "memory-banks", "ecc", "recovery-action", "xid"},
    "thermal-throttle": {"slowdown", "temperature"},
    "power-brake": {"slowdown"},
    "power-limited": {"power-limit"},
    "ecc-off": {"ecc-mode"},
    "pcie-downgraded": {"pcie-width"},
    "pcie-bridge-downgraded": {"pcie-path"},
    "acs-on": {"acs"},
    "iommu-translating": {"iommu"},
    "nic-down": {"nic-link"},
    "hw-slowdown": {"slowdown"},
    "nvme-worn": {"nvme-health"},
    "nvme-hot": {"nvme-health"},
    "nvme-downgraded": {"nvme-link"},
    "slow-disk": {"nvme-log"},
    "driver-mismatch": {"driver", "driver-on-disk"},
    "wrong-gpu-count": {"gpu-count"},
    # An upgrade meets these, and says so; until then nothing is wrong.
    "driver-fails-to-load": set(),
    "driver-fails-to-build": set(),
    "driver-held": set(),
    # Not of the hardware: the role next_boot sees these.
    "kernel-without-headers": set(),
    "dkms-broken": set(),
    "toolkit-vulnerable": set(),
    # Not of the hardware: the roles storage and vllm, and the connection, see these.
    "disk-full": set(),
    # The fabric's state is latched: only the role fabric_manager, which knows the unit, sees that its manager is dead.
    "fabric-manager-dead": set(),
    "fabric-manager-flapping": set(),
    "container-stuck": set(),
    "unreachable": set(),
    # `metalserve recover` sees these: by a token that does not come, by SSH that does not answer.
    "engine-hang": set(),
    "engine-dead": set(),
    "host-hang": set(),
    "filesystem-destroyed": set(),
    "gpu-needs-reset": {"recovery-action", "xid"},
}
"""Fault of the lab -> the checks that see it, on every profile that can have it."""

ONE_GPU = {
    "gpu-off-bus": {"driver", "gpu-present", "xid"},
    "wrong-gpu-count": {"gpu-count"},
    "iommu-translating": set(),
}
"""The same for a host of one GPU: nvidia-smi has nothing left to show, and there are no peers to talk to."""


def possible() -> Iterator[tuple[str, str]]:
    for profile in WITH_GPUS:
        described = load_profile(profile)
        for kind in faults.KINDS:
            try:
                faults._check(faults.KINDS[kind], kind, dict(described), profile)
            except MetalserveError:
                continue
            yield profile, kind


def test_every_fault_of_the_lab_stands_in_the_table() -> None:
    assert set(SEEN_BY) == set(faults.KINDS)
    assert {kind for _, kind in possible()} == set(faults.KINDS)


OFTEN = ("h100-sxm-8", "l40s-4", "l4-1")
"""Profiles on which every fault is injected on every change; the others are of the same kinds."""


@pytest.mark.parametrize(
    ("profile", "kind"), [pytest.param(*p, marks=() if p[0] in OFTEN else (pytest.mark.slow,)) for p in possible()]
)
def test_a_fault_is_found_where_it_is_and_nowhere_else(tmp_path: Path, profile: str, kind: str) -> None:
    host = SimulatedHost(tmp_path, profile)
    gpus = host.profile["gpus"]
    struck = len(gpus) - 1
    host.inject(kind, **({"gpu": struck} if faults.KINDS[kind].gpu else {}))
    if kind == "fabric-manager-dead":
        del host.running["fabricmanager"]
    findings = bad(check(host, count=len(gpus)))
    expected = ONE_GPU.get(kind, SEEN_BY[kind]) if len(gpus) == 1 else SEEN_BY[kind]
    if kind == "driver-mismatch" and host.profile["fabric"]["manager"]:
        expected = expected | {"fabric-manager"}  # it is of the version on disk, as user space is
    assert {f.check for f in findings} == expected, [str(f) for f in findings]
    if faults.KINDS[kind].gpu and kind != "wrong-gpu-count":
        place = gpus[struck]["bus"]
        assert all(place in f.subject or f.check == "driver" for f in findings), [str(f) for f in findings]
    for finding in findings:
        assert finding.impact and finding.remedy and finding.source
        assert finding.evidence or finding.check == "gpu-count", finding
        assert finding.group
    json.dumps([f.as_dict() for f in findings])


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("gpu-off-bus", "fail"),
        ("pcie-bridge-downgraded", "fail"),
        ("power-brake", "fail"),
        ("remap-failed", "fail"),
        # What costs speed, and does not keep a host from serving:
        ("power-limited", "warn"),
        ("ecc-off", "warn"),
        ("acs-on", "warn"),
        ("iommu-translating", "warn"),
        ("nic-down", "warn"),
        ("nvme-worn", "warn"),
        ("slow-disk", "warn"),
    ],
)
def test_a_host_fails_only_for_what_must_keep_it_from_serving(tmp_path: Path, kind: str, status: str) -> None:
    host = SimulatedHost(tmp_path, "h100-sxm-8")
    host.inject(kind, gpu=2)
    assert worst(check(host)) == status


def test_a_pending_remap_by_itself_is_a_warning(tmp_path: Path) -> None:
    host = SimulatedHost(tmp_path, "h100-sxm-8")
    host.inject("remap-pending", gpu=1)
    (remap,) = [f for f in bad(check(host)) if f.check == "memory-remap"]
    assert remap.status == "warn"


def test_without_fabric_manager_the_fabric_says_so_once(tmp_path: Path) -> None:
    host = SimulatedHost(tmp_path, "h100-sxm-8")
    del host.running["fabricmanager"]
    assert bad(check(host)) == [], "the fabric's state is latched"
    host.write(LATCH, {})
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
