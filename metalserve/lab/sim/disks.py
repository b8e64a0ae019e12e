"""What udev does for NVMe drives on a host, and cannot do in a container: /dev/disk/by-id and by-uuid."""

from __future__ import annotations

import os

from .nvme import drives
from .state import Lab

BY_ID = "/dev/disk/by-id"
BY_UUID = "/dev/disk/by-uuid"
BY_LABEL = "/dev/disk/by-label"


def identity(device: str) -> tuple[str, str]:
    """UUID and label of the xfs or ext4 file system on a device; empty strings when there is none."""
    try:
        with open(device, "rb") as stream:
            head = stream.read(4096)
    except OSError:
        return "", ""
    if head[:4] == b"XFSB":  # xfs superblock: sb_uuid at 32, sb_fname at 108
        return _uuid(head[32:48]), _text(head[108:120])
    if head[0x438:0x43A] == b"\x53\xef":  # ext4 superblock at 1024: s_uuid at 0x68, s_volume_name at 0x78
        return _uuid(head[0x468:0x478]), _text(head[0x478:0x488])
    return "", ""


def _uuid(raw: bytes) -> str:
    digits = raw.hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode(errors="replace")


def sync(lab: Lab) -> None:
    """Make the links right; needs root. A machine with a udev of its own needs none."""
    if lab.only_gpus:
        return
    by_id: dict[str, str] = {}
    by_uuid: dict[str, str] = {}
    by_label: dict[str, str] = {}
    for number, drive in drives(lab):
        name = f"nvme{number}n1"
        words = f"{drive['model']} {drive.get('serial', '')}".strip().replace(" ", "_")
        by_id[f"nvme-{words}"] = by_id[f"nvme-{words}_1"] = name
        uuid, label = identity(f"/dev/{name}")
        if uuid:
            by_uuid[uuid] = name
        if label:
            by_label[label] = name
    for directory, wanted in ((BY_ID, by_id), (BY_UUID, by_uuid), (BY_LABEL, by_label)):
        _links(directory, wanted)


def _links(directory: str, wanted: dict[str, str]) -> None:
    if not wanted and not os.path.isdir(directory):
        return
    os.makedirs(directory, exist_ok=True)
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        if not os.path.islink(path) or "nvme" not in os.readlink(path):
            continue
        if name not in wanted or os.readlink(path) != f"../../{wanted[name]}":
            os.unlink(path)
    for name, target in wanted.items():
        path = os.path.join(directory, name)
        if not os.path.islink(path):
            os.symlink(f"../../{target}", path)
