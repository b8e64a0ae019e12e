"""Merges what was read of the machine around the GPUs, and says where two sources contradict each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from metalserve.hardware.boot import BootState
from metalserve.hardware.machine import DriveHealth, HostState, Nic, NumaNode, PcieNode, RaidArray
from metalserve.hardware.parsers.drive_health import drive_troubles, parse_drive_health
from metalserve.hardware.parsers.host_state import parse_host_state, parse_mdstat, parse_numa
from metalserve.hardware.parsers.kernel_log import parse_kernel_log
from metalserve.hardware.parsers.next_boot import parse_next_boot
from metalserve.hardware.parsers.pcie_tree import parse_acs, parse_pcie_tree
from metalserve.hardware.reader import Reader
from metalserve.hardware.values import Gpu, NvmeDrive, PciDevice, XidEvent


@dataclass(frozen=True)
class Machine:
    """What was read of the machine around the GPUs; empty where it was not observed."""

    pcie_tree: tuple[PcieNode, ...] = ()
    nics: tuple[Nic, ...] = ()
    numa: tuple[NumaNode, ...] = ()
    host: HostState | None = None
    drive_health: tuple[DriveHealth, ...] = ()
    raid: tuple[RaidArray, ...] = ()
    drive_troubles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    xid_history: tuple[XidEvent, ...] | None = None
    bus_gpus: tuple[str, ...] | None = None
    boot: BootState | None = None


def machine(reader: Reader) -> Machine:
    """Read the sections of `metalserve.hardware.machine_commands`; what is missing is in the reader's `unread`."""
    scan = reader.parse("pcie-tree", parse_pcie_tree) if _known(reader, "pcie-tree") else None
    acs = reader.optional("pcie-acs", parse_acs) or {}
    host = reader.parse("host-state", parse_host_state) if _known(reader, "host-state") else None
    health = reader.optional("drive-health", parse_drive_health) if _known(reader, "drive-health") else None
    log = reader.sections.get("kernel-log")
    troubles = drive_troubles(log.text) if log else {}
    return Machine(
        pcie_tree=tuple(replace(n, acs=acs.get(n.address)) for n in scan.nodes) if scan else (),
        nics=scan.nics if scan else (),
        # A kernel without NUMA or software RAID has no such file: that is no problem.
        numa=reader.optional("numa", parse_numa) or (),
        host=host,
        drive_health=health or (),
        raid=reader.optional("raid", parse_mdstat) or (),
        drive_troubles={name: tuple(lines) for name, lines in troubles.items()},
        xid_history=reader.optional("xid-history", _history),
        bus_gpus=scan.gpus if scan else None,
        boot=reader.parse("next-boot", parse_next_boot) if "next-boot" in reader.sections else None,
    )


def _history(text: str) -> tuple[XidEvent, ...] | None:
    # A journal that cannot be searched is no problem of the observation: earlier boots are then not judged.
    return None if text.lstrip().startswith("journalctl: ") else parse_kernel_log(text).events


def _known(reader: Reader, name: str) -> bool:
    if name in reader.sections:
        return True
    reader.unread.append(name)
    return False


def described(
    tree: tuple[PcieNode, ...], devices: Iterable[PciDevice], gpus: Iterable[Gpu], drives: Iterable[NvmeDrive]
) -> tuple[PcieNode, ...]:
    """Put names where sysfs has numbers only: lspci's, else what nvidia-smi and nvme say of the device."""
    words = {d.pci: d.model for d in drives if d.pci and d.model}
    words |= {g.pci: g.name for g in gpus if g.pci and g.name}
    words |= {d.address: d.description for d in devices if d.description not in ("", "Device")}
    return tuple(replace(n, description=words.get(n.address) or n.description) for n in tree)


def contradictions(
    found: Machine, pci_gpus: tuple[PciDevice, ...], gpus: tuple[Gpu, ...], numa_nodes: Mapping[int, str]
) -> list[str]:
    """Say in words where sysfs and the other sources do not agree."""
    out = []
    if found.bus_gpus is not None and pci_gpus:
        listed = {d.address for d in pci_gpus}
        for address in sorted(listed ^ set(found.bus_gpus)):
            here, there = ("lspci", "sysfs") if address in listed else ("sysfs", "lspci")
            out.append(f"GPU {address} is listed by {here}, but not by {there}")
    nodes = {n.address: n for n in found.pcie_tree}
    for gpu in gpus:
        node = nodes.get(gpu.pci or "")
        if node is None:
            continue
        if None not in (node.width_current, gpu.pcie_width_current) and node.width_current != gpu.pcie_width_current:
            out.append(f"GPU {gpu.index}: nvidia-smi says PCIe x{gpu.pcie_width_current}, sysfs x{node.width_current}")
        near = numa_nodes.get(gpu.index, "")
        if node.numa is not None and near.isdigit() and int(near) != node.numa:
            out.append(f"GPU {gpu.index}: topo says NUMA node {near}, sysfs {node.numa}")
    return out
