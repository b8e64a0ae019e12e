"""Checks of storage: how many NVMe drives, whether their PCIe links are what the drives can do, and their health."""

from __future__ import annotations

from metalserve.hardware.node import NodeHardware, NvmeDrive, PcieLink
from metalserve.settings import ExpectSettings
from metalserve.verify.drives import check_drives
from metalserve.verify.expectation import links_expected
from metalserve.verify.finding import Finding

PCIE = "link capability against link status, as `lspci -vv` prints them (PCI Express base specification)"
_REMEDY = "reseat drive and cable, check the slot's speed setting in the firmware; replace the drive when it stays"


def check_storage(hardware: NodeHardware, expect: ExpectSettings) -> list[Finding]:
    """Check count, links and health of the NVMe drives, and RAID arrays."""
    findings = []
    if expect.nvme_count is not None:
        findings.append(_count(hardware, expect.nvme_count))
    ends = links_expected(hardware)
    by_address = {d.pci: d for d in hardware.nvme if d.pci}
    fastest: dict[str | None, int] = {}
    for link in hardware.nvme_links:
        model = _model(by_address.get(link.address))
        fastest[model] = max(fastest.get(model, 0), link.gen_current or 0)
    for link in hardware.nvme_links:
        drive = by_address.get(link.address)
        findings.append(_link(link, drive, fastest[_model(drive)], ends.get(link.address, (None, None))))
    return findings + check_drives(hardware)


def _model(drive: NvmeDrive | None) -> str | None:
    return drive.model if drive else None


def _count(hardware: NodeHardware, wanted: int) -> Finding:
    expected = f"{wanted} NVMe drive(s)"
    if "nvme-list" in hardware.unread and wanted:
        return Finding(
            "nvme-count",
            "unknown",
            "host",
            expected,
            "`nvme list` could not be read",
            "where models can be stored is not known",
            "install nvme-cli (role base does) and run `nvme list`",
            "inventory (nvme_count)",
        )
    found = len({d.serial or d.device for d in hardware.nvme})
    names = ", ".join(f"{d.device} {d.model}" for d in hardware.nvme) or "none"
    if found == wanted:
        return Finding("nvme-count", "ok", "host", expected, names, source="inventory (nvme_count)")
    return Finding(
        "nvme-count",
        "fail",
        "host",
        expected,
        f"{found}: {names}",
        "the host is not what was bought; a drive may be dead",
        "look at `lspci` and `dmesg | grep nvme`, reseat the drive, or correct the inventory",
        "inventory (nvme_count)",
    )


def _link(link: PcieLink, drive: NvmeDrive | None, fastest: int, ends: tuple[int | None, int | None]) -> Finding:
    subject = f"{drive.device} ({link.address})" if drive else f"NVMe {link.address}"
    expected = f"Gen{link.gen_max} x{link.width_max}"
    observed = f"Gen{link.gen_current} x{link.width_current}"
    evidence = f"{link.address}: speed and width now {observed}, at most {expected}"
    if None in (link.gen_current, link.gen_max, link.width_current, link.width_max):
        return Finding(
            "nvme-link", "unknown", subject, expected, observed, "its speed is not known", "read `lspci -vv`", PCIE
        )
    gen, top = link.gen_current or 0, link.gen_max or 0
    narrow = (link.width_current or 0) < (link.width_max or 0)
    if gen >= top and not narrow:
        return Finding("nvme-link", "ok", subject, expected, observed, source=PCIE, evidence=evidence)
    able, lanes = ends
    if able is not None and lanes is not None:
        # The slot's own ability is known: what both ends can do is expected, and less is a fault.
        fault = gen < able or (link.width_current or 0) < lanes or gen < fastest
        evidence += f"; drive and slot together can do Gen{able} x{lanes}"
    else:
        # One generation below is what a drive newer than its slot shows; two, or peers that do better, are a fault.
        fault = narrow or top - gen > 1 or gen < fastest
    share = (2.0 ** (gen - top)) * ((link.width_current or 0) / (link.width_max or 1))
    return Finding(
        "nvme-link",
        "fail" if fault else "warn",
        subject,
        expected,
        observed,
        f"models load at about {share:.0%} of the drive's speed",
        _REMEDY if fault else "no fault when the slot is older than the drive; else reseat it",
        PCIE,
        evidence,
    )
