"""Whether a drive is fit for models: its PCIe link, every link above it, its health. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from metalserve.catalogue.loader import threshold
from metalserve.hardware.machine import DriveHealth, PcieNode
from metalserve.hardware.node import NodeHardware, NvmeDrive
from metalserve.verify.drives import FATAL_WARNINGS, warning_words
from metalserve.verify.measurement_drive import LANE_GB_S
from metalserve.verify.paths import PathLink, by_address, path
from roles.storage.drives import Drive

BEST = (5, 4)
"""PCIe generation and lanes that are preferred: 15.75 GB/s, of which good drives read 14; Gen4 x4 reads about 7."""


@dataclass(frozen=True, slots=True)
class Link:
    """The way to a drive.

    Attributes:
        gen: present generation of the drive's own link.
        width: its lanes in use.
        gen_max: what the drive itself can do.
        width_max: the same.
        port_gen: what the port that it hangs at can do; `None` when not known.
        port_width: the same.
        above: links further up that carry less than the drive's own.
    """

    gen: int
    width: int
    gen_max: int
    width_max: int
    port_gen: int | None = None
    port_width: int | None = None
    above: tuple[PathLink, ...] = ()

    @property
    def gb_s(self) -> float:
        """What the narrowest link on the way carries, GB/s."""
        carried = [_carries(self.gen, self.width), *(_carries(link.gen, link.width) for link in self.above)]
        return min(carried)

    @property
    def best(self) -> bool:
        """Whether it is what is preferred."""
        return self.gen >= BEST[0] and self.width >= BEST[1] and not self.above

    @property
    def able(self) -> tuple[int, int]:
        """Generation and lanes that drive and port can do together."""
        return min(self.gen_max, self.port_gen or self.gen_max), min(self.width_max, self.port_width or self.width_max)

    @property
    def below_able(self) -> bool:
        """Whether the link runs below what both its ends can do: a fault."""
        return self.gen < self.able[0] or self.width < self.able[1]

    def __str__(self) -> str:
        return f"Gen{self.gen} x{self.width}"


def _carries(gen: int | None, width: int | None) -> float:
    return LANE_GB_S.get(gen or 0, 0.0) * (width or 0)


def link_of(device: str, hardware: NodeHardware) -> Link | None:
    """Return the way to a drive, None when its link could not be read."""
    listed = next((drive for drive in hardware.nvme if drive.device == device), None)
    if listed is None or listed.pci is None:
        return None
    link = listed.link
    if link is None or not (link.gen_current and link.gen_max and link.width_current and link.width_max):
        return None
    way = path(by_address(hardware.pcie_tree), listed.pci)
    own = _carries(link.gen_current, link.width_current)
    return Link(
        gen=link.gen_current,
        width=link.width_current,
        gen_max=link.gen_max,
        width_max=link.width_max,
        port_gen=way[0].port.gen_max if way else None,
        port_width=way[0].port.width_max if way else None,
        above=tuple(one for one in way[1:] if one.gen and one.width and _carries(one.gen, one.width) < own),
    )


def health_of(device: str, hardware: NodeHardware) -> DriveHealth | None:
    """Return the SMART log of a drive's controller, None when it was not read."""
    controller = re.sub(r"n\d+$", "", device)
    return next((health for health in hardware.drive_health if health.controller == controller), None)


def unfit(health: DriveHealth | None) -> str:
    """Return why a drive must not hold models, "" when nothing speaks against it.

    A drive that is worn or has media errors is warned of (`worries`): it reads well until it does not.
    """
    if health is None or not health.critical_warning:
        return ""
    return "; ".join(warning_words(health.critical_warning & FATAL_WARNINGS))


def worries(health: DriveHealth) -> list[str]:
    """Return what speaks against a drive, in words."""
    said = warning_words(health.critical_warning or 0)
    if health.percent_used is not None and health.percent_used >= threshold("drive-wear").value:
        said.append(f"{health.percent_used} % of its endurance is used")
    low = None not in (health.spare, health.spare_threshold) and (health.spare or 0) <= (health.spare_threshold or 0)
    if low and not (health.critical_warning or 0) & 0x01:
        said.append(f"{health.spare} % spare blocks left, the drive warns below {health.spare_threshold} %")
    if health.media_errors:
        said.append(f"{health.media_errors} media error(s)")
    return said


def judged(drives: Iterable[Drive], hardware: NodeHardware) -> tuple[Drive, ...]:
    """Return the drives with what their links carry and whether they are fit."""
    out = []
    for drive in drives:
        link = link_of(drive.device, hardware)
        out.append(
            replace(
                drive,
                read_gb_s=link.gb_s if link is not None else 0.0,
                unfit=unfit(health_of(drive.device, hardware)),
            )
        )
    return tuple(out)


def numa_of(drives: Iterable[Drive], hardware: NodeHardware) -> dict[str, int | None]:
    """Return the NUMA node of each drive by its device name; None when the firmware names none."""
    listed: dict[str, NvmeDrive] = {drive.device: drive for drive in hardware.nvme}
    nodes: dict[str, PcieNode] = by_address(hardware.pcie_tree)
    found: dict[str, int | None] = {}
    for drive in drives:
        address = listed[drive.device].pci if drive.device in listed else None
        node = nodes.get(address or "")
        found[drive.device] = node.numa if node is not None else None
    return found


def gpu_numa(hardware: NodeHardware) -> dict[int, int]:
    """Return the NUMA nodes of the GPUs: node -> how many of them hang on it."""
    found: dict[int, int] = {}
    for node in hardware.pcie_tree:
        if node.kind == "gpu" and node.numa is not None:
            found[node.numa] = found.get(node.numa, 0) + 1
    return found
