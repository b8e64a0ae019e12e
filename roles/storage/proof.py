"""What proves that the models have their file system, and the report's line about it. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from metalserve.desired.node import Node
from metalserve.verify.finding import Finding, Status
from roles.storage import findings
from roles.storage.chosen import chosen
from roles.storage.fitness import link_of
from roles.storage.mounted import mounted_at, space, unit_name

NEARLY_FULL = 0.01
"""Part of the file system below which it is called nearly full (guessed: XFS slows down near its end)."""


def check(node: Node) -> Sequence[Finding]:
    """Prove that the models' file system is mounted, writable, and has the space that must stay free."""
    storage = node.settings.storage
    told: list[Finding] = []
    if storage.device != "none":
        there = mounted_at(node.observed, storage.mount)
        told.append(
            Finding(
                check="mounted",
                status="ok" if there.get("fstype") == storage.filesystem else "fail",
                subject=storage.mount,
                expected=f"a mount of {storage.filesystem}",
                observed=f"{there['source']} ({there['fstype']})" if there else "no mount",
                impact="models would fill the system's own file system",
                remedy=f"systemctl status {unit_name(storage.mount)}",
                source="findmnt",
            )
        )
    writable = "writable" in node.observed.text("storage-space").split()
    told.append(
        Finding(
            check="writable",
            status="ok" if writable else "fail",
            subject=storage.mount,
            expected="writable",
            observed="writable" if writable else "read-only or not there",
            impact="no model can be staged",
            remedy="look at the kernel log for errors of the drive: dmesg | grep -i nvme",
            source="test -w",
        )
    )
    if storage.device != "none" and not any(finding.failing for finding in told):
        told += findings.about(node, chosen(node))
    return (*told, _space_finding(node))


def _space_finding(node: Node) -> Finding:
    storage = node.settings.storage
    found = space(node.observed)
    free_gib = found[1] / 2**30 if found is not None else 0.0
    status: Status = "ok"
    if found is None:
        status = "unknown"
    elif free_gib < storage.min_free_gib:
        status = "fail"
    elif found[1] < found[0] * NEARLY_FULL:
        status = "warn"
    return Finding(
        check="free space",
        status=status,
        subject=storage.mount,
        expected=f"at least {storage.min_free_gib:g} GiB"
        if storage.min_free_gib
        else f"at least {NEARLY_FULL:.0%} of it free",
        observed=f"{free_gib:.1f} of {found[0] / 2**30:.1f} GiB free" if found is not None else "df could not tell",
        impact="staging the next model will fail",
        remedy="remove models that are no longer served, or lower storage.min_free_gib",
        source="df",
    )


def in_words(node: Node) -> str:
    """Return the proved line of the report: where the models lie and how much is free."""
    storage = node.settings.storage
    found = space(node.observed)
    free = f", {found[1] / 2**30:.1f} of {found[0] / 2**30:.1f} GiB free" if found is not None else ""
    kind = mounted_at(node.observed, storage.mount).get("fstype", "directory")
    return f"{storage.mount} ({kind}){free}{_drives_in_words(node)}"


def _drives_in_words(node: Node) -> str:
    if node.settings.storage.device == "none":
        return ""
    volume = chosen(node)
    links = {findings.link_words(link) for d in volume.drives if (link := link_of(d.device, node.hardware)) is not None}
    how = f", on RAID0 of {len(volume.drives)} drives" if volume.raid else f", on {volume.device}"
    return f"{how} ({'; '.join(sorted(links))})" if links else how
