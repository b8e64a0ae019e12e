"""The machine under the lab: running programs, knowing our own processes again, required tools, the lock."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metalserve.errors import MetalserveError

TOOLS = {
    "systemd-nspawn": "systemd-container",
    "mmdebstrap": "mmdebstrap",
    "ip": "iproute2",
    "losetup": "mount",
    "nsenter": "util-linux",
    "mkfs.xfs": "xfsprogs",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "apt-ftparchive": "apt-utils",
    "dpkg-deb": "dpkg",
    "gpg": "gnupg",
}
"""Program -> the Debian and Ubuntu package that has it."""

# Kernel features the hosts use; loaded here because hosts may not load modules. Built-in ones make modprobe fail
# or do nothing: what is really missing shows up when it is used.
MODULES = ("overlay", "loop", "veth", "bridge", "xfs", "ip_tables", "iptable_nat", "nf_tables")


@dataclass(frozen=True)
class ProcessId:
    """A process that we started: the pid alone may since belong to another."""

    pid: int
    start_time: int

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """Return the identity of a running process, `None` when there is none (a zombie counts as none)."""
        try:
            # the command's name, in brackets, may hold spaces: count the fields after it
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        except (OSError, IndexError):
            return None
        return None if fields[0] in "ZX" else cls(pid, int(fields[19]))

    def alive(self) -> bool:
        """Tell whether this very process still runs."""
        return ProcessId.of(self.pid) == self

    def send(self, number: int) -> bool:
        """Send a signal to this very process; False when it is gone."""
        if not self.alive():
            return False
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True

    def end(self, *, grace_s: float = 5.0, first: int = signal.SIGTERM) -> None:
        """End the process: `first`, then SIGKILL after `grace_s` seconds."""
        if self.send(first) and not self.wait(grace_s):
            self.send(signal.SIGKILL)
            self.wait(5.0)

    def wait(self, timeout_s: float) -> bool:
        """Wait until the process has gone; False when it is still there after `timeout_s` seconds."""
        deadline = time.monotonic() + timeout_s
        while self.alive():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True


def children(pid: int) -> list[int]:
    """Return the process ids of the direct children of a process."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except (OSError, IndexError):
            continue
        if int(fields[1]) == pid:
            found.append(int(path.parent.name))
    return found


def run(command: Sequence[str | Path], *, check: bool = True, **keywords: Any) -> subprocess.CompletedProcess[str]:
    """Run a program and return what it printed.

    Raises:
        MetalserveError: it is missing, or failed and `check` is set; the message has its last words.
    """
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False, **keywords)
    except FileNotFoundError as error:
        raise MetalserveError(
            f"{words[0]} is not installed", where="lab", remedy=f"apt-get install {TOOLS.get(words[0], words[0])}"
        ) from error
    if check and done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
        raise MetalserveError(f"`{' '.join(words)}` failed ({done.returncode}): {said[-1]}", where="lab")
    return done


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
    missing = sorted(tool for tool in TOOLS if shutil.which(tool) is None)
    if missing:
        packages = " ".join(sorted({TOOLS[tool] for tool in missing}))
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
    """Hold the lab's lock.

    Args:
        path: the lock's file; not in the lab's directory, which `down` removes while it holds the lock.
        what: the command, for whoever finds the lock held.

    Raises:
        MetalserveError: another `metalserve lab` holds it; it is named.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
            raise MetalserveError(
                f"the lab is held by {holder}", where="metalserve lab", remedy="wait until it is done"
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"`metalserve lab {what}` (pid {os.getpid()})".encode(), 0)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file atomically: temporary name, fsync, rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    with temporary.open("w") as stream:
        os.fchmod(stream.fileno(), mode)
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def write_json(path: Path, value: object) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def read_json(path: Path) -> Any:
    """Return a JSON file's value, `None` when it is missing or not JSON (a crash may have cut it)."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def mounts_below(directory: Path) -> list[Path]:
    """Return the mount points at or below `directory`, deepest first."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = Path(line.split()[4].encode().decode("unicode_escape"))
        if point == directory or directory in point.parents:
            found.append(point)
    return sorted(found, key=lambda path: len(path.parts), reverse=True)


def unmount_below(directory: Path) -> None:
    """Unmount everything at or below `directory`."""
    for point in mounts_below(directory.resolve()):
        if run(["umount", point], check=False).returncode != 0:
            run(["umount", "--lazy", point], check=False)
