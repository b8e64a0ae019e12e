from __future__ import annotations

from dataclasses import replace

import pytest

from metalserve.catalogue.loader import load_gpus
from metalserve.hardware.node import Gpu, NodeHardware, NvlinkStatus, NvmeDrive, PciDevice, PcieLink
from metalserve.hardware.parsers.kernel_log import parse_kernel_log
from metalserve.settings import ExpectSettings
from metalserve.verify.finding import Finding, worst
from metalserve.verify.health import BAD_REASONS
from metalserve.verify.topology import check_node
from metalserve.verify.xids import check_xid_history

GPU = Gpu(
    index=0,
    name="NVIDIA H100 NVL",
    pci="0000:10:00.0",
    device_id="2321",
    memory_mib=95830,
    power_limit_w=400.0,
    pcie_gen_current=1,
    pcie_gen_max=5,
    pcie_width_current=16,
    pcie_width_max=16,
    remapped_pending=False,
    remapped_failure=False,
    recovery_action="None",
    event_reasons=(),
    fabric_state="N/A",
)
TWELVE = {n: None if n in (4, 5, 10, 11, 16, 17) else 26.562 for n in range(18)}


def node(
    count: int = 2,
    *,
    device: str = "2321",
    links: dict[tuple[int, int], str] | str = "SYS",
    nvlinks: dict[int, float | None] | None = None,
    **changes: object,
) -> NodeHardware:
    """A sound host of `count` GPUs."""
    names = {"2321": "NVIDIA H100 NVL", "26b9": "NVIDIA L40S", "2330": "NVIDIA H100 80GB HBM3"}
    memory = {"2321": 95830, "26b9": 46068, "2330": 81559}
    power = {"2321": 400.0, "26b9": 350.0, "2330": 700.0}
    gen = {"26b9": 4}
    gpus = tuple(
        replace(
            GPU,
            index=i,
            pci=f"0000:{16 + i:02x}:00.0",
            device_id=device,
            name=names.get(device, "NVIDIA X"),
            memory_mib=memory.get(device, 1000),
            power_limit_w=power.get(device),
            pcie_gen_max=gen.get(device, 5),
        )
        for i in range(count)
    )
    if isinstance(links, str):
        links = {(a, b): links for a in range(count) for b in range(a + 1, count)}
    status = tuple(NvlinkStatus(i, link_gb_per_s=TWELVE if nvlinks is None else nvlinks) for i in range(count))
    return replace(
        NodeHardware(
            pci_gpus=tuple(PciDevice(g.pci or "", "0302", "10de", device, revision="a1") for g in gpus),
            gpus=gpus,
            links=links,
            nvlinks=status,
            driver_version="580.178.04",
            module_version="580.178.04",
            module_on_disk="580.178.04",
            smi_state="ok",
        ),
        **changes,  # type: ignore[arg-type]
    )


def bad(hardware: NodeHardware, **expect: object) -> list[Finding]:
    findings = check_node(hardware, ExpectSettings(**expect), load_gpus())  # type: ignore[arg-type]
    return [f for f in findings if f.status not in ("ok", "skipped")]


def checks(hardware: NodeHardware, **expect: object) -> set[tuple[str, str]]:
    return {(f.check, f.status) for f in bad(hardware, **expect)}


def test_a_bridged_pair_with_twelve_of_eighteen_links_is_whole() -> None:
    assert checks(node(links="NV12"), links="bridge") == set()
    assert checks(node(links="NV12")) == set()


def test_cards_without_a_bridge_are_whole_unless_one_was_bought() -> None:
    none: dict[int, float | None] = dict.fromkeys(range(18))
    assert checks(node(nvlinks=none)) == set()
    assert checks(node(nvlinks=none), links="pcie") == set()
    assert checks(node(nvlinks=none), links="bridge") == {("pair-links", "fail"), ("nvlink-count", "fail")}


def test_four_cards_in_two_bridges() -> None:
    links = {(a, b): "NV12" if (a, b) in ((0, 1), (2, 3)) else "SYS" for a in range(4) for b in range(a + 1, 4)}
    assert checks(node(4, links=links), links="bridge") == set()
    lost = {**links, (2, 3): "SYS"}
    (finding,) = [f for f in bad(node(4, links=lost), links="bridge") if f.check == "pair-links"]
    assert finding.subject.startswith(("GPU 2", "GPU 3"))
    assert "SYS to GPU" in finding.observed


def test_nv11_beside_nv12_is_a_lost_link() -> None:
    assert ("pair-links", "fail") in checks(node(links="NV11"))


def test_a_direct_board_of_four_has_nv6() -> None:
    eighteen: dict[int, float | None] = dict.fromkeys(range(18), 26.562)
    assert checks(node(4, device="2330", links="NV6", nvlinks=eighteen)) == set()
    assert ("pair-links", "fail") in checks(node(4, device="2330", links="NV6", nvlinks=eighteen), links="nvswitch")


def test_sxm_gpus_without_nvlink_fail_once_for_the_host() -> None:
    dead: dict[int, float | None] = dict.fromkeys(range(18))
    findings = bad(node(8, device="2330", links="SYS", nvlinks=dead, nvswitch_count=4))
    (pairs,) = [f for f in findings if f.check == "pair-links"]
    assert (pairs.subject, pairs.observed) == ("host", "all 28 pairs show SYS")
    assert "nvlink-count" in {f.check for f in findings}


def test_missing_nvswitches_are_named() -> None:
    eighteen: dict[int, float | None] = dict.fromkeys(range(18), 26.562)
    whole = node(8, device="2330", links="NV18", nvlinks=eighteen, nvswitch_count=3)
    assert ("nvswitch", "fail") in checks(whole)


def test_pcie_cards_need_no_links() -> None:
    assert checks(node(4, device="26b9", links="NODE", nvlinks={}, unread=("nvlink-status",))) == set()


def test_an_idle_gpu_at_gen1_is_healthy_but_a_narrow_slot_is_not() -> None:
    assert checks(node(links="NV12")) == set()
    host = node(links="NV12")
    narrow = replace(host.gpus[1], pcie_width_current=8)
    slot = replace(host.gpus[1], pcie_width_max=8, pcie_width_current=8)
    assert checks(replace(host, gpus=(host.gpus[0], narrow))) == {("pcie-width", "fail")}
    assert checks(replace(host, gpus=(host.gpus[0], slot))) == {("pcie-width", "warn")}


@pytest.mark.parametrize(
    "reason", ["hw_slowdown", "sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown"]
)
def test_heat_and_power_brake_fail(reason: str) -> None:
    host = node(1)
    assert checks(replace(host, gpus=(replace(host.gpus[0], event_reasons=(reason,)),))) == {("slowdown", "fail")}


def test_the_bad_reasons_are_those_of_mask_e8() -> None:
    bits = {
        "hw_slowdown": 0x8,
        "sw_thermal_slowdown": 0x20,
        "hw_thermal_slowdown": 0x40,
        "hw_power_brake_slowdown": 0x80,
    }
    assert set(BAD_REASONS) == set(bits)
    assert sum(bits.values()) == 0xE8


def test_the_power_cap_and_idleness_are_normal() -> None:
    host = node(1)
    gpu = replace(host.gpus[0], event_reasons=("sw_power_cap", "gpu_idle"))
    assert checks(replace(host, gpus=(gpu,))) == set()


def test_what_could_not_be_read_is_unknown_and_fails() -> None:
    host = node(links={})
    host = replace(host, nvlinks=(), unread=("topo", "nvlink-status", "kernel-log"))
    assert checks(host, links="bridge") == {("pair-links", "unknown"), ("nvlink-count", "unknown"), ("xid", "unknown")}
    assert worst(bad(host, links="bridge")) == "unknown"
    assert all(f.failing for f in bad(host, links="bridge"))
    gpu = replace(GPU, event_reasons=None, remapped_pending=None, remapped_failure=None, recovery_action=None)
    unread = replace(node(1), gpus=(gpu,), unread=("smi-q",))
    assert checks(unread) == {("slowdown", "unknown"), ("memory-remap", "unknown"), ("recovery-action", "unknown")}


def test_a_gpu_that_nvidia_smi_does_not_show_has_fallen_off() -> None:
    host = node(2, links="NV12")
    assert ("gpu-present", "fail") in checks(replace(host, gpus=host.gpus[:1], links={}, nvlinks=host.nvlinks[:1]))


def test_driver_stack() -> None:
    host = node(1)
    assert checks(replace(host, nouveau_loaded=True)) == {("nouveau", "fail")}
    assert checks(replace(host, module_version="595.91.07", module_on_disk="595.91.07")) == {
        ("driver-versions", "fail")
    }
    fm = replace(
        host, needs_fabric_manager=True, gpus=(replace(GPU, fabric_state="Completed", fabric_status="Success"),)
    )
    assert checks(fm) == {("fabric-manager", "fail")}
    assert checks(replace(fm, fabric_manager_version="580.95.05")) == {("fabric-manager", "fail")}
    assert checks(replace(fm, fabric_manager_version="580.178.04")) == set()


@pytest.mark.parametrize(
    ("log", "status", "words"),
    [
        ("NVRM: Xid (PCI:0000:10:00): 79, pid=1, GPU has fallen off the bus.", "fail", "GPU 0 (0000:10:00.0)"),
        ("NVRM: GPU 0000:10:00.0: GPU has fallen off the bus.", "fail", "fallen off"),
        ("NVRM: Xid (PCI:0000:10:00): 92, pid=1, High rate", "warn", "Xid 92"),
        ("NVRM: Xid (PCI:0000:10:00): 999, new", "warn", "not in the catalogue"),
        ("NVRM: Xid (PCI:0000:10:00): 149, NETIR_LINK_EVT  Fatal   XC0 i0 Link 01 (0x0 0x0)", "fail", "NVLink 5"),
        ("NVRM: Xid (PCI:0000:10:00): 145, RLW_RXPIPE  Nonfatal   XC0 i0 Link 01 (0x0 0x0)", "warn", "NVLink 5"),
        ("NVRM: Xid (PCI:0000:10:00): 154, GPU recovery action: Node Reboot Required", "fail", "reboot the host"),
        ("nvidia-nvswitch0: SXid (PCI:0000:07:00.0): 20034, Fatal, Link 30 LTSSM Fault Up", "fail", "NVSwitch"),
    ],
)
def test_xids_are_judged_by_the_catalogue(log: str, status: str, words: str) -> None:
    (finding,) = bad(node(1, xids=parse_kernel_log(log).events))
    assert (finding.check, finding.status) == ("xid", status)
    assert words in str(finding)


@pytest.mark.parametrize(
    "log",
    [
        "NVRM: Xid (PCI:0000:10:00): 13, pid=1, name=python, Graphics Exception",
        "NVRM: Xid (PCI:0000:10:00): 31, pid=1, name=python, MMU Fault",
        "nvidia-nvswitch0: SXid (PCI:0000:07:00.0): 12028, Non-fatal, Link 32 egress",
    ],
)
def test_faults_of_programs_do_not_fail_a_host(log: str) -> None:
    assert bad(node(1, xids=parse_kernel_log(log).events)) == []


def test_a_fatal_xid_that_the_driver_has_since_cleared_is_a_warning() -> None:
    log = (
        "NVRM: Xid (PCI:0000:10:00): 95, pid=1, Uncontained: FBHUB\n"
        "NVRM: Xid (PCI:0000:10:00): 154, GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)\n"
    )
    assert {f.status for f in bad(node(1, xids=parse_kernel_log(log).events))} == {"warn"}


@pytest.mark.parametrize(
    ("days", "statuses"),
    [
        (("2026-11-02", "2026-11-19"), ["warn"]),
        (("2026-11-19", "2026-11-19"), ["ok"]),  # a burst on one day is one event
        ((), ["ok"]),
    ],
)
def test_a_fatal_xid_that_comes_back_on_another_day(days: tuple[str, ...], statuses: list[str]) -> None:
    lines = [f"{day}T10:00:00+00:00 n kernel: NVRM: Xid (PCI:0000:10:00): 79, pid=1, GPU has fallen" for day in days]
    lines += [f"{day}T10:00:00+00:00 n kernel: NVRM: Xid (PCI:0000:10:00): 31, MMU Fault" for day in days]
    history = parse_kernel_log("\n".join(lines)).events
    findings = check_xid_history(node(1, xid_history=history))
    assert [f.status for f in findings] == statuses
    if "warn" in statuses:
        assert "GPU 0" in findings[0].subject
        assert "2 times on 2 days, last on 2026-11-19" in findings[0].observed
        assert findings[0].evidence == lines[1]
    assert check_xid_history(node(1)) == [], "a journal that was not searched says nothing"


def test_nvme_links_are_judged_by_width_and_by_peers() -> None:
    def host(*links: PcieLink) -> NodeHardware:
        drives = tuple(NvmeDrive(f"/dev/nvme{i}n1", "Drive", f"S{i}", pci=link.address) for i, link in enumerate(links))
        return node(1, nvme=drives, nvme_links=links)

    good = PcieLink("0000:57:00.0", 5, 5, 4, 4)
    old_slot = PcieLink("0000:58:00.0", 4, 5, 4, 4)
    assert checks(host(good)) == set()
    assert checks(host(old_slot)) == {("nvme-link", "warn")}
    assert checks(host(good, old_slot)) == {("nvme-link", "fail")}, "its peer of the same model does better"
    assert checks(host(PcieLink("0000:57:00.0", 5, 5, 2, 4))) == {("nvme-link", "fail")}
    assert checks(host(PcieLink("0000:57:00.0", 3, 5, 4, 4))) == {("nvme-link", "fail")}
    assert checks(host(PcieLink("0000:57:00.0", None, 5, 4, 4))) == {("nvme-link", "unknown")}


def test_a_gpu_outside_the_catalogue_is_a_warning_and_its_links_must_agree() -> None:
    links = {(a, b): "NV18" for a in range(8) for b in range(a + 1, 8)}
    host = node(8, device="ffff", links=links, nvlinks=dict.fromkeys(range(18), 26.562))
    assert checks(host, links="nvswitch") == {("gpu-model", "warn")}
    odd = {**links, (0, 3): "NV17"}
    assert ("pair-links", "fail") in checks(replace(host, links=odd), links="nvswitch")


def test_a_finding_reads_as_one_sentence_and_worst_ranks() -> None:
    finding = Finding("memory", "fail", "GPU 1", "81559 MiB", "40000 MiB", "models do not fit", "ask the vendor", "s")
    assert str(finding) == ("fail: memory: GPU 1: 40000 MiB; expected 81559 MiB; models do not fit -> ask the vendor")
    assert worst([]) == "ok"
    assert worst([replace(finding, status="warn"), replace(finding, status="unknown")]) == "unknown"
    assert finding.as_dict()["check"] == "memory"
