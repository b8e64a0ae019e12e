"""A table for each check of the host itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from metalserve.catalogue.loader import load_gpus
from metalserve.hardware.machine import Nic
from metalserve.hardware.node import NodeHardware
from metalserve.hardware.parsers.pcie_tree import parse_pcie_tree
from metalserve.settings import ExpectSettings
from metalserve.verify.host import check_host
from metalserve.verify.topology import check_node
from tests.verify.machine import DETAILS, GPU, METAL, complete, states, switched

FULL = replace(
    METAL,
    cmdline="BOOT_IMAGE=/vmlinuz ro iommu=pt memhp_default_state=online -- mem=1",
    governors=("performance",),
    memory_kib=1_000_000,
    hugepages_total=0,
    hugepages_free=0,
    hugepage_kib=2048,
    docker_memlock="infinity",
    docker_nofile="1048576",
    clock_synchronized=True,
    secure_boot=False,
)

RDMA = (Nic("mlx5_0", "0000:1a:00.0", rdma="mlx5_0"),)


@pytest.mark.parametrize(
    ("changes", "check", "status"),
    [
        ({}, "machine", "ok"),
        ({}, "kernel-cmdline", "ok"),
        ({"cmdline": "quiet pci=nomsi"}, "kernel-cmdline", "warn"),
        ({"cmdline": "maxcpus=4"}, "kernel-cmdline", "warn"),
        ({"cmdline": None}, "kernel-cmdline", None),
        ({}, "hugepages", "ok"),
        ({"hugepages_total": 100, "hugepages_free": 100}, "hugepages", "warn"),
        ({"hugepages_total": 100, "hugepages_free": 0}, "hugepages", "ok"),
        ({"hugepage_kib": None}, "hugepages", None),
        ({}, "governor", "ok"),
        ({"governors": ("powersave",)}, "governor", "warn"),
        ({"governors": ()}, "governor", "skipped"),
        ({}, "ulimits", "ok"),
        ({"docker_nofile": "1024"}, "ulimits", "warn"),
        ({"docker_memlock": "8388608"}, "ulimits", "warn"),
        ({"docker_nofile": None}, "ulimits", None),
        ({}, "clock-sync", "ok"),
        ({"clock_synchronized": False}, "clock-sync", "warn"),
        ({"clock_synchronized": None}, "clock-sync", "inconclusive"),
        ({}, "secure-boot", "ok"),
        ({"secure_boot": True}, "secure-boot", "ok"),
        ({"secure_boot": None}, "secure-boot", None),
        ({"virtual": "systemd-nspawn", "governors": ("powersave",)}, "governor", "skipped"),
        ({"virtual": "systemd-nspawn", "clock_synchronized": False}, "clock-sync", "skipped"),
        ({"virtual": "systemd-nspawn", "cmdline": "pci=nomsi"}, "kernel-cmdline", "skipped"),
    ],
)
def test_host(changes: dict[str, Any], check: str, status: str | None) -> None:
    findings = check_host(NodeHardware(host=replace(FULL, **changes), nics_detail=RDMA))
    assert states(findings, check) == ([status] if status else [])
    assert not any(f.failing for f in findings)
    complete(findings)


def test_secure_boot_that_keeps_the_module_out() -> None:
    from metalserve.hardware.node import PciDevice

    card = PciDevice("0000:1b:00.0", "0302", "10de", "2330")
    hardware = NodeHardware(pci_gpus=(card,), host=replace(FULL, secure_boot=True))
    assert states(check_host(hardware), "secure-boot") == ["warn"]
    loaded = replace(hardware, module_version="580.178.04")
    assert states(check_host(loaded), "secure-boot") == ["ok"]


def test_a_small_lock_limit_matters_only_to_rdma() -> None:
    hardware = NodeHardware(host=replace(FULL, docker_memlock="8388608"))
    assert states(check_host(hardware), "ulimits") == ["ok"]


def test_a_host_whose_state_could_not_be_read() -> None:
    assert [f.status for f in check_host(NodeHardware(unread=("host-state",)))] == ["inconclusive"]
    assert check_host(NodeHardware()) == []


def test_every_check_of_a_node_has_a_group() -> None:
    hardware = NodeHardware(gpus=(replace(GPU, details=DETAILS),), pcie_tree=switched(), host=FULL, smi_state="ok")
    for finding in check_node(hardware, ExpectSettings(), load_gpus()):
        assert finding.group, finding.check


def test_a_device_that_is_gone_has_no_link() -> None:
    text = (
        "/sys/devices/pci0000:17/0000:17:01.0/0000:1b:00.0\n0000:17:01.0/class:0x060400\n0000:1b:00.0/class:0x030200\n"
        "0000:1b:00.0/vendor:0x10de\n0000:1b:00.0/current_link_width:63\n0000:1b:00.0/current_link_speed:Unknown\n"
    )
    gpu = parse_pcie_tree(text).nodes[-1]
    assert (gpu.kind, gpu.width_current, gpu.gen_current, gpu.parent) == ("gpu", None, None, "0000:17:01.0")
