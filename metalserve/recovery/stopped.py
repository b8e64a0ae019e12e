"""Devices that failed because the IOMMU had stopped them: its fault with the same device comes first. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from metalserve.hardware.parsers.text import pci_address
from metalserve.recovery.since import time_of
from metalserve.recovery.suspects import Suspect

_ORIGIN: Final = "kernel log"
_FAILS: Final = frozenset({"drive-gone", "drive-slow", "drive-errors", "drive-bad", "drive-warning", "nic-fault"})
"""What a controller, its drives and its links show when their accesses are stopped."""
_OF_DRIVES: Final = _FAILS - {"nic-fault"}
_ADDRESS: Final = re.compile(r"\b(?:[0-9a-f]{4}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]\b")
_BUSES: Final = {
    "ahci": re.compile(r"\b(?:ahci|ata\d{1,2}|sd[a-z]{0,2})\b"),
    "nvme": re.compile(r"\bnvme\d{0,3}(?:c\d{1,3})?(?:n\d{1,3})?\b"),
    "mpt3sas": re.compile(r"\b(?:mpt[23]sas\w*|sd[a-z]{0,2})\b"),
    "megaraid_sas": re.compile(r"\b(?:megaraid_sas|megasas|sd[a-z]{0,2})\b"),
    "smartpqi": re.compile(r"\b(?:smartpqi|sd[a-z]{0,2})\b"),
    "hpsa": re.compile(r"\b(?:hpsa|sd[a-z]{0,2})\b"),
    "aacraid": re.compile(r"\b(?:aacraid|sd[a-z]{0,2})\b"),
}
"""A driver of a controller, and the names in lines of its controllers and drives."""
_DRIVER: Final = re.compile(rf"\b({'|'.join(_BUSES)}) ([0-9a-f]{{4}}:[0-9a-f]{{2}}:[0-9a-f]{{2}}\.[0-7])\b")
_SOON_S: Final = 600.0
"""Seconds after the fault in which a device fails of it: the kernel's longest retries of a command end before."""


def stopped_by_iommu(suspects: Iterable[Suspect], kernel: str | None) -> frozenset[str]:
    """Return the causes of devices all of whose lines come after a fault of the IOMMU with the same device.

    Args:
        suspects: in the order of their lines.
        kernel: the kernel log: it names the driver of a device before its address.
    """
    told = [each for each in suspects if each.origin == _ORIGIN]
    if all(each.cause.id != "iommu-fault" for each in told):
        return frozenset()
    drivers = {found[2]: found[1] for found in _DRIVER.finditer(kernel or "")}
    faults: list[tuple[str, str, float | None]] = []
    after: dict[str, bool] = {}
    for suspect in told:
        if suspect.cause.id == "iommu-fault":
            address = _address(suspect.subject) or _address(suspect.line)
            faults.append((address, drivers.get(address, ""), time_of(suspect.line, 0.0)))
        elif suspect.cause.id in _FAILS:
            is_after = _is_after(suspect, faults)
            after[suspect.cause.id] = after.get(suspect.cause.id, True) and is_after
    return frozenset(cause for cause, is_so in after.items() if is_so)


def _is_after(suspect: Suspect, faults: Sequence[tuple[str, str, float | None]]) -> bool:
    address, now = _address(suspect.line), time_of(suspect.line, 0.0)
    for stopped, driver, at in faults:
        if now is not None and at is not None and not 0 <= now - at <= _SOON_S:
            continue
        speaks = _BUSES.get(driver)
        if address and address == stopped:
            return True
        if not address and speaks is not None and suspect.cause.id in _OF_DRIVES and speaks.search(suspect.line):
            return True
    return False


def _address(text: str) -> str:
    found = _ADDRESS.search(text)
    return _whole(found[0]) if found is not None else ""


def _whole(address: str) -> str:
    return pci_address(address) or f"0000:{address}"
