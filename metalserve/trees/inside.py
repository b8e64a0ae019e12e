"""Running a program inside a tree: namespaces of its own, so that whatever is mounted or started ends with it.

Nothing is mounted in this machine's own view: a process that is killed, however it is killed, leaves no mount behind.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

MORTAL = ("setpriv", "--pdeathsig", "KILL")
"""Before a command: when the thread that started it dies, it dies too; what it has started itself does not."""

CONTAINED = (
    *MORTAL, "unshare", "--mount", "--propagation", "private", "--pid", "--fork",
    "--kill-child", "--mount-proc",
)  # fmt: skip
"""Before a command: when whoever started it dies, in whatever way, all that it started dies too, and its mounts go."""

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_BASIC = """\
set -eu
root=$1; shift
mount --rbind "$root" "$root"
cd "$root"
mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
"""

_DEVICES_OF_THE_MACHINE = 'mount --rbind /dev "$root/dev"\nmount --rbind /sys "$root/sys"\n'

_ENTER = 'exec chroot "$root" /usr/bin/env -i "$@"\n'


def command_inside(
    root: Path,
    command: Sequence[str | Path],
    *,
    binds: Mapping[Path, str] | None = None,
    environment: Mapping[str, str] | None = None,
    directory: str = "/",
) -> list[str]:
    """Return the command line that runs `command` inside the tree `root`, with this machine's devices and network.

    The process that it starts becomes the program itself: signals reach it, and its exit status is the program's.

    Args:
        root: the tree.
        command: the program, as the tree knows it, and its arguments.
        binds: directories or files of this machine -> where the tree is to have them (made when missing).
        environment: variables; PATH, HOME and LC_ALL have values of their own.
        directory: where it is run.
    """
    lines = [_BASIC, _DEVICES_OF_THE_MACHINE, 'mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"\n']
    for source, target in (binds or {}).items():
        lines.append(bind_line(source, target))
    lines.append(_ENTER)
    variables = {"PATH": PATH, "HOME": "/root", "LC_ALL": "C.UTF-8", **(environment or {})}
    words = [f"{key}={value}" for key, value in variables.items()]
    return [
        "unshare", "--mount", "--propagation", "private", "sh", "-c", "".join(lines), "inside", str(root),
        f"--chdir={directory}", *words, *map(str, command),
    ]  # fmt: skip


def bind_line(source: Path, target: str) -> str:
    """Return the shell line that binds `source` of this machine to `target` of `$root`, making the place for it."""
    here, there = shlex.quote(str(source)), shlex.quote(target.lstrip("/"))
    return (
        f'if [ -d {here} ]; then mkdir -p "$root"/{there}; else mkdir -p "$(dirname "$root"/{there})"; '
        f'[ -e "$root"/{there} ] || : >"$root"/{there}; fi\nmount --rbind {here} "$root"/{there}\n'
    )
