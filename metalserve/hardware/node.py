"""`NodeHardware`: everything that one observation told about a host's hardware, as one value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from metalserve.catalogue.loader import load_gpus
from metalserve.hardware.boot import BootState
from metalserve.hardware.machine import DriveHealth, HostState, Nic, NumaNode, PcieNode, RaidArray
from metalserve.hardware.merge import contradictions, described, machine
from metalserve.hardware.parsers.driver import LoadedDriver, parse_loaded_driver, parse_modules, parse_version
from metalserve.hardware.parsers.kernel_log import KernelLog, parse_kernel_log
from metalserve.hardware.parsers.lspci import parse_lspci, parse_pcie_links
from metalserve.hardware.parsers.nvme import parse_nvme_list
from metalserve.hardware.parsers.text import ParseError, clean, first_line, pci_address
from metalserve.hardware.reader import Reader
from metalserve.hardware.section import Section
from metalserve.hardware.smi import compare, nvidia_smi
from metalserve.hardware.values import (
    Gpu,
    NvlinkStatus,
    NvmeDrive,
    PciDevice,
    PcieLink,
    SmiState,
    XidEvent,
    XidKind,
)

__all__ = [
    "Gpu",
    "NodeHardware",
    "NvlinkStatus",
    "NvmeDrive",
    "PciDevice",
    "PcieLink",
    "SmiState",
    "XidEvent",
    "XidKind",
    "node_hardware",
]

NVIDIA = "10de"
_GPU_CLASSES = ("0300", "0302", "0380")
_NVSWITCH_CLASS = "0680"  # the kernel driver takes every NVIDIA function of this class for an NVSwitch
_NVME_CLASS = "0108"
_LOG_FAILED = re.compile(r"^(?:dmesg|timeout|sh|grep): .{1,200}", re.MULTILINE)
_IN_A_GUEST = ("Pass-Through", "VGPU")
_NO_LINKS: Mapping[tuple[int, int], str] = MappingProxyType({})


@dataclass(frozen=True)
class NodeHardware:
    """All observations of a host's hardware, merged; made by `node_hardware`.

    Attributes:
        pci_gpus: GPUs on the PCI bus (NVIDIA, class 0300 or 0302); known before any driver.
        nvswitch_count: NVSwitch PCI functions (10de class 0680).
        nvlink5_bridge_count: ConnectX-7 functions that manage NVLink5 switches (B200/B300 boards).
        needs_fabric_manager: the GPUs reach each other only when fabric manager runs.
        needs_nvlsm: NVLink5 board: fabric manager needs the subnet manager nvlsm as well.
        needs_imex: GB200/GB300 class: IMEX instead of fabric manager.
        gpus: GPUs as nvidia-smi sees them, by index.
        links: (i, j) with i < j -> class as printed by `topo -m` (`NV18`, `PIX`, `SYS` ...).
        numa_nodes: GPU index -> NUMA affinity as printed by `topo -m` (`0`, `0-1`).
        nics: NIC names as `topo -m` lists them.
        nvlinks: NVLink state by GPU.
        nvme: NVMe namespaces.
        nvme_links: PCIe links of NVMe controllers by address, also of those that no drive could be matched with.
        driver_version: user-space driver version (nvidia-smi), or `None`.
        module_version: version of the loaded kernel module, or `None` when none is loaded.
        module_on_disk: version that the next `modprobe nvidia` would load, or `None`.
        module_open: the loaded module is the open one; `None` when none is loaded.
        fabric_manager_version: version of the installed fabric manager, or `None`.
        nouveau_loaded: nouveau holds the GPUs.
        loaded_modules: names of loaded kernel modules that concern GPUs and fabric.
        xids: events of this boot's kernel log.
        pcie_tree: roots, bridges and devices, a parent before its children; empty when not read.
        nics_detail: network cards with driver, state, speed and NUMA node.
        numa: NUMA nodes; empty on a kernel without NUMA.
        host: state of the operating system, or `None` when it was not read.
        drive_health: SMART logs of the NVMe controllers that have a device node.
        drive_troubles: controller (`nvme0`) -> lines of timeouts and errors in this boot's kernel log.
        raid: Linux software RAID arrays.
        xid_history: events of the last 30 days in the journal, earlier boots included; `None` when not searched.
        boot: what the next boot will find on disk, or `None` when it was not read.
        smi_state: how nvidia-smi answers: `absent` (not installed), `no-driver` (cannot reach the driver),
            `mismatch` (driver/library version mismatch), `error`, `ok`.
        smi_message: what nvidia-smi said when it is not `ok`, verbatim.
        problems: what could not be read, or contradicts itself, in words and verbatim.
        unread: names of the sections that are missing or could not be understood.
    """

    pci_gpus: tuple[PciDevice, ...] = ()
    nvswitch_count: int = 0
    nvlink5_bridge_count: int = 0
    needs_fabric_manager: bool = False
    needs_nvlsm: bool = False
    needs_imex: bool = False
    gpus: tuple[Gpu, ...] = ()
    links: Mapping[tuple[int, int], str] = field(default_factory=lambda: _NO_LINKS)
    numa_nodes: Mapping[int, str] = field(default_factory=dict)
    nics: tuple[str, ...] = ()
    nvlinks: tuple[NvlinkStatus, ...] = ()
    nvme: tuple[NvmeDrive, ...] = ()
    nvme_links: tuple[PcieLink, ...] = ()
    driver_version: str | None = None
    module_version: str | None = None
    module_on_disk: str | None = None
    module_open: bool | None = None
    fabric_manager_version: str | None = None
    nouveau_loaded: bool = False
    loaded_modules: tuple[str, ...] = ()
    xids: tuple[XidEvent, ...] = ()
    pcie_tree: tuple[PcieNode, ...] = ()
    nics_detail: tuple[Nic, ...] = ()
    numa: tuple[NumaNode, ...] = ()
    host: HostState | None = None
    drive_health: tuple[DriveHealth, ...] = ()
    drive_troubles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    raid: tuple[RaidArray, ...] = ()
    xid_history: tuple[XidEvent, ...] | None = None
    boot: BootState | None = None
    smi_state: SmiState = "absent"
    smi_message: str = ""
    problems: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()

    def link(self, a: int, b: int) -> str | None:
        """Return the class of the path between GPUs `a` and `b` in any order, or `None` when not known."""
        return self.links.get((min(a, b), max(a, b)))

    def gpu(self, index: int) -> Gpu | None:
        """Return the GPU that nvidia-smi numbers `index`, or `None`."""
        return next((g for g in self.gpus if g.index == index), None)

    @property
    def guest(self) -> bool:
        """The host is a virtual machine: NVSwitches, IOMMU and the upper PCIe tree belong to the machine beneath."""
        if self.host is not None and self.host.virtual is not None:
            return self.host.guest
        return any(g.details is not None and g.details.virtualization in _IN_A_GUEST for g in self.gpus)


def node_hardware(sections: Mapping[str, Section]) -> NodeHardware:
    """Merge what the commands of `metalserve.hardware.commands` printed.

    Args:
        sections: by the keys of `COMMANDS`; sections may lack.

    Returns:
        What is known. Whatever could not be read stands in `problems` and `unread`; nothing is guessed.
    """
    reader = Reader(sections)
    listing = reader.parse("lspci", parse_lspci)
    devices = listing.devices if listing else ()
    pci_gpus = tuple(d for d in devices if d.vendor_id == NVIDIA and d.class_code in _GPU_CLASSES)
    switches = sum(d.vendor_id == NVIDIA and d.class_code == _NVSWITCH_CLASS for d in devices)
    for device in pci_gpus:
        if device.revision == "ff":
            reader.problems.append(f"GPU {device.address} answers the PCI bus with revision ff: it is gone")
    bridges = _bridges(reader)
    nvlink5, imex = _fabric_by_id(pci_gpus)
    around = machine(reader)
    guest = around.host is not None and around.host.guest
    # In a virtual machine without the board's bridges the fabric is managed by the machine beneath.
    needs_nvlsm = ((nvlink5 and not guest) or bridges > 0) and not imex

    modules = reader.parse("modules", parse_modules) or ()
    loaded = _loaded(reader, modules)
    smi = nvidia_smi(reader, {d.address: d for d in pci_gpus})
    if smi.state == "ok":
        compare(pci_gpus, smi, reader, known_pci=listing is not None)
    log = reader.parse("kernel-log", _kernel_log)
    drives, nvme_links = _nvme(reader, devices)
    numa_nodes = {int(g[3:]): n for g, n in smi.topology.numa_nodes.items()} if smi.topology else {}
    reader.problems += contradictions(around, pci_gpus, smi.gpus, numa_nodes)
    return NodeHardware(
        pci_gpus=pci_gpus,
        nvswitch_count=switches,
        nvlink5_bridge_count=bridges,
        needs_fabric_manager=bool(pci_gpus) and (switches > 0 or needs_nvlsm),
        needs_nvlsm=bool(pci_gpus) and needs_nvlsm,
        needs_imex=imex,
        gpus=smi.gpus,
        links=smi.topology.links if smi.topology else {},
        numa_nodes=numa_nodes,
        nics=tuple(smi.topology.nic_names.get(n, n) for n in smi.topology.nics) if smi.topology else (),
        nvlinks=smi.nvlinks,
        nvme=drives,
        nvme_links=nvme_links,
        driver_version=smi.version,
        module_version=loaded.version if loaded else None,
        module_on_disk=reader.optional("driver-disk", parse_version),
        module_open=loaded.open if loaded else None,
        fabric_manager_version=reader.optional("fm-version", parse_version),
        nouveau_loaded="nouveau" in modules or "nova_core" in modules,
        loaded_modules=modules,
        xids=log.events if log else (),
        pcie_tree=described(around.pcie_tree, devices, smi.gpus, drives),
        nics_detail=around.nics,
        numa=around.numa,
        host=around.host,
        drive_health=around.drive_health,
        drive_troubles=around.drive_troubles,
        raid=around.raid,
        xid_history=around.xid_history,
        boot=around.boot,
        smi_state=smi.state,
        smi_message=smi.message,
        problems=tuple(dict.fromkeys(reader.problems)),
        unread=tuple(dict.fromkeys(reader.unread)),
    )


def _bridges(reader: Reader) -> int:
    """Count the ConnectX-7 functions whose vital product data say SW_MNG (Fabric Manager User Guide)."""
    section = reader.sections.get("nvlink5-bridges")
    here: str | None = None
    found = set()
    for line in clean(section.text).splitlines() if section else []:
        if "SW_MNG" in line:
            found.add(here)
        elif not line[:1].isspace():
            here = pci_address(line)
    return len(found - {None})


def _fabric_by_id(gpus: tuple[PciDevice, ...]) -> tuple[bool, bool]:
    specs = [load_gpus().by_pci_id(g.device_id) for g in gpus]
    fabrics = {s.fabric for s in specs if s}
    return "nvlink5" in fabrics, "imex" in fabrics


def _loaded(reader: Reader, modules: tuple[str, ...]) -> LoadedDriver | None:
    loaded = reader.optional("driver-module", parse_loaded_driver)
    if loaded is None and "nvidia" in modules:
        reader.problems.append(
            "driver-module: module nvidia is loaded, but /proc/driver/nvidia/version is not readable"
        )
    return loaded


def _kernel_log(text: str) -> KernelLog:
    failed = _LOG_FAILED.search(text)
    if failed:
        raise ParseError(f"the kernel log could not be read: {failed.group()}")
    return parse_kernel_log(text)


def _nvme(reader: Reader, devices: tuple[PciDevice, ...]) -> tuple[tuple[NvmeDrive, ...], tuple[PcieLink, ...]]:
    controllers = sum(d.class_code == _NVME_CLASS for d in devices)
    section = reader.sections.get("nvme-list")
    drives: tuple[NvmeDrive, ...] = ()
    if section is not None and section.rc == 0:
        drives = reader.parse("nvme-list", parse_nvme_list) or ()
    else:
        reader.unread.append("nvme-list")
        if controllers:
            said = first_line(section.text) if section else "not observed"
            reader.problems.append(f"nvme-list: {controllers} NVMe controller(s) on the PCI bus, but {said}")
    links = reader.optional("nvme-links", parse_pcie_links) or ()
    by_address = {link.address: link for link in links}
    addresses = _controller_addresses(reader)
    names = {_controller(d) for d in drives}
    if len(names) == 1 and controllers == 1:  # one on each side: they are the same, whatever nvme-cli leaves out
        addresses.setdefault(names.pop(), next(d.address for d in devices if d.class_code == _NVME_CLASS))
    out = []
    for drive in drives:
        address = drive.pci or addresses.get(_controller(drive))
        out.append(replace(drive, pci=address, link=by_address.get(address or "")))
    return tuple(out), links


def _controller(drive: NvmeDrive) -> str:
    return re.sub(r"n\d+$", "", drive.device.removeprefix("/dev/"))


def _controller_addresses(reader: Reader) -> dict[str, str]:
    section = reader.sections.get("nvme-controllers")
    found = {}
    for line in clean(section.text).splitlines() if section else []:
        name, tab, rest = line.partition("\t")
        address = pci_address(rest)
        if tab and address:
            found[name] = address
    return found
