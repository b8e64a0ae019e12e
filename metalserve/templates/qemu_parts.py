"""What a machine in QEMU is given: a drive that begins as an image, the seed that cloud-init reads, a free port."""

from __future__ import annotations

import socket
from pathlib import Path

from metalserve.templates.qemu import INSIDE
from metalserve.templates.toolroot import ToolRoot


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def overlay(tools: ToolRoot, base: Path, target: Path, size_bytes: int) -> None:
    """Make a drive that begins as a copy of `base` (qcow2) and holds only what is changed.

    Raises:
        MetalserveError: qemu-img failed.
    """
    tools.run(
        [
            "qemu-img",
            "create",
            "-q",
            "-f",
            "qcow2",
            "-F",
            "qcow2",
            "-b",
            base,
            f"{INSIDE}/{target.name}",
            str(size_bytes),
        ],
        binds={target.parent: INSIDE, base.parent: str(base.parent)},
    )


def seed(tools: ToolRoot, directory: Path, *, user_data: str, meta_data: str, name: str = "seed.img") -> str:
    """Make the disk that cloud-init's NoCloud source reads, and return its name in `directory`.

    Args:
        tools: has mtools.
        directory: the machine's directory.
        user_data: as cloud-init wants it, beginning with `#cloud-config`.
        meta_data: instance-id and local-hostname.
        name: its file.
    """
    (directory / "user-data").write_text(user_data)
    (directory / "meta-data").write_text(meta_data)
    script = (
        f"set -e; cd {INSIDE}; truncate -s 1M {name}; mkfs.vfat -n CIDATA {name} >/dev/null; "
        f"mcopy -o -i {name} user-data meta-data ::"
    )
    tools.run(["sh", "-c", script], binds={directory: INSIDE})
    return name
