"""A table for each check of the GPUs' paths, and of what `nvidia-smi -q` alone tells."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from metalserve.catalogue.loader import load_gpus
from metalserve.hardware.machine import HostState, Nic, NumaNode, PcieNode
from metalserve.hardware.node import NodeHardware
from metalserve.verify.health import check_gpus
from metalserve.verify.numa import check_numa
from metalserve.verify.paths import by_address, path
from metalserve.verify.pcie import check_pcie
from tests.verify.machine import DETAILS, GPU, METAL, complete, states, switched

# -- PCIe path -----------------------------------------------------------------------------------------------------


def test_the_inside_of_a_switch_is_no_link() -> None:
    links = path(by_address(switched()), "0000:1b:00.0")
    assert [(link.port.address, link.below.address) for link in links] == [
        ("0000:19:00.0", "0000:1b:00.0"),
        ("0000:17:01.0", "0000:18:00.0"),
    ]
    assert path(by_address(switched()), "0000:99:00.0") == []


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({}, "ok", "Gen5 x16"),
        ({"gpu": {"gen_current": 1}}, "ok", "Gen5 x16"),
        ({"upstream": {"width_current": 8}, "root_port": {"width_current": 8}}, "fail", "Gen5 x8"),
        ({"upstream": {"gen_current": 3}, "root_port": {"gen_current": 3}}, "warn", "Gen3 x16"),
        (
            {"upstream": {"gen_current": 4}, "root_port": {"gen_current": 4, "gen_max": 4}},
            "warn",
            "Gen4 is all that",
        ),
        ({"upstream": {"width_max": None}}, None, ""),
    ],
)
def test_bridges_above_a_gpu(changes: dict[str, Any], status: str | None, words: str) -> None:
    hardware = NodeHardware(gpus=(GPU,), pcie_tree=switched(**changes))
    findings = [f for f in check_pcie(hardware, load_gpus()) if f.check == "pcie-path"]
    assert [f.status for f in findings] == ([status] if status else [])
    assert all(words in f.observed and f.evidence for f in findings)
    complete(findings)


def test_a_tree_that_could_not_be_read_is_inconclusive() -> None:
    hardware = NodeHardware(gpus=(GPU,), unread=("pcie-tree",))
    assert states(check_pcie(hardware, load_gpus()), "pcie-path") == ["inconclusive"]
    assert states(check_pcie(NodeHardware(gpus=(GPU,)), load_gpus()), "pcie-path") == []


# -- what `nvidia-smi -q` alone tells --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("check", "values", "status"),
    [
        ("pcie-replays", {"pcie_replays": 0}, "ok"),
        ("pcie-replays", {"pcie_replays": 5000}, "warn"),
        ("pcie-replays", {"pcie_replays": None}, None),
        ("temperature", {"margin_c": 54.0}, "ok"),
        ("temperature", {"margin_c": 2.0}, "warn"),
        ("temperature", {"margin_c": -2.0}, "warn"),
        ("temperature", {"margin_c": None, "max_operating_c": 85.0}, "ok"),
        ("temperature", {"margin_c": None, "max_operating_c": 35.0}, "warn"),
        ("clock-limit", {"clock_sm_max_mhz": 1980}, "ok"),
        ("clock-limit", {"clock_sm_max_mhz": 1200}, "warn"),
        ("clock-limit", {"application_clock_mhz": 1200, "default_application_clock_mhz": 1980}, "warn"),
        ("clock-limit", {"clock_sm_max_mhz": None}, None),
        ("ecc-mode", {}, "ok"),
        ("ecc-mode", {"ecc_enabled": False, "ecc_pending": False}, "warn"),
        ("ecc-mode", {"ecc_pending": False}, "warn"),
        ("ecc-mode", {"ecc_enabled": None}, None),
        ("memory-banks", {"banks_max": 2560, "banks_none": 0, "banks_low": 0}, "ok"),
        ("memory-banks", {"banks_max": 2559, "banks_none": 1}, "warn"),
        ("memory-banks", {"banks_none": 0, "banks_low": 2}, "warn"),
        ("memory-banks", {"banks_none": None}, None),
        ("memory-pages", {"retired_pages": 5, "retirement_pending": False}, "ok"),
        ("memory-pages", {"retired_pages": 5, "retirement_pending": True}, "warn"),
        ("memory-pages", {"retired_pages": 61, "retirement_pending": True}, "fail"),
        ("memory-pages", {}, None),
        ("memory-repair", {"unrepairable_memory": False}, "ok"),
        ("memory-repair", {"unrepairable_memory": True}, "fail"),
        ("memory-repair", {"channel_repair_pending": True}, "warn"),
        ("memory-repair", {"tpc_repair_pending": True}, "warn"),
        ("memory-repair", {}, None),
        ("power-limit", {}, "ok"),
    ],
)
def test_what_the_long_report_tells(check: str, values: dict[str, Any], status: str | None) -> None:
    gpu = replace(GPU, details=replace(DETAILS, **values))
    findings = [f for f in check_gpus(NodeHardware(gpus=(gpu,)), load_gpus()) if f.check == check]
    assert [f.status for f in findings] == ([status] if status else [])
    complete(findings)


def test_limits_of_the_catalogue_and_of_the_card() -> None:
    low = replace(GPU, power_limit_w=400.0)
    assert states(check_gpus(NodeHardware(gpus=(low,)), load_gpus()), "power-limit") == ["warn"]
    stranger = replace(GPU, device_id="ffff", name="NVIDIA X", details=replace(DETAILS, power_default_w=500.0))
    assert states(check_gpus(NodeHardware(gpus=(stranger,)), load_gpus()), "power-limit") == ["ok"]
    stranger = replace(stranger, power_limit_w=300.0)
    assert states(check_gpus(NodeHardware(gpus=(stranger,)), load_gpus()), "power-limit") == ["warn"]


def test_ecc_is_not_asked_of_cards_that_are_sold_without() -> None:
    card = replace(GPU, name="NVIDIA GeForce RTX 4090", device_id="2684")
    card = replace(card, details=replace(DETAILS, ecc_enabled=False, ecc_pending=False))
    assert states(check_gpus(NodeHardware(gpus=(card,)), load_gpus()), "ecc-mode") == ["ok"]


@pytest.mark.parametrize(("modes", "status"), [((True, True), "ok"), ((True, False), "warn"), ((None,), None)])
def test_persistence(modes: tuple[bool | None, ...], status: str | None) -> None:
    gpus = tuple(replace(GPU, index=i, persistence=mode) for i, mode in enumerate(modes))
    found = states(check_gpus(NodeHardware(gpus=gpus), load_gpus()), "persistence")
    assert found == ([status] if status else [])


# -- NUMA, IOMMU, ACS ------------------------------------------------------------------------------------------------

TWO_NODES = (NumaNode(0, "0-31", 1000), NumaNode(1, "32-63", 1000))

GUEST = replace(METAL, virtual="kvm")


@pytest.mark.parametrize(
    ("numa", "place", "host", "status"),
    [
        (TWO_NODES, {}, METAL, "ok"),
        (TWO_NODES[:1], {}, METAL, "skipped"),
        (TWO_NODES, {"numa": None}, METAL, "warn"),
        (TWO_NODES, {"numa": 4}, METAL, "warn"),
        (TWO_NODES, {"numa": None}, GUEST, "skipped"),
        ((TWO_NODES[0], NumaNode(1, "32-63", 0)), {}, METAL, "warn"),
        ((*TWO_NODES, NumaNode(2, "", 98304)), {}, METAL, "ok"),
    ],
)
def test_numa(numa: tuple[NumaNode, ...], place: dict[str, Any], host: HostState, status: str) -> None:
    hardware = NodeHardware(pcie_tree=switched(gpu=place), numa=numa, host=host)
    findings = check_numa(hardware, load_gpus())
    assert states(findings, "numa") == [status]
    complete(findings)


@pytest.mark.parametrize(
    ("kind", "host", "rdma", "status"),
    [
        ("identity", METAL, True, "ok"),
        (None, METAL, True, "ok"),
        ("DMA-FQ", METAL, True, "warn"),
        ("DMA", METAL, True, "warn"),
        ("DMA-FQ", METAL, False, "ok"),  # one GPU and nobody to talk to
        ("DMA-FQ", GUEST, True, "skipped"),
    ],
)
def test_iommu(kind: str | None, host: HostState, rdma: bool, status: str) -> None:
    nics = (Nic("mlx5_0", "0000:1a:00.0", rdma="mlx5_0" if rdma else None),)
    hardware = NodeHardware(pcie_tree=switched(gpu={"iommu": kind}), host=host, nics_detail=nics)
    findings = check_numa(hardware, load_gpus())
    assert states(findings, "iommu") == [status]
    complete(findings)


def test_iommu_of_a_machine_with_one_address_space() -> None:
    chip = replace(GPU, name="NVIDIA GH200 480GB", device_id="2342")
    hardware = NodeHardware(gpus=(chip,), pcie_tree=switched(gpu={"iommu": "DMA-FQ"}), host=METAL)
    assert states(check_numa(hardware, load_gpus()), "iommu") == ["skipped"]


@pytest.mark.parametrize(
    ("port", "host", "status"),
    [(False, METAL, "ok"), (True, METAL, "warn"), (None, METAL, "skipped"), (True, GUEST, "skipped")],
)
def test_acs(port: bool | None, host: HostState, status: str) -> None:
    hardware = NodeHardware(pcie_tree=switched(downstream={"acs": port}, nic_port={"acs": port}), host=host)
    findings = check_numa(hardware, load_gpus())
    assert states(findings, "acs") == [status]
    complete(findings)


def test_acs_of_a_root_port_is_no_matter() -> None:
    tree = (
        PcieNode("pci0000:17", None, "root"),
        PcieNode("0000:17:01.0", "pci0000:17", "bridge", acs=True),
        PcieNode("0000:1b:00.0", "0000:17:01.0", "gpu"),
    )
    assert states(check_numa(NodeHardware(pcie_tree=tree, host=METAL), load_gpus()), "acs") == ["skipped"]
