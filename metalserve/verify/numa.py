"""Checks of how GPUs sit between CPUs and memory: NUMA nodes, IOMMU translation, ACS on the ports above them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from metalserve.catalogue.models import GpuCatalogue
from metalserve.hardware.machine import PcieNode
from metalserve.hardware.node import NodeHardware
from metalserve.verify.expectation import spec_of
from metalserve.verify.finding import Finding
from metalserve.verify.paths import ancestors, by_address

P2P_GUIDE = "docs.nvidia.com/deeplearning/nccl/user-guide/docs/troubleshooting.html (PCI access control, IOMMU)"
SYSFS_NUMA = "numa_node of the device and /sys/devices/system/node"
_GUEST = "in a virtual machine this is the business of the machine beneath"


def check_numa(hardware: NodeHardware, catalogue: GpuCatalogue) -> list[Finding]:
    """Check NUMA nodes, IOMMU and ACS of the GPUs that the PCIe tree shows."""
    nodes = by_address(hardware.pcie_tree)
    gpus = [node for node in hardware.pcie_tree if node.kind == "gpu"]
    if not gpus:
        return []
    coherent = any("c2c" in spec.features for g in hardware.gpus if (spec := spec_of(g, catalogue)))
    findings = list(_nodes(hardware, gpus))
    findings += _iommu(hardware, gpus, coherent)
    findings += _acs(hardware, nodes, gpus)
    return findings


def _nodes(hardware: NodeHardware, gpus: list[PcieNode]) -> Iterator[Finding]:
    wanted = "every GPU at a NUMA node that has CPUs and memory"
    with_cpus = [n for n in hardware.numa if n.cpus]
    if len(with_cpus) < 2:
        yield Finding("numa", "skipped", "host", wanted, "one NUMA node only", source=SYSFS_NUMA)
        return
    layout = "; ".join(f"node {n.index}: CPUs {n.cpus}, {n.memory_mib} MiB" for n in with_cpus)
    empty = [n.index for n in with_cpus if n.memory_mib == 0]
    known = {n.index for n in hardware.numa}
    nowhere = [g.address for g in gpus if g.numa is None or g.numa not in known]
    if nowhere and hardware.guest:
        yield Finding(
            "numa", "skipped", "host", wanted, f"not told for {len(nowhere)} GPU(s): {_GUEST}", source=SYSFS_NUMA
        )
    elif nowhere:
        yield Finding(
            "numa",
            "warn",
            f"GPU {', '.join(nowhere[:8])}",
            wanted,
            "the firmware names no NUMA node for it",
            "programs run on CPUs far from their GPU: every transfer crosses the sockets",
            "update the firmware; turn on NUMA (not node interleaving) in its settings",
            SYSFS_NUMA,
            layout,
        )
    elif empty:
        yield Finding(
            "numa",
            "warn",
            "host",
            wanted,
            f"NUMA node {', '.join(map(str, empty))} has no memory",
            "CPUs of that node take all their memory across the sockets",
            "look at the memory modules of that socket: one may be missing or turned off",
            SYSFS_NUMA,
            layout,
        )
    else:
        spread = ", ".join(f"{sum(g.numa == n.index for g in gpus)} GPU(s) at node {n.index}" for n in with_cpus)
        yield Finding("numa", "ok", "host", wanted, spread, source=SYSFS_NUMA, evidence=layout)


def _iommu(hardware: NodeHardware, gpus: list[PcieNode], coherent: bool) -> Iterator[Finding]:
    wanted = "IOMMU off, or its domains of type identity (iommu=pt)"
    if hardware.guest:
        yield Finding("iommu", "skipped", "host", wanted, _GUEST, source=P2P_GUIDE)
        return
    if coherent:
        yield Finding("iommu", "skipped", "host", wanted, "GPU and CPU share one address space here", source=P2P_GUIDE)
        return
    types = sorted({g.iommu for g in gpus if g.iommu})
    observed = f"domain type {', '.join(types)}" if types else "no IOMMU"
    translating = [g for g in gpus if g.iommu and g.iommu.startswith("DMA")]
    if not translating or not _talks_to_peers(hardware, gpus):
        yield Finding("iommu", "ok", "host", wanted, observed, source=P2P_GUIDE)
        return
    yield Finding(
        "iommu",
        "warn",
        "host",
        wanted,
        f"{observed} on {len(translating)} GPU(s)",
        "transfers between devices over PCIe go through the CPU: slow, and on some boards they hang",
        "boot with iommu=pt, or turn the IOMMU off in the firmware",
        P2P_GUIDE,
        f"{translating[0].address}/iommu_group/type: {translating[0].iommu}",
    )


def _talks_to_peers(hardware: NodeHardware, gpus: list[PcieNode]) -> bool:
    return len(gpus) > 1 or any(nic.rdma for nic in hardware.nics_detail)


def _acs(hardware: NodeHardware, nodes: dict[str, PcieNode], gpus: list[PcieNode]) -> Iterator[Finding]:
    wanted = "ports of PCIe switches above GPUs do not redirect peer-to-peer traffic (ACS)"
    if hardware.guest:
        yield Finding("acs", "skipped", "host", wanted, _GUEST, source=P2P_GUIDE)
        return
    ports: dict[str, PcieNode] = {}
    for gpu in gpus:
        # Ports below another bridge are a switch's; a root port passes peers' traffic through the CPU anyhow.
        above = ancestors(nodes, gpu.address)
        ports |= {port.address: port for port, top in pairwise(above) if (port.kind, top.kind) == _INSIDE}
    if not ports:
        yield Finding("acs", "skipped", "host", wanted, "no PCIe switch above the GPUs", source=P2P_GUIDE)
        return
    seen = [port for port in ports.values() if port.acs is not None]
    if not seen:
        yield Finding("acs", "skipped", "host", wanted, "not visible: lspci shows no ACSCtl there", source=P2P_GUIDE)
        return
    bad = [port.address for port in seen if port.acs]
    yield Finding(
        "acs",
        "warn" if bad else "ok",
        "host",
        wanted,
        f"redirected at {len(bad)} of {len(seen)} ports" if bad else f"none of {len(seen)} ports does",
        "traffic between GPUs and network cards below one switch takes the way through the CPU" if bad else "",
        "turn ACS off in the firmware, or clear it with `setpci` at boot" if bad else "",
        P2P_GUIDE,
        f"ACSCtl ReqRedir+ at {', '.join(bad[:8])}" if bad else "ACSCtl ReqRedir- CmpltRedir-",
    )


_INSIDE = ("bridge", "bridge")
