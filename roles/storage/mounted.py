"""The mount of the models: its systemd unit, and what is seen of it. Pure."""

from __future__ import annotations

import json
from typing import Any

from metalserve.desired.observed import Observation

OPTIONS = {
    "xfs": "noatime,logbsize=256k",
    "ext4": "noatime",
}
"""Reads must not cause writes; XFS gathers its log in the largest buffers, since models come as few, large files. No
`discard`: a model that is deleted would be discarded at once, while engines read; the weekly timer does it."""


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


def unit_text(path: str, uuid: str, filesystem: str) -> str:
    """Return the unit that mounts the file system with this UUID."""
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
