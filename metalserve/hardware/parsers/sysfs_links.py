"""PCIe link files of sysfs, as `grep . /sys/bus/pci/devices/*/*_link_*`, `head` or the observation prints them."""

from __future__ import annotations

import re

from metalserve.hardware.parsers.lspci import parse_pcie_links
from metalserve.hardware.parsers.text import ParseError, clean, first_line, pci_address, pcie_generation
from metalserve.hardware.values import PcieLink

_FILE = re.compile(
    r"(?:==> )?\S*?/([0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])/(current|max)_link_(speed|width)(?::(.*)| <==)",
    re.IGNORECASE,
)
_NO_LANES = (0, 255)  # the kernel prints 0 or 255 lanes for a link that is down or a device that is gone


def parse_sysfs_links(text: str) -> tuple[PcieLink, ...]:
    """Read link files of sysfs with their paths, or lines `link<TAB>address<TAB>...` of the observation.

    Raises:
        ParseError: no such file, one twice, or a value that is neither a rate nor a number of lanes.
    """
    body = clean(text)
    if re.search(r"(?m)^link\t", body):
        return parse_pcie_links(body)
    found: dict[str, dict[str, int | None]] = {}
    waiting: tuple[str, str] | None = None
    for line in body.splitlines():
        file = _FILE.fullmatch(line.strip())
        if file:
            if waiting:
                raise ParseError(f"sysfs: no value for {waiting[1]} of {waiting[0]}")
            address, name = str(pci_address(file.group(1))), f"{file.group(2)}_{file.group(3)}".lower()
            if file.group(4) is None:
                waiting = (address, name)
            else:
                _store(found, address, name, file.group(4))
        elif waiting and line.strip():
            _store(found, *waiting, line)
            waiting = None
    if waiting or not found:
        raise ParseError(f"no link files of sysfs, or they are cut; the text begins with {first_line(text)!r}")
    return tuple(
        PcieLink(
            address=address,
            gen_current=values.get("current_speed"),
            gen_max=values.get("max_speed"),
            width_current=values.get("current_width"),
            width_max=values.get("max_width"),
        )
        for address, values in found.items()
    )


def _store(found: dict[str, dict[str, int | None]], address: str, name: str, text: str) -> None:
    values = found.setdefault(address, {})
    if name in values:
        raise ParseError(f"sysfs: {name} of {address} comes twice")
    text = text.strip()
    if name.endswith("speed"):
        generation = pcie_generation(text) if re.fullmatch(r"\d{1,2}(?:\.\d)? GT/s(?: PCIe)?", text) else None
        if generation is None and text.lower() not in ("unknown", "unknown speed"):
            raise ParseError(f"sysfs: {text[:40]!r} is no link speed")
        values[name] = generation
    elif re.fullmatch(r"\d{1,3}", text):
        values[name] = None if int(text) in _NO_LANES else int(text)
    else:
        raise ParseError(f"sysfs: {text[:40]!r} is no number of lanes")
