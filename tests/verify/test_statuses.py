"""Every status that the older checks can have, in one table; those of the machine are in test_machine_checks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from metalserve.catalogue.loader import load_gpus
from metalserve.hardware.node import NodeHardware, NvlinkStatus, NvmeDrive, PcieLink
from metalserve.settings import ExpectSettings
from metalserve.verify.topology import check_node

from .test_checks import node

EIGHTEEN = dict.fromkeys(range(18), 26.562)
BOARD: dict[str, Any] = {"device": "2330", "links": "NV18", "nvlinks": EIGHTEEN, "nvswitch_count": 4}
MANAGED = {**BOARD, "needs_fabric_manager": True, "fabric_manager_version": "580.178.04"}
DRIVE = NvmeDrive("/dev/nvme0n1", "Drive", "S0", pci="0000:57:00.0")


def card(**values: Any) -> NodeHardware:
    host = node(1)
    return replace(host, gpus=(replace(host.gpus[0], **values),))


def fabric(state: str | None, status: str | None = "Success", health: str | None = None) -> NodeHardware:
    host = node(8, **MANAGED)
    gpus = tuple(replace(g, fabric_state=state, fabric_status=status, fabric_health=health) for g in host.gpus)
    return replace(host, gpus=gpus)


CASES: list[tuple[str, str, NodeHardware, dict[str, Any]]] = [
    ("gpu-count", "ok", node(2), {"count": 2}),
    ("gpu-count", "fail", node(2), {"count": 4}),
    ("gpu-count", "warn", node(7, **BOARD), {}),
    ("gpu-count", "unknown", NodeHardware(unread=("lspci",)), {"count": 2}),
    ("gpu-count", "fail", NodeHardware(), {}),
    ("gpu-model", "ok", node(2), {"gpu": "h100-nvl"}),
    ("gpu-model", "fail", node(2), {"gpu": "l40s"}),
    ("gpu-model", "warn", node(2, device="ffff"), {}),
    ("gpu-present", "ok", node(2), {}),
    ("gpu-present", "fail", replace(node(2), gpus=node(1).gpus), {}),
    ("observation", "warn", node(1, problems=("topo: cell wrong",)), {}),
    ("nouveau", "fail", node(1, nouveau_loaded=True), {}),
    ("driver", "ok", node(1), {}),
    *[("driver", "fail", node(1, smi_state=state), {}) for state in ("absent", "no-driver", "mismatch", "error")],
    ("driver-versions", "fail", node(1, module_version="570.1.1"), {}),
    ("driver-on-disk", "warn", node(1, module_on_disk="595.1.1"), {}),
    ("fabric-manager", "ok", node(8, **MANAGED), {}),
    ("fabric-manager", "fail", node(8, **{**MANAGED, "fabric_manager_version": None}), {}),
    ("fabric-manager", "fail", node(8, **{**MANAGED, "fabric_manager_version": "570.1.1"}), {}),
    ("nvswitch", "ok", node(8, **BOARD), {}),
    ("nvswitch", "fail", node(8, **{**BOARD, "nvswitch_count": 3}), {}),
    ("nvswitch", "unknown", node(8, **BOARD, unread=("lspci",)), {}),
    ("fabric-state", "ok", fabric("Completed"), {}),
    ("fabric-state", "ok", fabric("Completed", health="Healthy"), {}),
    ("fabric-state", "fail", fabric("In Progress"), {}),
    ("fabric-state", "fail", fabric("Completed", "Insufficient resources"), {}),
    ("fabric-state", "fail", fabric("Completed", health="Unhealthy"), {}),
    ("fabric-state", "unknown", fabric(None, None), {}),
    ("pair-links", "ok", node(2, links="NV12"), {"links": "bridge"}),
    ("pair-links", "fail", node(2, links="NV11"), {"links": "bridge"}),
    ("pair-links", "unknown", node(2, links={}), {"links": "bridge"}),
    ("pair-links", "skipped", node(2, links={}), {"links": "pcie"}),
    ("nvlink-count", "ok", node(2, links="NV12"), {"links": "bridge"}),
    ("nvlink-count", "fail", node(2, links="NV12", nvlinks=dict.fromkeys(range(18))), {"links": "bridge"}),
    ("nvlink-count", "fail", node(8, **{**BOARD, "nvlinks": {**EIGHTEEN, 3: 13.0}}), {}),
    ("nvlink-count", "warn", node(2, links="NV11", nvlinks={0: 26.562, 1: None}), {}),
    ("nvlink-count", "unknown", replace(node(2, links="NV12"), nvlinks=(NvlinkStatus(0),)), {"links": "bridge"}),
    ("memory", "ok", card(), {}),
    ("memory", "fail", card(memory_mib=80000), {}),
    ("memory", "unknown", card(memory_mib=None), {}),
    ("memory-remap", "ok", card(), {}),
    ("memory-remap", "warn", card(remapped_pending=True), {}),
    ("memory-remap", "fail", card(remapped_failure=True), {}),
    ("memory-remap", "fail", card(sram_threshold_exceeded=True), {}),
    ("memory-remap", "skipped", card(remapped_pending=None, remapped_failure=None), {}),
    ("memory-remap", "unknown", replace(card(remapped_pending=None, remapped_failure=None), unread=("smi-q",)), {}),
    ("ecc", "ok", card(ecc_uncorrectable_volatile=0), {}),
    ("ecc", "warn", card(ecc_uncorrectable_volatile=2), {}),
    ("recovery-action", "ok", card(), {}),
    ("recovery-action", "fail", card(recovery_action="Node Reboot Required"), {}),
    ("recovery-action", "fail", card(recovery_action="Something New"), {}),
    ("recovery-action", "skipped", card(recovery_action="N/A"), {}),
    ("recovery-action", "unknown", replace(card(recovery_action=None), unread=("smi-q",)), {}),
    ("slowdown", "ok", card(event_reasons=("sw_power_cap",)), {}),
    ("slowdown", "fail", card(event_reasons=("hw_power_brake_slowdown",)), {}),
    ("slowdown", "unknown", card(event_reasons=None), {}),
    ("pcie-width", "ok", card(), {}),
    ("pcie-width", "warn", card(pcie_width_current=8, pcie_width_max=8), {}),
    ("pcie-width", "fail", card(pcie_width_current=8), {}),
    ("pcie-width", "unknown", card(pcie_width_current=None), {}),
    ("pcie-generation", "ok", card(pcie_gen_current=1), {}),
    ("pcie-generation", "warn", card(pcie_gen_max=4), {}),
    ("nvme-count", "ok", node(1, nvme=(DRIVE,)), {"nvme_count": 1}),
    ("nvme-count", "fail", node(1), {"nvme_count": 1}),
    ("nvme-count", "unknown", node(1, unread=("nvme-list",)), {"nvme_count": 1}),
    ("nvme-link", "ok", node(1, nvme_links=(PcieLink("0000:57:00.0", 4, 4, 4, 4),)), {}),
    ("nvme-link", "warn", node(1, nvme_links=(PcieLink("0000:57:00.0", 4, 5, 4, 4),)), {}),
    ("nvme-link", "fail", node(1, nvme_links=(PcieLink("0000:57:00.0", 4, 4, 2, 4),)), {}),
    ("nvme-link", "unknown", node(1, nvme_links=(PcieLink("0000:57:00.0", 4, None, 4, 4),)), {}),
    ("xid", "ok", node(1), {}),
    ("xid", "unknown", node(1, unread=("kernel-log",)), {}),
]


@pytest.mark.parametrize(
    ("check", "status", "hardware", "expect"), CASES, ids=[f"{n}-{case[0]}-{case[1]}" for n, case in enumerate(CASES)]
)
def test_status(check: str, status: str, hardware: NodeHardware, expect: dict[str, Any]) -> None:
    findings = [f for f in check_node(hardware, ExpectSettings(**expect), load_gpus()) if f.check == check]
    assert {f.status for f in findings} >= {status}, [str(f) for f in findings]
    for finding in findings:
        assert finding.expected and finding.observed and finding.source
        if finding.status in ("warn", "fail", "unknown", "inconclusive"):
            assert finding.impact and finding.remedy
