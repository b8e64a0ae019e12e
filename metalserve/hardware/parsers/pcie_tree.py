"""The PCI devices of sysfs: where each hangs, its link, NUMA node, driver, IOMMU domain, and the ports of NICs.

Lines are paths (`/sys/devices/pci0000:17/0000:17:01.0/0000:18:00.0`) and values (`0000:18:00.0/class:0x030200`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from metalserve.hardware.machine import Nic, PcieKind, PcieNode
from metalserve.hardware.parsers.text import ParseError, clean, first_line, integer, number, pcie_generation

_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_ROOT = re.compile(r"pci[0-9a-f]{4,8}:[0-9a-f]{2}")
_VALUE = re.compile(r"([0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])/([A-Za-z0-9_./@:-]{1,160}?):(.*)")
_NET = re.compile(r"(?:virtio\d{1,4}/)?net/([^/]{1,32})/(operstate|speed)")
_IB = re.compile(r"infiniband/([^/]{1,32})/ports/(\d{1,3})/(state|rate|link_layer)")
_ACS = re.compile(r"ACSCtl:((?:\s+[A-Za-z]{1,16}[+-])+)")
_WIDEST = 32  # lanes (PCI Express base specification); a device that is gone answers 63
_UP = {"ACTIVE": "up", "DOWN": "down"}
_REDIRECTS = ("ReqRedir+", "CmpltRedir+")


@dataclass(frozen=True)
class PcieScan:
    """What sysfs tells of PCI: the tree of GPUs, drives, NICs and NVSwitches with all above them, and the NICs.

    Attributes:
        nodes: a parent stands before its children.
        nics: one a PCI function that is a network card, virtual functions left out.
        gpus: addresses of NVIDIA's GPUs.
    """

    nodes: tuple[PcieNode, ...]
    nics: tuple[Nic, ...]
    gpus: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass
class _Device:
    parent: str | None = None
    values: dict[str, str] = field(default_factory=dict)


def parse_pcie_tree(text: str) -> PcieScan:
    """Read what the command `pcie-tree` prints.

    Raises:
        ParseError: no PCI device in it, or a device hangs in two places.
    """
    devices: dict[str, _Device] = {}
    roots: dict[str, str | None] = {}
    notes: list[str] = []
    for line in clean(text).splitlines():
        line = line.strip()
        found = _VALUE.fullmatch(line)
        if found:
            devices.setdefault(found.group(1), _Device()).values.setdefault(found.group(2), found.group(3).strip())
        elif line.startswith("/"):
            _place(line, devices, roots)
        elif line:
            notes.append(line[:200])
    placed = {a: d for a, d in devices.items() if d.parent is not None}
    if not placed:
        raise ParseError(f"no PCI device with its path in sysfs; the text begins with {first_line(text)!r}")
    kinds = {address: _kind(d.values) for address, d in placed.items()}
    kept = _with_ancestors([a for a, k in kinds.items() if k in ("gpu", "nvme", "nic", "switch")], placed, roots)
    nodes = [PcieNode(r, roots[r], "root", "PCI host bridge") for r in kept if r in roots]
    nodes += [_node(a, placed[a], kinds[a]) for a in kept if a in placed]
    nics = tuple(_nic(a, placed[a]) for a in sorted(placed) if kinds[a] == "nic")
    return PcieScan(
        _ordered(nodes), nics, tuple(sorted(a for a in placed if kinds[a] == "gpu")), tuple(dict.fromkeys(notes))
    )


def parse_acs(text: str) -> dict[str, bool]:
    """Return address of a port -> it redirects peer-to-peer traffic, from the bridges of `lspci -Dvv`. Never raises."""
    found: dict[str, bool] = {}
    here = ""
    for line in clean(text).splitlines():
        head = _ADDRESS.match(line)
        if head:
            here = head.group()
        control = _ACS.search(line)
        if control and here:
            found[here] = any(flag in control.group(1).split() for flag in _REDIRECTS)
    return found


def _place(line: str, devices: dict[str, _Device], roots: dict[str, str | None]) -> None:
    parent: str | None = None
    for part in line.split("/"):
        if _ROOT.fullmatch(part):
            roots.setdefault(part, parent)
            parent = part
        elif _ADDRESS.fullmatch(part):
            device = devices.setdefault(part, _Device())
            if device.parent not in (None, parent):
                raise ParseError(f"{part} hangs below {device.parent} and below {parent}")
            device.parent = parent
            parent = part


def _kind(values: dict[str, str]) -> PcieKind:
    code = values.get("class", "").removeprefix("0x")[:4]
    vendor = values.get("vendor")
    if vendor == "0x10de" and code in ("0300", "0302", "0380"):
        return "gpu"
    if vendor == "0x10de" and code == "0680":
        return "switch"
    if code == "0108":
        return "nvme"
    if code[:2] == "02":
        return "other" if "physfn/class" in values else "nic"
    return "bridge" if code == "0604" else "other"


def _with_ancestors(wanted: list[str], placed: dict[str, _Device], roots: dict[str, str | None]) -> set[str]:
    kept: set[str] = set()
    for address in wanted:
        here: str | None = address
        while here is not None and here not in kept:
            kept.add(here)
            device = placed.get(here)
            here = device.parent if device else roots.get(here)
    return kept


def _node(address: str, device: _Device, kind: PcieKind) -> PcieNode:
    values = device.values
    ids = f"{values.get('vendor', '?').removeprefix('0x')}:{values.get('device', '?').removeprefix('0x')}"
    return PcieNode(
        address=address,
        parent=device.parent,
        kind=kind,
        description=ids,
        gen_current=pcie_generation(values.get("current_link_speed", "")),
        gen_max=pcie_generation(values.get("max_link_speed", "")),
        width_current=_width(values.get("current_link_width")),
        width_max=_width(values.get("max_link_width")),
        numa=_numa(values),
        driver=values.get("uevent", "").removeprefix("DRIVER="),
        iommu=values.get("iommu_group/type") or None,
    )


def _width(value: str | None) -> int | None:
    lanes = integer(value)
    return lanes if lanes is not None and 0 < lanes <= _WIDEST else None


def _numa(values: dict[str, str]) -> int | None:
    node = integer(values.get("numa_node"))
    return node if node is not None and node >= 0 else None


def _nic(address: str, device: _Device) -> Nic:
    values = device.values
    netdev = rdma = state = layer = None
    speed: float | None = None
    for key, value in values.items():
        net, port = _NET.fullmatch(key), _IB.fullmatch(key)
        if net:
            netdev = netdev or net.group(1)
            if net.group(2) == "operstate":
                state = value
            elif (number(value) or 0) > 0:
                speed = (number(value) or 0) / 1000  # Mbit/s; a link that is down says -1
        elif port:
            rdma = rdma or port.group(1)
            if port.group(3) == "link_layer":
                layer = value
            elif port.group(3) == "rate":
                speed = speed or number(value)
            elif state is None:
                word = value.partition(":")[2].strip()
                state = _UP.get(word, word.lower() or None)
    return Nic(
        name=netdev or rdma or address,
        address=address,
        driver=values.get("uevent", "").removeprefix("DRIVER="),
        netdev=netdev,
        rdma=rdma,
        state=state,
        speed_gbit=speed if state == "up" else None,
        link_layer=layer,
        numa=_numa(values),
        model=f"{values.get('vendor', '?').removeprefix('0x')}:{values.get('device', '?').removeprefix('0x')}",
    )


def _ordered(nodes: list[PcieNode]) -> tuple[PcieNode, ...]:
    below: dict[str | None, list[PcieNode]] = {}
    for node in nodes:
        below.setdefault(node.parent, []).append(node)
    out: list[PcieNode] = []
    waiting = sorted(below.get(None, ()), key=lambda n: n.address, reverse=True)
    while waiting:
        node = waiting.pop()
        out.append(node)
        waiting += sorted(below.get(node.address, ()), key=lambda n: n.address, reverse=True)
    return tuple(out)
