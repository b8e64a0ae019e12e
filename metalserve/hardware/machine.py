"""Values of the machine around the GPUs: PCIe tree, NICs, NUMA nodes, drives' health, host state. `None`: not known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PcieKind = Literal["root", "bridge", "gpu", "nvme", "nic", "switch", "other"]


@dataclass(frozen=True, slots=True)
class PcieNode:
    """A place of the PCIe tree.

    Attributes:
        address: `0000:19:00.0`; a root is named as the kernel does (`pci0000:17`).
        parent: address of the bridge or root above, `None` for a root.
        kind: `switch` is an NVSwitch; the ports of a PCIe switch are bridges.
        description: in words, or the numeric ids where nobody named it.
        gen_current: present link generation; of a root or downstream port that of the link below it.
        gen_max: highest generation that this end of the link can do.
        width_current: lanes in use.
        width_max: lanes that this end of the link can do.
        numa: NUMA node, `None` when the firmware names none.
        driver: kernel driver that holds it, empty when none.
        iommu: kind of its IOMMU domain (`identity`, `DMA`, `DMA-FQ`), `None` without IOMMU.
        acs: True when the port redirects peer-to-peer traffic upwards (ACS), `None` when that is not visible.
    """

    address: str
    parent: str | None
    kind: PcieKind
    description: str = ""
    gen_current: int | None = None
    gen_max: int | None = None
    width_current: int | None = None
    width_max: int | None = None
    numa: int | None = None
    driver: str = ""
    iommu: str | None = None
    acs: bool | None = None


@dataclass(frozen=True, slots=True)
class Nic:
    """A port of a network card.

    Attributes:
        name: network device (`eth0`), else RDMA device (`mlx5_0`), else the address.
        address: PCI address.
        driver: kernel driver, empty when none.
        netdev: name of its network device, or `None`.
        rdma: name of its RDMA device, or `None`.
        state: `up`, `down`, or what the kernel says else; `None` when it has no port that says so.
        speed_gbit: Gbit/s, `None` when the link is down or does not say.
        link_layer: `Ethernet`, `InfiniBand`, or `None`.
        numa: NUMA node.
        model: numeric ids (`15b3:1021`).
    """

    name: str
    address: str
    driver: str = ""
    netdev: str | None = None
    rdma: str | None = None
    state: str | None = None
    speed_gbit: float | None = None
    link_layer: str | None = None
    numa: int | None = None
    model: str = ""


@dataclass(frozen=True, slots=True)
class NumaNode:
    """A NUMA node: its number, its CPUs as the kernel lists them (`0-31,64-95`), its memory in MiB."""

    index: int
    cpus: str
    memory_mib: int | None = None


@dataclass(frozen=True, slots=True)
class DriveHealth:
    """SMART log of an NVMe controller.

    Attributes:
        controller: `/dev/nvme0`.
        critical_warning: bits of the specification, 0 when all is well.
        percent_used: share of the endurance that is consumed, percent; may pass 100.
        spare: spare blocks left, percent.
        spare_threshold: spare blocks under which the drive warns, percent.
        media_errors: data that could not be read back.
        temperature_c: degrees C.
    """

    controller: str
    critical_warning: int | None = None
    percent_used: int | None = None
    spare: int | None = None
    spare_threshold: int | None = None
    media_errors: int | None = None
    temperature_c: float | None = None


@dataclass(frozen=True, slots=True)
class RaidArray:
    """A Linux software RAID: name, level, members wanted and working, and its lines of /proc/mdstat."""

    name: str
    level: str
    wanted: int | None
    working: int | None
    evidence: str = ""


@dataclass(frozen=True, slots=True)
class HostState:
    """State of the operating system, as far as it matters to GPUs.

    Attributes:
        kernel: `uname -r`.
        cmdline: kernel command line.
        virtual: `none`, or what `systemd-detect-virt` names (`kvm`, `systemd-nspawn` ...).
        product: vendor and product of the machine, as its firmware says.
        cpus: CPUs that are on line.
        governors: CPU frequency governors in use; empty when the kernel does not steer frequencies.
        memory_kib: total memory.
        hugepages_total: reserved huge pages.
        hugepages_free: reserved huge pages that nobody uses.
        hugepage_kib: size of one.
        thp: transparent huge pages (`always`, `madvise`, `never`).
        docker_memlock: memory that containers may lock (`infinity` or bytes), when Docker is there.
        docker_nofile: files that containers may open (`infinity` or a number), when Docker is there.
        clock_synchronized: the clock follows a time server.
        clock_evidence: what told so, verbatim.
        secure_boot: UEFI Secure Boot is on.
        iommu_units: IOMMUs that the kernel has turned on.
    """

    kernel: str | None = None
    cmdline: str | None = None
    virtual: str | None = None
    product: str | None = None
    cpus: int | None = None
    governors: tuple[str, ...] = ()
    memory_kib: int | None = None
    hugepages_total: int | None = None
    hugepages_free: int | None = None
    hugepage_kib: int | None = None
    thp: str | None = None
    docker_memlock: str | None = None
    docker_nofile: str | None = None
    clock_synchronized: bool | None = None
    clock_evidence: str = ""
    secure_boot: bool | None = None
    iommu_units: int | None = None

    @property
    def container(self) -> bool:
        """The host is a container (the lab's hosts are): kernel, clock and CPUs are those of the machine beneath."""
        return self.virtual in CONTAINERS

    @property
    def guest(self) -> bool:
        """The host is a virtual machine: its PCIe tree and NVSwitches may be the hypervisor's."""
        return self.virtual not in (None, "none") and not self.container


CONTAINERS = frozenset(
    ("openvz", "lxc", "lxc-libvirt", "systemd-nspawn", "docker", "podman", "rkt", "wsl", "proot", "pouch")
) | {"container-other"}
"""Containers in the words of systemd-detect-virt(1)."""
