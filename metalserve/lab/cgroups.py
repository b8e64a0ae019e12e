"""A control group for each host, on a machine without systemd: hosts that shared one would tear at each other's.

systemd-nspawn puts a host below the group that it was started in. Each host's systemd removes groups that are empty,
by names that every other host uses too: a service then fails with "219/CGROUP", or is ended by a stranger.
On a machine with systemd, systemd gives each host a scope of its own.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


def hierarchies(root: Path = ROOT) -> list[Path]:
    """Return the directories in which a host's processes are grouped: of the one tree, or of systemd's own two."""
    if (root / "cgroup.controllers").exists():
        return [root]
    return [path for path in (root / "systemd", root / "unified") if path.is_dir()]


def enter(name: str, root: Path = ROOT) -> None:
    """Put this process into the group `name`, making it when it is missing; called between fork and exec.

    Raises:
        OSError: the group cannot be made or entered.
    """
    for hierarchy in hierarchies(root):
        group = hierarchy / name
        with contextlib.suppress(FileExistsError):
            group.mkdir()
        if hierarchy == root:
            # what the host's own systemd and Docker need, as far as this kernel has it and its parent passes it on
            for controller in ("cpu", "cpuset", "io", "memory", "pids"):
                with contextlib.suppress(OSError):
                    (hierarchy / "cgroup.subtree_control").write_text(f"+{controller}")
        (group / "cgroup.procs").write_text(str(os.getpid()))


def remove(name: str, root: Path = ROOT) -> bool:
    """Remove the group `name` and those below it; False when something still runs in one of them."""
    gone = True
    for hierarchy in hierarchies(root):
        group = hierarchy / name
        for directory, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(directory)
        gone = gone and not group.exists()
    return gone
