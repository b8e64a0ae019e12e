"""A table for each check of the machine around the GPUs, and of what `nvidia-smi -q` alone tells."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from metalserve.catalogue.loader import load_gpus
from metalserve.hardware.machine import DriveHealth, HostState, Nic, NumaNode, PcieNode, RaidArray
from metalserve.hardware.node import Gpu, NodeHardware
from metalserve.hardware.parsers.pcie_tree import parse_pcie_tree
from metalserve.hardware.values import GpuDetails, PcieLink
from metalserve.settings import ExpectSettings
from metalserve.verify.drives import check_drives
from metalserve.verify.expectation import expectation
from metalserve.verify.finding import Finding
from metalserve.verify.health import check_gpus
from metalserve.verify.host import check_host
from metalserve.verify.network import check_network
from metalserve.verify.numa import check_numa
from metalserve.verify.paths import by_address, path
from metalserve.verify.pcie import check_pcie
from metalserve.verify.storage import check_storage
from metalserve.verify.topology import check_node

GPU = Gpu(
    0,
    "NVIDIA H100 80GB HBM3",
    pci="0000:1b:00.0",
    device_id="2330",
    memory_mib=81559,
    power_limit_w=700.0,
    temperature_c=33,
    pcie_gen_current=1,
    pcie_gen_max=5,
    pcie_width_current=16,
    pcie_width_max=16,
    event_reasons=(),
    remapped_pending=False,
    remapped_failure=False,
)
DETAILS = GpuDetails(clock_sm_max_mhz=1980, ecc_enabled=True, ecc_pending=True, margin_c=54.0, pcie_replays=0)


def switched(**changes: dict[str, Any]) -> tuple[PcieNode, ...]:
    """A GPU and a NIC below a PCIe switch; `changes` by the names root_port, upstream, downstream, gpu, nic."""
    five = {"gen_current": 5, "gen_max": 5, "width_current": 16, "width_max": 16, "numa": 0}
    places = {
        "root": PcieNode("pci0000:17", None, "root"),
        "root_port": PcieNode("0000:17:01.0", "pci0000:17", "bridge", **five),
        "upstream": PcieNode("0000:18:00.0", "0000:17:01.0", "bridge", **five),
        "downstream": PcieNode("0000:19:00.0", "0000:18:00.0", "bridge", acs=False, **five),
        "gpu": PcieNode("0000:1b:00.0", "0000:19:00.0", "gpu", iommu="identity", **(five | {"gen_current": 1})),
        "nic_port": PcieNode("0000:19:01.0", "0000:18:00.0", "bridge", acs=False, **five),
        "nic": PcieNode("0000:1a:00.0", "0000:19:01.0", "nic", iommu="identity", **five),
    }
    for name, values in changes.items():
        places[name] = replace(places[name], **values)
    return tuple(places.values())


def states(findings: list[Finding], check: str) -> list[str]:
    return [f.status for f in findings if f.check == check]


def complete(findings: list[Finding]) -> None:
    """What calls for action says why, what to do, and on what ground."""
    for finding in findings:
        if finding.status not in ("ok", "skipped"):
            assert finding.impact and finding.remedy and finding.source, finding
            assert finding.expected and finding.observed, finding


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
METAL = HostState(kernel="6.8.0", virtual="none", cpus=64)
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


# -- host ------------------------------------------------------------------------------------------------------------

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
