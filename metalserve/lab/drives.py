"""NVMe drives of lab hosts: sparse files on the machine, attached by loop devices, seen by the host as /dev/nvmeXn1.

File systems on them are real. The size a drive says it has comes from the machine profile; the file behind it is
smaller.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from metalserve.lab.system import read_json, run

MAX_BYTES = 4 * 1024**3
"""Largest file behind a drive: enough for a file system with models of a few hundred megabytes, and quick to format."""

MIN_BYTES = 512 * 1024**2
"""mkfs.xfs refuses less than 300 MB."""


def wanted(simulation: Path) -> list[int]:
    """Return the sizes, in bytes, of the drives that the host's machine profile names.

    Reads `nvme` of `profile.json`: a list of drives with `size_gb` (10^9 bytes), or none.
    """
    profile: Any = read_json(simulation / "profile.json") or {}
    return [max(MIN_BYTES, min(MAX_BYTES, int(drive["size_gb"]) * 10**9)) for drive in profile.get("nvme") or []]


def attach(directory: Path, sizes: list[int]) -> list[tuple[str, str]]:
    """Make the drives' files and attach them.

    Args:
        directory: where the files are.
        sizes: one entry for each drive, bytes.

    Returns:
        Pairs of the machine's loop device and the device name in the host.
    """
    directory.mkdir(parents=True, exist_ok=True)
    pairs = []
    for number, size in enumerate(sizes):
        image = directory / f"nvme{number}n1.img"
        if not image.exists():
            with image.open("wb") as stream:
                stream.truncate(size)
        loop = attached(image) or run(["losetup", "--find", "--show", image]).stdout.strip()
        pairs.append((loop, f"/dev/nvme{number}n1"))
    return pairs


def attached(image: Path) -> str | None:
    """Return the loop device that has this file, `None` when there is none."""
    listing = run(["losetup", "--associated", image], check=False).stdout
    return listing.split(":", 1)[0] if listing.strip() else None


def detach_below(directory: Path) -> None:
    """Detach every loop device whose file lies below `directory`, also when the file has been removed."""
    below = f"{directory.resolve()}/"
    for line in run(["losetup", "--noheadings", "--output", "NAME,BACK-FILE"], check=False).stdout.splitlines():
        name, _, file = line.strip().partition(" ")
        if file.strip().startswith(below):
            run(["losetup", "--detach", name], check=False)
