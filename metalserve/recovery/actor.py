"""Who acts: a name for this process that no other has, and whether the process of such a name still runs."""

from __future__ import annotations

import getpass
import hashlib
import os
import re
import socket
from pathlib import Path

_ACTOR = re.compile(r".+@.+ pid (\d+) start (\d+)-([0-9a-f]{8})")


def this_actor() -> str:
    """Return `user@controller pid N start T` of this process; T makes it unique when the pid is used again."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a uid without a name, in a container
        user = f"uid{os.getuid()}"
    pid = os.getpid()
    return f"{user}@{socket.gethostname()} pid {pid} start {_started(pid) or 0}-{_machine()}"


def alive(actor: str) -> bool | None:
    """Tell whether the process of `actor` runs; `None` when it is of another machine or container."""
    found = _ACTOR.fullmatch(actor)
    if found is None or found[3] != _machine():
        return None
    return _started(int(found[1])) == int(found[2])


def _started(pid: int) -> int | None:
    """Return when a process started, in the kernel's ticks since the boot; `None` when there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name before it may hold spaces and brackets
    if not fields or fields[0] in "ZX":  # its parent has not asked yet, but it does nothing any more
        return None
    return int(fields[19])  # proc(5): starttime is field 22, state is field 3


def _machine() -> str:
    """Return what tells this machine, or container, from others in which the same pid is another process."""
    try:
        identity = Path("/etc/machine-id").read_text().strip()
    except OSError:
        identity = ""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return hashlib.sha256(f"{socket.gethostname()} {identity} {space}".encode()).hexdigest()[:8]


def person() -> str:
    """Return `user@controller` of who runs this: what marks and the breaker's closing are signed with."""
    return this_actor().partition(" pid ")[0]
