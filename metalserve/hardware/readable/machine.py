"""Kinds that tell of the PCI bus and of storage."""

from __future__ import annotations

from typing import Any, Final

from metalserve.hardware.parsers.blockdev import BlockDevice, parse_findmnt, parse_lsblk
from metalserve.hardware.parsers.lspci_forms import Link, PciFunction, parse_lspci_any
from metalserve.hardware.parsers.mdadm import parse_mdadm
from metalserve.hardware.parsers.nvme import parse_nvme_list
from metalserve.hardware.parsers.nvme_health import parse_nvme_id_ctrl, parse_nvme_smart
from metalserve.hardware.parsers.sysfs_links import parse_sysfs_links
from metalserve.hardware.readable.kind import Kind, marks, plain


def _lspci(text: str) -> dict[str, Any]:
    found = parse_lspci_any(text)
    return {
        "form": found.form,
        "devices": [_device(f) for f in found.functions if f.address or f.description],
        "links": [{"address": f.address, **_link(f.link)} for f in found.functions if f.link],
        "notes": list(found.notes),
    }


def _device(function: PciFunction) -> dict[str, Any]:
    device: dict[str, Any] = plain(function)
    del device["link"]
    return device


def _link(link: Link) -> dict[str, Any]:
    return {**plain(link), "downgraded": "downgraded" in (link.speed_note, link.width_note)}


def _sysfs_links(text: str) -> dict[str, Any]:
    return {"links": [plain(link) for link in parse_sysfs_links(text)]}


def _nvme_list(text: str) -> dict[str, Any]:
    drives = [plain(drive) for drive in parse_nvme_list(text)]
    for drive in drives:
        del drive["link"]
    return {"drives": drives}


def _nvme_smart(text: str) -> dict[str, Any]:
    return dict(plain(parse_nvme_smart(text)))


def _nvme_id_ctrl(text: str) -> dict[str, Any]:
    return dict(plain(parse_nvme_id_ctrl(text)))


def _lsblk(text: str) -> dict[str, Any]:
    """The tree becomes a flat list, parents first: JSON readers need not walk."""
    flat: list[dict[str, Any]] = []
    waiting: list[tuple[BlockDevice, str | None]] = [(d, None) for d in reversed(parse_lsblk(text))]
    while waiting:
        device, parent = waiting.pop()
        flat.append(
            {
                "name": device.name,
                "type": device.type,
                "size": device.size,
                "size_bytes": device.size_bytes,
                "parent": parent,
                "children": len(device.children),
                "mountpoints": list(device.mountpoints),
                "fields": dict(device.fields),
            }
        )
        waiting.extend((child, device.name) for child in reversed(device.children))
    return {"devices": flat}


def _findmnt(text: str) -> dict[str, Any]:
    return {"mounts": plain(parse_findmnt(text))}


def _mdadm(text: str) -> dict[str, Any]:
    return {"arrays": plain(parse_mdadm(text))}


_ADDRESS = r"(?:[0-9a-f]{4,8}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]"

MACHINE_KINDS: Final = (
    Kind(
        "nvme-smart",
        "nvme smart-log, also -o json",
        _nvme_smart,
        marks(r"Smart Log for NVME device|^critical_warning\s*:|\"critical_warning\" ?:"),
    ),
    Kind(
        "nvme-id-ctrl",
        "nvme id-ctrl, also -o json",
        _nvme_id_ctrl,
        marks(r'NVME Identify Controller|^[ \t]*"?subnqn"?\s*:'),
    ),
    Kind("nvme-list", "nvme list, also -o json", _nvme_list, marks(r'"Devices" ?:|^Node +.{0,60}\bSN\b')),
    Kind(
        "lsblk",
        "lsblk, also -J, -P",
        _lsblk,
        marks(r'"blockdevices" ?:|^K?NAME="[^"\n]{1,100}" |^NAME +.{0,200}\bTYPE\b'),
    ),
    Kind("findmnt", "findmnt, also -J", _findmnt, marks(r'"filesystems" ?:|^TARGET +SOURCE\b')),
    Kind("mdadm", "mdadm --detail, also --examine", _mdadm, marks(r"^ {2,20}Raid Level(?:\[\d{1,3}\])? : ")),
    Kind(
        "sysfs-links",
        "grep . /sys/bus/pci/devices/*/*_link_*",
        _sysfs_links,
        marks(r"/(?:current|max)_link_(?:speed|width)|^link\t[0-9a-f]{4}"),
    ),
    Kind(
        "lspci",
        "lspci -Dnn, also -vv, -vmm, -mm, -t",
        _lspci,
        marks(
            rf"(?i:^{_ADDRESS} [A-Z0-9\"].{{1,300}}$)|^Slot:\s|"
            rf"^[ \t]*Lnk(?:Cap|Sta):|^[ |+\\-]*\[[0-9a-f]{{4}}:[0-9a-f]{{2}}\]-"
        ),
    ),
)
