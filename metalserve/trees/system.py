"""The machine that we work on: running programs, knowing our own processes again, locks, whole files, mounts."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metalserve.errors import MetalserveError

PACKAGE_OF = {
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


def run(
    command: Sequence[str | Path], *, check: bool = True, where: str | None = None, **keywords: Any
) -> subprocess.CompletedProcess[str]:
    """Run a program and return what it printed.

    Args:
        command: the program and its arguments.
        check: raise when it fails.
        where: what it is about, for the message.
        keywords: for `subprocess.run`.

    Raises:
        MetalserveError: it is missing, or failed and `check` is set; the message has its last words.
    """
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False, **keywords)
    except FileNotFoundError as error:
        raise MetalserveError(
            f"{words[0]} is not installed", where=where, remedy=f"apt-get install {PACKAGE_OF.get(words[0], words[0])}"
        ) from error
    if check and done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
        raise MetalserveError(f"`{' '.join(words)}` failed ({done.returncode}): {said[-1]}", where=where)
    return done


@contextmanager
def held(path: Path, what: str, *, thing: str, where: str) -> Iterator[None]:
    """Hold a lock, or refuse at once and name who holds it.

    Args:
        path: the lock's file; not in a directory that is removed while it is held.
        what: the command, for whoever finds the lock held.
        thing: what the lock is for ("the lab").
        where: for the message.

    Raises:
        MetalserveError: another process holds it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
            raise MetalserveError(
                f"{thing} is held by {holder}", where=where, remedy="wait until it is done"
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"`{what}` (pid {os.getpid()})".encode(), 0)
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


def mount_overlay(target: Path, *, lower: Iterable[Path], upper: Path, work: Path) -> None:
    """Mount a copy-on-write view: `lower` are read-only, the first one on top."""
    below = ":".join(str(path).replace(":", "\\:") for path in lower)
    run(["mount", "-t", "overlay", "overlay", "-o", f"lowerdir={below},upperdir={upper},workdir={work}", target])


def tree_digest(paths: Iterable[Path], extra: str = "") -> str:
    """Return a digest over names and contents of files and trees (missing ones count as empty)."""
    digest = hashlib.sha256(extra.encode())
    for path in paths:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts:
                mode = os.stat(file).st_mode & 0o111
                digest.update(f"{file.relative_to(path.parent)} {mode}\n".encode())
                digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def read_text_tail(path: Path, size: int = 64 << 10) -> str:
    """Return the last `size` bytes of a text file, "" when there is none."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - size))
            return stream.read().decode(errors="replace")
    except OSError:
        return ""


_NO_ROOM = "No space left on device"
_LEAST = 8 << 20
"""Bytes free; a program that found less may have had no room to say why it failed, its log being on the same disk."""
_FULL = re.compile(rf"{_NO_ROOM}|\[Errno 28\]|\bENOSPC\b")


def blame_room(directory: Path, what: str, said: str) -> None:
    """Return when what has just failed did not fail for want of room: it neither said so, nor is next to nothing free.

    Args:
        directory: on the disk that it wrote to; what it left must still be there.
        what: that failed.
        said: its words, as far as they were written.

    Raises:
        MetalserveError: it did.
    """
    if _FULL.search(said) or shutil.disk_usage(directory).free < _LEAST:
        raise MetalserveError(
            f"{what} failed: {_NO_ROOM}", where=str(directory), remedy="make room there, and try again"
        )
