"""What an all-reduce costs over a group of GPUs: measured tables read log-log, the host's own figures first. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from metalserve.catalogue.loader import load_speeds
from metalserve.catalogue.models import GpuSpec
from metalserve.catalogue.speeds import AllReduceRow, Way
from metalserve.hardware.node import NodeHardware
from metalserve.planning import placement

_OF_SYSTEM = {"h200-sxm": "h200-sxm", "h20": "h200-sxm", "h200-nvl": "h200-sxm"}
_OF_NVLINK = {3: "a100-sxm", 4: "h100-sxm", 5: "b200-sxm"}
_LINKS_OF = {3: 12, 4: 18, 5: 18}
"""NVLinks a GPU of the boards that the tables were measured on."""
_OF_PCIE = {5: "rtx-pro-6000-server"}
_PCIE_4, _PCIE_TABLE_GEN = "l40s", {"l40s": 4, "rtx-pro-6000-server": 5}


@dataclass(frozen=True)
class MeasuredLinks:
    """All-reduces measured on the host: (GPUs, bytes, bus bandwidth in GB/s), as nccl-tests count."""

    points: tuple[tuple[int, int, float], ...] = ()


@dataclass(frozen=True)
class Curve:
    """Time of an all-reduce by its size.

    Attributes:
        points: (bytes, seconds), rising; smaller messages cost what the first costs.
        source: where the figures come from, in words.
        sure: measured on such a board, or on this host; else another host with the like cards.
        custom: vLLM's own all-reduce carries the small messages.
        nvlink: the group is joined by NVLink.
    """

    points: tuple[tuple[float, float], ...]
    source: str
    sure: bool
    custom: bool
    nvlink: bool

    def seconds(self, size: float) -> float:
        """Return the seconds of one all-reduce of `size` bytes."""
        points = self.points
        if size <= points[0][0]:
            return points[0][1]
        for (x0, y0), (x1, y1) in pairwise(points):
            if size <= x1:
                share = math.log(size / x0) / math.log(x1 / x0)
                return y0 * math.exp(share * math.log(y1 / y0))
        (x0, y0) = points[-1]
        return y0 * size / x0


def _points(row: AllReduceRow, latency: float = 1.0, slower: float = 1.0, more_us: float = 0.0) -> list[float]:
    """Return the microseconds of a row, its latency and what is above its latency scaled apart.

    A step down in a table is a change of algorithm at a badly chosen size; whoever sends fewer bytes can have at least
    the time of more, so each point is lowered to the least of those after it.
    """
    first = row.us[0]
    scaled = [first * latency + more_us + max(0.0, us - first) * slower for us in row.us]
    for place in range(len(scaled) - 2, -1, -1):
        scaled[place] = min(scaled[place], scaled[place + 1])
    return scaled


def _table(system: str, gpus: int, way: Way) -> tuple[AllReduceRow, float, float]:
    """Return the row for as many GPUs or the next more, and the factors of (latency, transfer) beyond the table."""
    rows = load_speeds().all_reduce.rows
    sizes = sorted({row.gpus for row in rows if row.system == system})
    size = next((n for n in sizes if n >= gpus), sizes[-1])
    row = load_speeds().all_reduce.row(system, size, way)
    assert row is not None
    if gpus <= size:
        return row, 1.0, 1.0
    return row, gpus / size, ((gpus - 1) / gpus) / ((size - 1) / size)


def pcie_generation(spec: GpuSpec | None) -> int:
    """Return the PCIe generation of the card by the catalogue, 4 when it is not known."""
    return (spec.pcie.gen if spec else None) or 4


@cache
def _curve(system: str, gpus: int, way: Way, slower: float, more_us: float) -> tuple[tuple[float, float], ...]:
    row, latency, transfer = _table(system, gpus, way)
    sizes = load_speeds().all_reduce.sizes_kib
    return tuple(
        (kib * 1024.0, us * 1e-6)
        for kib, us in zip(sizes, _points(row, latency, transfer * slower, more_us), strict=True)
    )


def nvlink_curve(spec: GpuSpec | None, gpus: int, links: int = 0) -> Curve:
    """Return the all-reduce over `gpus` joined by `links` NVLinks each (0: as many as the GPU has)."""
    generation = spec.nvlink.generation if spec and spec.nvlink else 4
    generation = min(max(generation, 3), 5)
    system = _OF_SYSTEM.get(spec.id if spec else "", _OF_NVLINK[generation])
    slower = _LINKS_OF[generation] / links if links else 1.0
    if spec is not None and spec.nvlink is not None and spec.nvlink.link_gb_s:
        nominal = {3: 25.0, 4: 25.0, 5: 50.0}[generation]
        slower *= nominal / spec.nvlink.link_gb_s
    source = f"measured on {system} boards" + (f", transfer scaled by {slower:.2f}" if abs(slower - 1) > 0.01 else "")
    return Curve(_curve(system, gpus, "custom", slower, 0.0), source, abs(slower - 1) < 0.01, True, True)


def _pcie_curve(spec: GpuSpec | None, hardware: NodeHardware, group: Sequence[int]) -> Curve:
    facts = load_speeds().links
    generation = pcie_generation(spec)
    system = _OF_PCIE.get(generation, _PCIE_4)
    gpus = len(group)
    peer = spec is None or "p2p" in spec.features
    way: Way = "custom" if gpus == 2 and peer else "nccl"
    slower = facts.pcie_gb_s[_PCIE_TABLE_GEN[system]] / facts.pcie_gb_s[min(max(generation, 3), 5)]
    said = f"measured on one host with {system}"
    if gpus == 2 and hardware.link(group[0], group[1]) == "SYS":
        slower *= facts.cross_socket
        said += ", slowed for two sockets"
    more = 0.0 if peer else facts.no_p2p_us
    if more:
        said += ", no peer-to-peer"
    return Curve(_curve(system, gpus, way, slower, more), said, False, way == "custom", False)


def curve_for(
    hardware: NodeHardware, spec: GpuSpec | None, group: Sequence[int], measured: MeasuredLinks | None = None
) -> Curve | None:
    """Return the all-reduce of a tensor-parallel group, None for a single GPU.

    Args:
        hardware: the links of the host.
        spec: the GPU's row of the catalogue.
        group: the GPUs, by nvidia-smi's numbers.
        measured: what was measured on this very host; it goes before the tables.
    """
    if len(group) < 2:
        return None
    if placement.joined_by_nvlink(hardware, group):
        per_gpu = [sum(placement.nvlinks(hardware, a, b) for b in group if b != a) for a in group]
        most = spec.nvlink.links if spec and spec.nvlink else max(per_gpu)
        curve = nvlink_curve(spec, len(group), min(most, *per_gpu))
    else:
        curve = _pcie_curve(spec, hardware, group)
    return _corrected(curve, len(group), measured) if measured else curve


def _corrected(curve: Curve, gpus: int, measured: MeasuredLinks) -> Curve:
    """Return the curve with its transfer part scaled to what this host measured at its largest size."""
    same = [point for point in measured.points if point[0] == gpus and point[2] > 0]
    others = [point for point in measured.points if point[0] >= gpus and point[2] > 0]
    if not same and not others:
        return curve
    size_gpus, size, busbw = max(same, key=lambda p: p[1]) if same else min(others, key=lambda p: (p[0], -p[1]))
    seconds = 2 * (gpus - 1) / gpus * size / (busbw * 1e9)
    latency = curve.points[0][1]
    factor = max(0.05, (seconds - latency) / max(curve.seconds(size) - latency, 1e-9))
    points = tuple((x, latency + (y - latency) * factor) for x, y in curve.points)
    said = f"{busbw:.0f} GB/s measured on this host over {size_gpus} GPUs"
    return Curve(points, said, True, curve.custom, curve.nvlink)
