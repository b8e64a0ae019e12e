"""A table for each check of network cards, drives and arrays."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from metalserve.catalogue.loader import load_gpus
from metalserve.hardware.machine import DriveHealth, Nic, RaidArray
from metalserve.hardware.node import NodeHardware
from metalserve.hardware.values import PcieLink
from metalserve.settings import ExpectSettings
from metalserve.verify.drives import check_drives
from metalserve.verify.expectation import expectation
from metalserve.verify.network import check_network
from metalserve.verify.storage import check_storage
from tests.verify.machine import GPU, METAL, complete, states, switched

# -- network ---------------------------------------------------------------------------------------------------------


def ports(*states_: str | None, speed: float = 400.0) -> tuple[Nic, ...]:
    return tuple(
        Nic(f"mlx5_{n}", f"0000:{n:02x}:00.0", state=s, speed_gbit=speed if s == "up" else None, model="15b3:1021")
        for n, s in enumerate(states_)
    )


@pytest.mark.parametrize(
    ("nics", "expected"),
    [
        (ports("up", "up"), {("nic-link", "ok"), ("nic-speed", "ok")}),
        (ports(*["up"] * 7, "down"), {("nic-link", "warn"), ("nic-speed", "ok")}),
        # A card of two ports with one cable is as it was meant.
        (ports("up", "down"), {("nic-link", "ok"), ("nic-speed", "ok")}),
        (ports("down", "down"), {("nic-link", "warn")}),
        (ports(None), set()),
        (
            (*ports("up", "up"), replace(ports("up")[0], name="mlx5_9", speed_gbit=200.0)),
            {("nic-link", "ok"), ("nic-speed", "warn")},
        ),
    ],
)
def test_network_ports(nics: tuple[Nic, ...], expected: set[tuple[str, str]]) -> None:
    findings = check_network(NodeHardware(nics_detail=nics))
    assert {(f.check, f.status) for f in findings} == expected
    complete(findings)


def test_the_own_link_of_a_card_and_not_the_one_it_shares_with_a_gpu() -> None:
    nic = (replace(ports("up")[0], address="0000:1a:00.0"),)
    for changes, expected in (
        ({}, ["ok"]),
        ({"nic": {"width_current": 8}}, ["warn"]),
        ({"upstream": {"width_current": 8}}, ["ok"]),
    ):
        hardware = NodeHardware(nics_detail=nic, pcie_tree=switched(**changes))
        findings = check_network(hardware)
        assert states(findings, "nic-pcie") == expected
        complete(findings)


# -- drives ----------------------------------------------------------------------------------------------------------
SOUND = DriveHealth("/dev/nvme0", 0, 1, 100, 10, 0, 37.0)


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, "ok"),
        ({"percent_used": 95}, "warn"),
        ({"critical_warning": 1, "spare": 5}, "warn"),
        ({"critical_warning": 2}, "warn"),
        ({"critical_warning": 4}, "fail"),
        ({"critical_warning": 8}, "fail"),
        ({"media_errors": 3}, "warn"),
        ({"critical_warning": None, "percent_used": None}, "inconclusive"),
    ],
)
def test_smart(changes: dict[str, Any], status: str) -> None:
    findings = check_drives(NodeHardware(drive_health=(replace(SOUND, **changes),)))
    assert states(findings, "nvme-health") == [status]
    complete(findings)


def test_drive_errors_in_the_kernel_log() -> None:
    line = "[   12.3] nvme nvme0: I/O tag 512 (1200) QID 1 timeout, completion polled"
    findings = check_drives(NodeHardware(drive_troubles={"nvme0": (line, line)}))
    assert [(f.check, f.status, f.subject, f.evidence) for f in findings] == [("nvme-log", "warn", "/dev/nvme0", line)]
    drive = PcieLink("0000:57:00.0", 4, 4, 4, 4)
    assert states(check_drives(NodeHardware(nvme_links=(drive,))), "nvme-log") == ["ok"]
    assert states(check_drives(NodeHardware(nvme_links=(drive,), unread=("kernel-log",))), "nvme-log") == []


def test_raid_arrays_of_the_host_and_not_of_the_machine_beneath() -> None:
    arrays = (
        RaidArray("md0", "raid1", 2, 2),
        RaidArray("md1", "raid1", 2, 1),
        RaidArray("md2", "inactive", None, None),
    )
    findings = check_drives(NodeHardware(raid=arrays, host=METAL))
    assert states(findings, "raid") == ["ok", "warn", "warn"]
    complete(findings)
    assert check_drives(NodeHardware(raid=arrays, host=replace(METAL, virtual="systemd-nspawn"))) == []


@pytest.mark.parametrize(("width", "status"), [(16, "ok"), (8, "warn")])
def test_bridges_above_a_drive(width: int, status: str) -> None:
    tree = switched(upstream={"width_current": width}, gpu={"kind": "nvme"})
    findings = check_drives(NodeHardware(pcie_tree=tree))
    assert states(findings, "nvme-path") == [status]
    complete(findings)


@pytest.mark.parametrize(
    ("drive", "slot", "status"),
    [
        ({"gen_current": 5}, 5, "ok"),
        ({"gen_current": 4}, 4, "warn"),  # the slot is older than the drive
        ({"gen_current": 4}, 5, "fail"),  # both can do more
        ({"gen_current": 5, "width_current": 8}, 5, "fail"),
    ],
)
def test_the_link_of_a_drive_is_held_against_what_drive_and_slot_can_do(
    drive: dict[str, Any], slot: int, status: str
) -> None:
    tree = switched(gpu={"kind": "nvme", **drive}, downstream={"gen_max": slot, **drive})
    node = next(n for n in tree if n.kind == "nvme")
    link = PcieLink(node.address, node.gen_current, 5, node.width_current, 16)
    hardware = NodeHardware(pcie_tree=tree, nvme_links=(link,))
    findings = check_storage(hardware, ExpectSettings())
    assert states(findings, "nvme-link") == [status]
    complete(findings)


def test_what_is_expected_is_a_value_that_can_be_read() -> None:
    hardware = NodeHardware(gpus=(GPU,), pcie_tree=switched(root_port={"gen_max": 4}))
    expected = expectation(hardware, ExpectSettings(gpu="h100-sxm"), load_gpus())
    assert (expected.memory_mib, expected.power_w, expected.pcie_gen, expected.pcie_width) == (81559, 700, 5, 16)
    assert expected.pcie_links == {"0000:1b:00.0": (5, 16), "0000:1a:00.0": (5, 16), "0000:18:00.0": (4, 16)}
