"""What `storage` wants of a host: pure. One NVMe drive, one file system, mounted by UUID."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from functools import partial
from typing import Any

from metalserve.desired.model import Action, Desired, Directory, File, NotYetKnown, Package, Unit, Watch
from metalserve.desired.node import Node
from metalserve.desired.observed import Observation
from metalserve.errors import MetalserveError
from metalserve.releases import Release
from metalserve.settings import HostSettings
from metalserve.verify.finding import Finding, Status
from roles.storage.drives import LABEL, PROBE, Drive, choose, parse_drives

NEARLY_FULL = 0.01
"""Part of the file system below which it is called nearly full (guessed: XFS slows down near its end)."""
TOOLS = {"xfs": "xfsprogs", "ext4": "e2fsprogs"}
OPTIONS = {
    "xfs": "noatime,logbsize=256k",
    "ext4": "noatime",
}
"""Reads must not cause writes; XFS gathers its log in the largest buffers, since models come as few, large files."""


def watch(settings: HostSettings, release: Release) -> Watch:
    """What an observation must look at for this role."""
    mount = settings.storage.mount
    quoted = shlex.quote(mount)
    commands = {
        "storage-mount": f"findmnt -J -o TARGET,SOURCE,FSTYPE,OPTIONS --target {quoted}",
        "storage-space": f"df -P -B1 {quoted} && if [ -w {quoted} ]; then echo writable; fi",
    }
    if settings.storage.device == "none":
        return Watch(paths=(mount,), commands=commands)
    return Watch(
        paths=(mount, unit_path(mount)),
        units=(unit_name(mount),),
        commands={**commands, "storage-drives": PROBE},
    )


def install(node: Node) -> Desired:
    """The tools that make and mend the file system."""
    if node.settings.storage.device == "none":
        return Desired()
    return Desired(packages=(Package(TOOLS[node.settings.storage.filesystem]),))


def format_drive(node: Node) -> Desired:
    """The file system, made on an empty drive and on no other.

    Raises:
        NotYetKnown: the tools that list drives are not installed yet.
        MetalserveError: no drive can be taken.
    """
    storage = node.settings.storage
    if storage.device == "none":
        return Desired()
    drive = chosen_drive(node)
    if drive.ours:
        return Desired()
    device = shlex.quote(drive.device)
    make = "mkfs.xfs -q" if storage.filesystem == "xfs" else "mkfs.ext4 -q -m 0"
    return Desired(
        actions=(
            Action(
                name=f"make {storage.filesystem} on {drive.device}",
                why=f"serial {drive.serial or 'unknown'}, empty",
                done=partial(_holds_ours, device=drive.device),
                # Asked again on the spot, and mkfs is never forced: the drive may have come into use since.
                script=(
                    f"rc=0; blkid -p {device} >/dev/null 2>&1 || rc=$?\n"
                    f'[ "$rc" -eq 2 ] || ms_fail "{drive.device} is no longer empty (blkid: $rc) -> look at it"\n'
                    f"{make} -L {LABEL} {device} </dev/null\n"
                    # Links by UUID come from udev; where none answers this waits for nothing.
                    "if command -v udevadm >/dev/null 2>&1; then udevadm settle --timeout=20 2>/dev/null || :; fi\n"
                    f"uuid=$(blkid -p -s UUID -o value {device})\n"
                    'for i in 1 2 3 4 5 6 7 8 9 10; do [ -e "/dev/disk/by-uuid/$uuid" ] && break; sleep 1; done\n'
                ),
            ),
        )
    )


def mount(node: Node) -> Desired:
    """The mount unit, by UUID, enabled at every boot.

    Raises:
        NotYetKnown: the file system does not exist yet.
        MetalserveError: something else is mounted there.
    """
    storage = node.settings.storage
    if storage.device == "none":
        return Desired(directories=(Directory(storage.mount),))
    drive = chosen_drive(node)
    if not drive.ours:
        raise NotYetKnown(f"mount unit of {storage.mount}: known only after {drive.device} has its file system")
    there = mounted_at(node.observed, storage.mount)
    if there and storage.mount not in drive.mounted:
        raise MetalserveError(
            f"{storage.mount} is already a mount of {there.get('source', 'something else')}",
            remedy="umount it and remove it from /etc/fstab, or set storage.device to 'none' to use it as it is",
        )
    name = unit_name(storage.mount)
    return Desired(
        files=(File(unit_path(storage.mount), _unit(storage.mount, drive.uuid, storage.filesystem)),),
        units=(Unit(name),),
    )


def chosen_drive(node: Node) -> Drive:
    """Return the drive for the models.

    Raises:
        NotYetKnown: the tools that list drives are not installed yet.
        MetalserveError: no drive can be taken.
    """
    hardware = node.hardware
    listing = node.observed.sections.get("nvme-list")
    if listing is not None and listing.rc == 127:
        raise NotYetKnown("drive of the models: known only after nvme-cli is there", remedy="run roles.base first")
    if "nvme-list" in hardware.unread:
        raise MetalserveError(
            "the NVMe drives cannot be listed, so none is touched",
            where="nvme list",
            remedy="run `nvme list -o json` on the host to see why",
        )
    probe = node.observed.text("storage-drives")
    return choose(parse_drives(probe, hardware.nvme), node.settings.storage)


def _holds_ours(observed: Observation, device: str) -> bool:
    return any(d.device == device and d.ours for d in parse_drives(observed.text("storage-drives"), ()))


def mounted_at(observed: Observation, target: str) -> dict[str, str]:
    """Return what is mounted exactly on `target` (target, source, fstype, options), or an empty mapping."""
    try:
        rows: list[dict[str, Any]] = json.loads(observed.text("storage-mount") or "{}").get("filesystems", [])
    except ValueError:
        return {}
    # findmnt --target answers with the file system that a path lies on: only an equal target is a mount of it.
    return {k: str(v) for k, v in rows[-1].items()} if rows and rows[-1].get("target") == target else {}


def space(observed: Observation) -> tuple[int, int] | None:
    """Return (size, free) in bytes of the file system that holds the models, or None when it could not be read."""
    lines = [line.split() for line in observed.text("storage-space").splitlines()]
    for words in lines[1:]:
        if len(words) >= 6 and words[1].isdigit() and words[3].isdigit():
            return int(words[1]), int(words[3])
    return None


def check(node: Node) -> Sequence[Finding]:
    """Prove that the models' file system is mounted, writable, and has the space that must stay free."""
    storage = node.settings.storage
    findings: list[Finding] = []
    if storage.device != "none":
        there = mounted_at(node.observed, storage.mount)
        findings.append(
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
    findings.append(
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
    return (*findings, _space_finding(node))


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
    return f"{storage.mount} ({kind}){free}"


def unit_name(path: str) -> str:
    """Return the name systemd demands for a mount of `path` (`/srv/models` -> `srv-models.mount`)."""
    escaped = "".join(
        "-"
        if c == "/"
        else c
        if (c.isalnum() and c.isascii()) or c in ":_."
        else "".join(f"\\x{b:02x}" for b in c.encode())
        for c in path.strip("/")
    )
    return f"{escaped}.mount"


def unit_path(path: str) -> str:
    """Return the path of that unit's file."""
    return f"/etc/systemd/system/{unit_name(path)}"


def _unit(path: str, uuid: str, filesystem: str) -> str:
    return (
        "# Written by metalserve (roles/storage); changes here are undone by its next run.\n"
        "[Unit]\n"
        "Description=Models served by vLLM\n"
        "\n"
        "[Mount]\n"
        # By UUID: names such as nvme0n1 change between boots.
        f"What=/dev/disk/by-uuid/{uuid}\n"
        f"Where={path}\n"
        f"Type={filesystem}\n"
        # nofail in effect: without a requirement of local-fs.target a dead drive does not stop the host from booting.
        f"Options={OPTIONS[filesystem]}\n"
        "TimeoutSec=60\n"
        "\n"
        "[Install]\n"
        "WantedBy=multi-user.target\n"
    )


__all__ = ["check", "format_drive", "in_words", "install", "mount", "watch"]
