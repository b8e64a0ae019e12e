"""Outputs of real virtual machines with 2 and with 1 of the 8 GPUs of an H100 board (2026-11-25, 580.159.04, no lspci).

UUIDs and serial numbers are replaced. `pcie-tree`, `lspci`, `numa` and `host-state` are put into the form of our
commands from the values that were read there; hugepages, Secure Boot and IOMMU units were not, they are filled in.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from metalserve.catalogue.loader import load_gpus
from metalserve.hardware.export import hardware_dict
from metalserve.hardware.node import NodeHardware, node_hardware
from metalserve.hardware.section import Section
from metalserve.settings import ExpectSettings
from metalserve.verify.expectation import expectation
from metalserve.verify.topology import check_node

FIXTURES = Path(__file__).parent / "fixtures" / "h100x2-vm"
MISSING = Section("sh: 1: nvme: not found", 127)


@pytest.fixture(scope="module")
def hardware() -> NodeHardware:
    sections = {path.stem: Section(path.read_text()) for path in FIXTURES.glob("*.txt")}
    for name in ("driver-disk", "fm-version", "nvme-list", "drive-health", "raid"):
        sections[name] = MISSING
    for name in ("pcie-acs", "nvme-links", "nvme-controllers", "nvlink5-bridges"):
        sections[name] = Section("")
    return node_hardware(sections)


def test_it_is_read_without_contradiction(hardware: NodeHardware) -> None:
    assert hardware.problems == ()
    assert hardware.guest
    assert [n.kind for n in hardware.pcie_tree] == ["root", "nic", "gpu", "gpu"]
    assert [(g.index, g.pci) for g in hardware.gpus] == [(0, "0000:00:06.0"), (1, "0000:00:07.0")]
    first, second = (g.details for g in hardware.gpus)
    assert first and second
    assert (second.margin_c, second.power_draw_w, second.clock_sm_mhz) == (49.0, 72.86, 375)
    assert (first.ecc_enabled, first.banks_max, first.unrepairable_memory) == (True, 2560, False)
    assert second.slowed_us["hw_thermal_slowdown"] == 0


def test_no_finding_is_above_ok(hardware: NodeHardware) -> None:
    findings = check_node(hardware, ExpectSettings(), load_gpus())
    calling = [str(f) for f in findings if f.status not in ("ok", "skipped")]
    # Neither chrony nor timedatectl are there: that is said, and is no fault of the hardware.
    assert [line.split(":")[:2] for line in calling] == [["inconclusive", " clock-sync"]]
    skipped = {f.check for f in findings if f.status == "skipped"}
    assert {"nvswitch", "iommu", "acs", "numa", "governor"} <= skipped


def test_the_links_of_the_whole_board_are_expected_though_no_switch_is_seen(hardware: NodeHardware) -> None:
    expected = expectation(hardware, ExpectSettings(gpu="h100-sxm", count=2), load_gpus())
    assert (expected.joined, expected.pair_classes, expected.nvlinks) == ("nvswitch", ("NV18",), 18)
    worse = replace(hardware, links={(0, 1): "NV17"})
    assert "pair-links" in {f.check for f in check_node(worse, ExpectSettings(), load_gpus()) if f.failing}
    none = replace(hardware, links={(0, 1): "PHB"})
    assert "pair-links" in {f.check for f in check_node(none, ExpectSettings(), load_gpus()) if f.failing}


def test_a_fabric_that_is_not_up_is_a_fault_in_a_guest_too(hardware: NodeHardware) -> None:
    waiting = replace(hardware, gpus=tuple(replace(g, fabric_state="In Progress") for g in hardware.gpus))
    assert [f.check for f in check_node(waiting, ExpectSettings(), load_gpus()) if f.failing] == ["fabric-state"]


def test_four_gpus_of_a_board_in_a_guest_are_judged_by_their_own_links(hardware: NodeHardware) -> None:
    gpus = tuple(replace(hardware.gpus[0], index=i, pci=f"0000:00:{i + 6:02x}.0") for i in range(4))
    pairs = [(a, b) for a in range(4) for b in range(a + 1, 4)]
    four = replace(
        hardware,
        gpus=gpus,
        pci_gpus=tuple(replace(hardware.pci_gpus[0], address=g.pci or "") for g in gpus),
        nvlinks=tuple(replace(hardware.nvlinks[0], index=i) for i in range(4)),
    )
    for kind, joined in (("NV18", "nvswitch"), ("NV6", "direct")):
        seen = replace(four, links=dict.fromkeys(pairs, kind))
        assert expectation(seen, ExpectSettings(), load_gpus()).joined == joined
        assert [f for f in check_node(seen, ExpectSettings(), load_gpus()) if f.failing] == []


def test_the_export_has_what_reports_draw(hardware: NodeHardware) -> None:
    told = hardware_dict(hardware)
    gpu = told["pcie_tree"][2]
    wanted = {
        "address": "0000:00:06.0",
        "parent": "pci0000:00",
        "kind": "gpu",
        "description": "NVIDIA H100 80GB HBM3",
        "gen_current": 5,
        "gen_max": 5,
        "width_current": 16,
        "width_max": 16,
        "numa": None,
    }
    assert {key: gpu[key] for key in wanted} == wanted
    assert told["host"]["virtual"] == "vm-other"
    assert told["nics_detail"][0]["address"] == "0000:00:03.0"
    assert told["gpus"][0]["details"]["margin_c"] is not None


def test_a_gpu_alone_in_its_machine_has_no_links_to_miss() -> None:
    alone = FIXTURES.parent / "h100x1-vm"
    sections = {path.stem: Section(path.read_text()) for path in alone.glob("*.txt")}
    for name in ("pcie-tree", "lspci", "host-state", "numa", "modules"):  # the same machine but for the second GPU
        lines = (FIXTURES / f"{name}.txt").read_text().splitlines()
        sections[name] = Section("\n".join(line for line in lines if "0000:00:07.0" not in line))
    one = node_hardware(sections)
    assert len(one.gpus) == 1 and one.guest
    assert "nvlink-status" not in one.unread and not any("nvlink" in problem for problem in one.problems)
    findings = {f.check: f for f in check_node(one, ExpectSettings(), load_gpus())}
    assert findings["nvlink-count"].status == "skipped"
    assert not [str(f) for f in findings.values() if f.status == "fail"]
    # more than one GPU that says nothing is not known to be well
    both = {path.stem: Section(path.read_text()) for path in FIXTURES.glob("*.txt")}
    silent = node_hardware({**both, "nvlink-status": Section("")})
    states = {f.status for f in check_node(silent, ExpectSettings(), load_gpus()) if f.check == "nvlink-count"}
    assert states == {"unknown"}
