"""The machine under the lab: the tools and kernel features that it needs, and the lab's lock."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from metalserve.errors import MetalserveError
from metalserve.trees.system import (
    PACKAGE_OF,
    ProcessId,
    children,
    held,
    mounts_below,
    read_json,
    run,
    unmount_below,
    write_json,
    write_text,
)

__all__ = [
    "MODULES", "ProcessId", "check_machine", "children", "exclusive", "load_modules", "managed_by_systemd",
    "mounts_below", "read_json", "run", "unmount_below", "write_json", "write_text",
]  # fmt: skip

# Kernel features the hosts use; loaded here because hosts may not load modules. Built-in ones make modprobe fail
# or do nothing: what is really missing shows up when it is used.
MODULES = ("overlay", "loop", "veth", "bridge", "xfs", "ip_tables", "iptable_nat", "nf_tables")


def check_machine() -> None:
    """Refuse a machine or user the lab cannot run on.

    Raises:
        MetalserveError: not root, or programs missing (all are named, with the packages to install).
    """
    if os.geteuid() != 0:
        raise MetalserveError(
            "the lab needs root (it mounts file systems and starts machines)",
            where="metalserve lab",
            remedy="run it with sudo",
        )
    missing = sorted(tool for tool in PACKAGE_OF if shutil.which(tool) is None)
    if missing:
        packages = " ".join(sorted({PACKAGE_OF[tool] for tool in missing}))
        raise MetalserveError(
            f"programs missing: {', '.join(missing)}", where="metalserve lab", remedy=f"apt-get install {packages}"
        )


def load_modules() -> None:
    """Load what the hosts need of the kernel, as far as it comes in modules."""
    if shutil.which("modprobe"):
        for module in MODULES:
            run(["modprobe", "-q", module], check=False)


def managed_by_systemd() -> bool:
    """Tell whether systemd runs this machine (then systemd-nspawn asks it for a scope of its own)."""
    return Path("/run/systemd/system").is_dir()


@contextmanager
def exclusive(path: Path, what: str) -> Iterator[None]:
    """Hold the lab's lock (its file is not in the lab's directory, which `down` removes while it holds the lock).

    Raises:
        MetalserveError: another `metalserve lab` holds it; it is named.
    """
    with held(path, f"metalserve lab {what}", thing="the lab", where="metalserve lab"):
        yield
