"""A host's PCIe devices by NUMA node: nested, with chains of bridges drawn as one, degraded links marked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from metalserve.report.model import ABOVE_OK, STATUSES, Host
from metalserve.report.values import address, gpu_index, line, mappings, whole

_PRODUCT = re.compile(r"\[([^\[\]]{3,80})\]\s*$")
_PORTS = ("root", "bridge", "switch")
_WORDS = {"gpu": "GPU", "nvme": "NVMe", "nic": "NIC", "root": "root port", "other": "device"}
DEEPEST = 24
"""Levels that are drawn; a real tree has fewer than ten."""


@dataclass(slots=True)
class Device:
    """One box of the drawing.

    Attributes:
        path: addresses of the ports above it that have no other child, then its own.
        link: the link as it runs ("Gen5 x16"); "" when it was not read.
        note: what is wrong with it, or may be ("of Gen5 x16"); "" when nothing is.
        status: worst finding about it; "" when none is above ok.
        full: its description as lspci prints it.
    """

    kind: str
    name: str
    path: tuple[str, ...]
    link: str = ""
    note: str = ""
    status: str = ""
    numa: str = ""
    full: str = ""
    children: list[Device] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Tree:
    """Devices by NUMA node ("" where it is not known).

    Attributes:
        whole: whether the ports above the devices are known; else only the devices themselves are shown.
    """

    nodes: tuple[tuple[str, tuple[Device, ...]], ...]
    whole: bool


def pcie_tree(host: Host) -> Tree | None:
    """Return the drawing of a host's PCIe devices, or None where none was read."""
    rows = mappings(host.hardware.get("pcie_tree"))
    roots = _nested(rows, host) if rows else _flat(host)
    if not roots:
        return None
    nodes: dict[str, list[Device]] = {}
    for root in roots:
        nodes.setdefault(_numa(root), []).append(root)
    return Tree(tuple((n, tuple(nodes[n])) for n in sorted(nodes, key=lambda n: (n == "", len(n), n))), bool(rows))


def _nested(rows: list[Mapping[str, Any]], host: Host) -> list[Device]:
    names = {line(r.get("address")) for r in rows}
    below: dict[str, list[Mapping[str, Any]]] = {}
    tops = []
    for row in rows:
        name, parent = line(row.get("address")), line(row.get("parent"))
        if parent and parent in names and parent != name:
            below.setdefault(parent, []).append(row)
        else:
            tops.append(row)
    judged, gpus = _judged(host), _gpu_numbers(host)
    drawn: set[str] = set()

    def build(row: Mapping[str, Any], depth: int) -> Device | None:
        name = line(row.get("address"))
        if name in drawn or depth > DEEPEST:  # listed twice, or its own ancestor
            return None
        drawn.add(name)
        device = _device(row, judged, gpus)
        device.children = [d for child in below.get(name, ()) if (d := build(child, depth + 1)) is not None]
        if device.kind in _PORTS and len(device.children) == 1 and not device.status:
            only = device.children[0]
            only.path = (*device.path, *only.path)
            only.numa = only.numa or device.numa
            return only
        return device

    found = [d for row in tops if (d := build(row, 0)) is not None]
    # A bridge with nothing below it says nothing about this host's GPUs and drives.
    return [d for d in found if d.children or d.kind not in ("root", "bridge") or d.status]


def _device(row: Mapping[str, Any], judged: Mapping[str, str], gpus: Mapping[str, int]) -> Device:
    name, kind = line(row.get("address")), line(row.get("kind"))
    status = judged.get(address(name) or name, "")
    link = _link(row.get("gen_current"), row.get("width_current"))
    full = line(row.get("description"))
    words = _short(full) or _WORDS.get(kind, kind) or "device"
    if kind == "gpu":
        index = gpus.get(address(name) or name)
        words = f"GPU {index}: {words}" if index is not None else f"GPU, not numbered: {words}"
    numa = line(row.get("numa"))
    return Device(kind, words, (name,), link, _note(row, kind, status), status, numa, full)


def _short(description: str) -> str:
    """Return the product out of "Vendor Chip [Product]", the whole where there are no brackets."""
    found = _PRODUCT.search(description)
    return found.group(1) if found else description


def _note(row: Mapping[str, Any], kind: str, status: str) -> str:
    gen, top = whole(row.get("gen_current")), whole(row.get("gen_max"))
    width, widest = whole(row.get("width_current")), whole(row.get("width_max"))
    narrow = width is not None and widest is not None and width < widest
    slow = gen is not None and top is not None and gen < top
    if not narrow and not slow:
        return ""
    most = _link(top, widest)
    if kind in _PORTS:
        return f"of {most}" if status else ""  # a port wider than the card in it is no fault
    if kind == "gpu" and not narrow and not status:
        return f"of {most}; idle GPUs slow their link down"
    return f"of {most}"


def _link(gen: Any, width: Any) -> str:
    parts = [
        f"Gen{whole(gen)}" if whole(gen) is not None else "",
        f"x{whole(width)}" if whole(width) is not None else "",
    ]
    return " ".join(p for p in parts if p)


def _flat(host: Host) -> list[Device]:
    """Return GPUs and drives alone, from reports that hold no tree."""
    judged = _judged(host)
    numa = host.hardware.get("numa_nodes")
    numa = numa if isinstance(numa, Mapping) else {}
    found = []
    for gpu in mappings(host.hardware.get("gpus")):
        index, where = line(gpu.get("index")), line(gpu.get("pci"))
        status = judged.get(address(where) or where, judged.get(f"GPU {index}", ""))
        row = {
            "gen_current": gpu.get("pcie_gen_current"),
            "gen_max": gpu.get("pcie_gen_max"),
            "width_current": gpu.get("pcie_width_current"),
            "width_max": gpu.get("pcie_width_max"),
        }
        found.append(
            Device(
                "gpu",
                f"GPU {index}: {line(gpu.get('name')) or 'unnamed'}",
                (where or "address not read",),
                _link(row["gen_current"], row["width_current"]),
                _note(row, "gpu", status),
                status,
                line(numa.get(index)),
            )
        )
    for drive in mappings(host.hardware.get("nvme")):
        where, link = line(drive.get("pci")), drive.get("link")
        link = link if isinstance(link, Mapping) else {}
        status = judged.get(address(where) or where, "")
        name = " ".join(filter(None, (line(drive.get("device")), line(drive.get("model")))))
        at = _link(link.get("gen_current"), link.get("width_current"))
        found.append(Device("nvme", name, (where or "address not read",), at, _note(link, "nvme", status), status))
    return found


def _judged(host: Host) -> dict[str, str]:
    """Return the worst status above ok of each PCI address, and of "GPU n" where a finding names no address."""
    found: dict[str, str] = {}
    for entry in host.entries:
        if entry.status not in ABOVE_OK or not entry.check.startswith(("pcie", "nvme", "gpu-present", "nic")):
            continue
        for subject in entry.subjects:
            index = gpu_index(subject)
            key = address(subject) or (f"GPU {index}" if index is not None else subject)
            found[key] = min(found.get(key, entry.status), entry.status, key=STATUSES.index)
    return found


def _gpu_numbers(host: Host) -> dict[str, int]:
    found = {}
    for gpu in mappings(host.hardware.get("gpus")):
        index, where = whole(gpu.get("index")), address(line(gpu.get("pci")))
        if index is not None and where:
            found[where] = index
    return found


def _numa(device: Device) -> str:
    if device.numa not in ("", "-1"):
        return device.numa
    return next((n for child in device.children if (n := _numa(child))), "")
