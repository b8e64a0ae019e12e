"""The store on the host: where one revision of a model lies, and who may change it.

    MOUNT/ORGANISATION--NAME/REVISION/             published: every byte hashed, read-only, never written again
    MOUNT/ORGANISATION--NAME/.partial-REVISION/    being filled; a published one that changed becomes this again
    MOUNT/ORGANISATION--NAME/.deleting-*           being removed by `gc`
    MOUNT/ORGANISATION--NAME/.twin-*               a copy of a file of a withdrawn directory, while it is made
    MOUNT/ORGANISATION--NAME/.damaged-REVISION     wrong bytes were found in the published one: nobody may serve it
    MOUNT/ORGANISATION--NAME/.checked-REVISION     when all bytes were last hashed, and what came of it
    MOUNT/ORGANISATION--NAME/.lock                 held by whoever changes any of these

An engine may have files of a published directory open or mapped. Nothing is ever written into such a file: a
directory that changed is withdrawn by a rename, and a file of it that must be mended is copied first.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import AgentError
from .progress import write_whole
from .tree import OPEN_DIRECTORY, SEALED_FILE, Tree, remove_tree

MARKER = ".metalserve-manifest"
HINTS = ".metalserve-digests"
"""What the marker is called in a partial directory: it then only tells which piece of a file is worth keeping."""

_WAIT_S = 4 * 3600.0
_POLL_S = 0.2


class Store:
    """One revision of one model on this host.

    Args:
        directory: of the model, MOUNT/ORGANISATION--NAME.
        revision: commit.
    """

    def __init__(self, directory: str, revision: str) -> None:
        self.directory = directory
        self.revision = revision
        self.mount = os.path.dirname(directory)
        self.published = f"{directory}/{revision}"
        self.partial = f"{directory}/.partial-{revision}"
        self.damaged = Path(f"{directory}/.damaged-{revision}")
        self.checked = Path(f"{directory}/.checked-{revision}")

    def is_published(self) -> bool:
        """Tell whether there is a published directory (whether it is intact is another question)."""
        return os.path.isdir(self.published) and not os.path.islink(self.published)

    def make(self) -> None:
        """Make the model's directory.

        Raises:
            AgentError: it cannot be made.
        """
        try:
            os.makedirs(self.directory, mode=0o755, exist_ok=True)
        except OSError as error:
            raise AgentError(
                f"cannot be made: {error.strerror}",
                "see whether the drive is mounted and writable",
                where=self.directory,
            ) from error

    def damage(self) -> dict[str, str]:
        """Return the files of the published directory that are known to be wrong, with what is wrong."""
        try:
            text = self.damaged.read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        except OSError as error:
            return {"": f"{self.damaged}: {error.strerror}"}
        try:
            return {str(path): str(what) for path, what in json.loads(text)["files"].items()} or {
                "": "marked as damaged"
            }
        except (ValueError, KeyError, AttributeError, TypeError):
            return {"": "marked as damaged"}

    def mark_damaged(self, files: dict[str, str]) -> None:
        """Write down that the published directory has wrong bytes; until it is mended every check refuses it."""
        write_whole(self.damaged, json.dumps({"found_at": int(time.time()), "files": files}, indent=1))

    def last_check(self) -> dict[str, Any] | None:
        """Return when all bytes were last hashed and what came of it, or None."""
        try:
            data = json.loads(self.checked.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return data if isinstance(data, dict) else None

    def withdraw(self) -> None:
        """Make the published directory partial again, in one rename; its marker stays in it as a hint."""
        remove_tree(self.partial)
        with Tree(self.published) as tree:
            # so that nobody who fills a partial directory takes them for files it may write into
            for path, state in tree.entries():
                if stat.S_ISREG(state.st_mode):
                    with tree.parent(path) as (directory, name):
                        os.chmod(name, SEALED_FILE, dir_fd=directory)
        os.rename(self.published, self.partial)
        self.sync()

    def publish(self) -> None:
        """Make the partial directory the published one. Its files, marker and directories are on the drive already."""
        os.rename(self.partial, self.published)
        self.sync()
        for gone in (self.damaged, self.checked):
            gone.unlink(missing_ok=True)

    def sync(self) -> None:
        """Bring the names in the model's directory to the drive."""
        with Tree(self.directory) as tree:
            tree.sync_directory()

    def open_partial(self, wanted: Iterable[str], say: Callable[[str], None]) -> Tree:
        """Open the partial directory, with nothing in it but what the model may have.

        Engines load whatever has the right suffix, so that strays, links and special files are removed.
        """
        names = set(wanted)
        if os.path.islink(self.partial) or (os.path.exists(self.partial) and not os.path.isdir(self.partial)):
            os.unlink(self.partial)
        os.makedirs(self.partial, mode=0o755, exist_ok=True)
        for leftover in os.listdir(self.directory):
            if leftover.startswith(".twin-"):
                os.unlink(f"{self.directory}/{leftover}")
        tree = Tree(self.partial)
        try:
            os.fchmod(tree.fd, OPEN_DIRECTORY)
            if tree.stat(MARKER) is not None:
                os.replace(MARKER, HINTS, src_dir_fd=tree.fd, dst_dir_fd=tree.fd)
            self._tidy(tree, names, say)
        except BaseException:
            os.close(tree.fd)
            raise
        return tree

    def _tidy(self, tree: Tree, names: set[str], say: Callable[[str], None]) -> None:
        above = {"/".join(parts[:n]) for parts in (name.split("/") for name in names) for n in range(1, len(parts))}
        entries = tree.entries()
        present = {path for path, _ in entries}
        for path, state in entries:
            if stat.S_ISDIR(state.st_mode):
                with tree.parent(path) as (directory, name):
                    os.chmod(name, OPEN_DIRECTORY, dir_fd=directory)
            elif path == HINTS or (path in names and stat.S_ISREG(state.st_mode)):
                continue
            elif path.endswith(".ms-part") and path[:-8] in names - present and stat.S_ISREG(state.st_mode):
                # what earlier versions called a file that is not whole
                with tree.parent(path) as (directory, name):
                    os.rename(name, name[:-8], src_dir_fd=directory, dst_dir_fd=directory)
            else:
                say(f"{path}: not in the manifest; removed")
                tree.unlink(path)
        for path in tree.directories():
            if path not in above:
                with tree.parent(path) as (directory, name):
                    os.rmdir(name, dir_fd=directory)

    @contextmanager
    def lock(
        self, purpose: str, *, shared: bool = False, wait: bool = True, waiting: Callable[[str], None] | None = None
    ) -> Iterator[None]:
        """Hold the model's lock.

        Args:
            purpose: what for; others that wait are told.
            shared: several may hold it at once, none of whom changes anything.
            wait: wait for it, MS_WAIT seconds at most (4 h).
            waiting: called with a line when another holds it, and then until it is free about five times a second
                with an empty one; it may raise.

        Raises:
            AgentError: another still holds it.
        """
        path = f"{self.directory}/.lock"
        until = time.monotonic() + float(os.environ.get("MS_WAIT", _WAIT_S))
        told = False
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            try:
                fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
                if _is_at(descriptor, path):  # gc removes the lock of a model that is no longer there
                    break
                os.close(descriptor)
                continue
            except BlockingIOError:
                holder = _holder(descriptor)
                os.close(descriptor)
            except BaseException:
                os.close(descriptor)
                raise
            if not wait or time.monotonic() >= until:
                raise AgentError(
                    f"another run {holder} works on this model",
                    f"see what it does: fuser -v {path}",
                    where=self.directory,
                )
            if waiting is not None:
                waiting("" if told else f"another run {holder} works on this model; waiting for it")
            told = True
            time.sleep(_POLL_S)
        try:
            if not shared:
                _write_holder(descriptor, purpose)
            yield
        finally:
            os.close(descriptor)


def _is_at(descriptor: int, path: str) -> bool:
    try:
        at, held = os.stat(path), os.fstat(descriptor)
    except FileNotFoundError:
        return False
    return (at.st_dev, at.st_ino) == (held.st_dev, held.st_ino)


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _write_holder(descriptor: int, purpose: str) -> None:
    # Age by the time since boot: the wall clock may be wrong, or set while the run lasts.
    data = {"pid": os.getpid(), "purpose": purpose, "boot": _boot(), "at": time.clock_gettime(time.CLOCK_BOOTTIME)}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(data).encode(), 0)


def _holder(descriptor: int) -> str:
    try:
        data = json.loads(os.pread(descriptor, 4096, 0))
        if data["boot"] != _boot():
            return ""
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - float(data["at"])
        return f"({data['purpose']}, pid {int(data['pid'])}, for {age:.0f} s)"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def free_bytes(directory: str) -> int:
    """Return the bytes that may still be written below `directory`."""
    state = os.statvfs(directory)
    return state.f_bavail * state.f_frsize
