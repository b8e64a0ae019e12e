"""`lspci -Dnn`, the link lines of `lspci -vv`, and their sysfs equivalents."""

from __future__ import annotations

import re
from dataclasses import dataclass

from metalserve.hardware.parsers.text import ParseError, clean, first_line, integer, pci_address, pcie_generation
from metalserve.hardware.values import PciDevice, PcieLink

_HEAD = re.compile(r"((?:[0-9a-f]{4,8}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]) (\S.*)", re.IGNORECASE)
_CLASS = re.compile(r"\[([0-9a-f]{4})\]: ", re.IGNORECASE)
_IDS = re.compile(r"\[([0-9a-f]{4}):([0-9a-f]{4})\]", re.IGNORECASE)
_REVISION = re.compile(r"\(rev ([0-9a-f]{2})\)", re.IGNORECASE)
_LINK = re.compile(
    r"\s*(LnkCap|LnkSta):\s.{0,80}?Speed (?:([0-9.]{1,5})GT/s|unknown)(?: \([a-z]{1,12}\))?, "
    r"Width x(\d{1,2})(?: \([a-z]{1,12}\))?"
)


@dataclass(frozen=True, slots=True)
class PciListing:
    """What `lspci -Dnn` lists; `notes` holds lines that were not understood."""

    devices: tuple[PciDevice, ...]
    notes: tuple[str, ...] = ()


def parse_lspci(text: str) -> PciListing:
    """Read `lspci -nn` with or without domains (`-D`), and with or without details (`-v`, `-vv`).

    Raises:
        ParseError: no line names a device with its numeric ids, or an address comes twice.
    """
    devices: dict[str, PciDevice] = {}
    notes: list[str] = []
    for line in clean(text).splitlines():
        head = _HEAD.fullmatch(line.rstrip())
        if not head:
            if line.strip() and not line[0].isspace():
                notes.append(line.strip()[:200])
            continue
        device = _device(head.group(1), head.group(2))
        if device is None:
            notes.append(line.strip()[:200])
        elif device.address in devices:
            raise ParseError(f"PCI address {device.address} comes twice")
        else:
            devices[device.address] = device
    if not devices:
        raise ParseError(f"no device with numeric ids (lspci -nn); the text begins with {first_line(text)!r}")
    return PciListing(tuple(devices.values()), tuple(notes))


def _device(address: str, rest: str) -> PciDevice | None:
    kind = _CLASS.search(rest)
    ids = list(_IDS.finditer(rest))
    normal = pci_address(address)
    if not kind or not ids or normal is None or ids[-1].start() < kind.end():
        return None
    revision = _REVISION.search(rest, ids[-1].end())
    return PciDevice(
        address=normal,
        class_code=kind.group(1).lower(),
        vendor_id=ids[-1].group(1).lower(),
        device_id=ids[-1].group(2).lower(),
        description=rest[kind.end() : ids[-1].start()].strip(),
        revision=revision.group(1).lower() if revision else "",
    )


def parse_pcie_links(text: str) -> tuple[PcieLink, ...]:
    """Read link capability and state per device from `lspci -vv`, or from lines
    `link<TAB>address<TAB>speed<TAB>width<TAB>max speed<TAB>max width` of sysfs.

    Devices without link lines are left out.

    Raises:
        ParseError: link lines stand before any device, or a device has the same line twice.
    """
    found: dict[str, dict[str, tuple[int | None, int | None]]] = {}
    here: str | None = None
    for line in clean(text).splitlines():
        if line.startswith("link\t"):
            _sysfs(line, found)
            continue
        head = _HEAD.fullmatch(line.rstrip())
        if head:
            here = pci_address(head.group(1))
            continue
        link = _LINK.match(line)
        if not link:
            continue
        if here is None:
            raise ParseError(f"link line before any device: {line.strip()[:80]!r}")
        kinds = found.setdefault(here, {})
        if link.group(1) in kinds:
            raise ParseError(f"{here} has {link.group(1)} twice")
        kinds[link.group(1)] = (pcie_generation(link.group(2) or ""), int(link.group(3)))
    return tuple(
        PcieLink(
            address=address,
            gen_current=kinds.get("LnkSta", (None, None))[0],
            gen_max=kinds.get("LnkCap", (None, None))[0],
            width_current=kinds.get("LnkSta", (None, None))[1],
            width_max=kinds.get("LnkCap", (None, None))[1],
        )
        for address, kinds in found.items()
    )


def _sysfs(line: str, found: dict[str, dict[str, tuple[int | None, int | None]]]) -> None:
    cells = line.split("\t")
    address = pci_address(cells[1]) if len(cells) == 6 else None
    if address is None:
        raise ParseError(f"sysfs link line not understood: {line[:80]!r}")
    found[address] = {
        "LnkSta": (pcie_generation(cells[2]), integer(cells[3])),
        "LnkCap": (pcie_generation(cells[4]), integer(cells[5])),
    }
