"""A GPU and a network card below one switch, and what all findings must say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from metalserve.hardware.machine import HostState, PcieNode
from metalserve.hardware.node import Gpu
from metalserve.hardware.values import GpuDetails
from metalserve.verify.finding import Finding

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


METAL = HostState(kernel="6.8.0", virtual="none", cpus=64)
