"""Checks of drives beyond their own link: the bridges above them, SMART, errors in the kernel log, RAID arrays."""

from __future__ import annotations

from collections.abc import Iterator

from metalserve.catalogue.loader import threshold
from metalserve.hardware.machine import DriveHealth
from metalserve.hardware.node import NodeHardware
from metalserve.verify.finding import Finding, Status
from metalserve.verify.paths import by_address, path
from metalserve.verify.pcie import SYSFS

NVME = "NVM Express base specification, SMART / health information log"
_LOG = "kernel log of this boot"
_WARNINGS = {
    0x01: "spare blocks are below the drive's threshold",
    0x02: "too hot or too cold",
    0x04: "reliability is degraded",
    0x08: "the drive is read-only",
    0x10: "its memory backup failed",
    0x20: "its persistent memory is read-only",
}
"""Bits of `critical_warning` (NVM Express base specification)."""
FATAL_WARNINGS = 0x04 | 0x08 | 0x20
"""Those with which a drive must not hold models."""


def check_drives(hardware: NodeHardware) -> list[Finding]:
    """Check bridges above NVMe drives, their SMART logs and kernel messages, and software RAID."""
    findings = list(_paths(hardware))
    for health in hardware.drive_health:
        findings += _health(health)
    findings += _troubles(hardware)
    if hardware.host is not None and not hardware.host.container:  # a container sees the arrays of the machine beneath
        findings += _raid(hardware)
    return findings


def warning_words(warning: int) -> list[str]:
    """Return what the bits of `critical_warning` say, in words."""
    return [text for bit, text in _WARNINGS.items() if warning & bit]


def _paths(hardware: NodeHardware) -> Iterator[Finding]:
    nodes = by_address(hardware.pcie_tree)
    names = {d.pci: d.device for d in hardware.nvme if d.pci}
    for node in hardware.pcie_tree:
        above = path(nodes, node.address)[1:] if node.kind == "nvme" else []
        bad = [link for link in above if link.narrow or link.slow]
        if not above:
            continue
        told = "; ".join(map(str, bad or above))
        yield Finding(
            "nvme-path",
            "warn" if bad else "ok",
            f"{names.get(node.address, 'NVMe')} ({node.address})",
            "every link above the drive as wide and fast as its two ends can do",
            told,
            "drives below this bridge share what is left of the bandwidth: models load more slowly" if bad else "",
            "reboot; reseat backplane, cables and the board that carries the bridge" if bad else "",
            SYSFS,
            told,
        )


def _health(health: DriveHealth) -> Iterator[Finding]:
    wanted = "no critical warning, endurance left"
    if health.critical_warning is None and health.percent_used is None:
        yield Finding(
            "nvme-health",
            "inconclusive",
            health.controller,
            wanted,
            "its SMART log could not be read",
            "how much life it has left is not known",
            f"run `nvme smart-log {health.controller}` as root",
            NVME,
        )
        return
    limit = threshold("drive-wear")
    warning = health.critical_warning or 0
    words = warning_words(warning)
    worn = health.percent_used is not None and health.percent_used >= limit.value
    if worn:
        words.append(f"{health.percent_used} % of its endurance is used")
    if health.media_errors:
        words.append(f"{health.media_errors} media error(s)")
    fatal = bool(warning & FATAL_WARNINGS)
    status: Status = "fail" if fatal else "warn" if words else "ok"
    observed = "; ".join(words) or f"{health.percent_used} % of its endurance used, {health.spare} % spare"
    yield Finding(
        "nvme-health",
        status,
        health.controller,
        wanted,
        observed,
        "" if not words else "models on it cannot be written anew" if fatal else "the drive may fail, or lose data",
        "" if not words else "replace the drive" if fatal or worn else "watch it, and plan its replacement",
        NVME,
        f"critical_warning {health.critical_warning}, percent_used {health.percent_used}, avail_spare {health.spare}, "
        f"spare_thresh {health.spare_threshold}, media_errors {health.media_errors}",
        limit if worn else None,
    )


def _troubles(hardware: NodeHardware) -> Iterator[Finding]:
    wanted = "no timeout, reset or error of a drive in the kernel log of this boot"
    for name, lines in hardware.drive_troubles.items():
        yield Finding(
            "nvme-log",
            "warn",
            f"/dev/{name}",
            wanted,
            f"{len(lines)} line(s), last: {lines[-1][:160]}",
            "reads stall: models load slowly, or not at all",
            "look at `nvme smart-log` and the drive's firmware; reseat it; replace it when it repeats",
            _LOG,
            lines[-1],
        )
    if not hardware.drive_troubles and hardware.nvme_links and "kernel-log" not in hardware.unread:
        yield Finding("nvme-log", "ok", "host", wanted, "none", source=_LOG)


def _raid(hardware: NodeHardware) -> Iterator[Finding]:
    for array in hardware.raid:
        short = array.wanted is not None and array.working is not None and array.working < array.wanted
        dead = array.level == "inactive"
        yield Finding(
            "raid",
            "warn" if short or dead else "ok",
            f"/dev/{array.name}",
            "an active array with all its members",
            "inactive" if dead else f"{array.level}, {array.working} of {array.wanted} members work",
            "the next drive that fails takes the data along"
            if short
            else "what is on it cannot be read"
            if dead
            else "",
            "look at `mdadm --detail`, replace the drive and add it again" if short or dead else "",
            "/proc/mdstat",
            array.evidence,
        )
