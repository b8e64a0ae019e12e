"""A directory whose files are reached without ever following a link out of it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from .errors import AgentError

SEALED_FILE, SEALED_DIRECTORY, OPEN_DIRECTORY = 0o444, 0o555, 0o755
"""Modes: what is published is read-only, what is being filled is not."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def refuse_escape(path: str) -> None:
    """Refuse a name that is not a plain path inside the directory.

    Raises:
        AgentError: it is absolute, has `..`, or characters that no file of a model has.
    """
    parts = path.split("/")
    if not path or len(path) > 1024 or any(part in ("", ".", "..") for part in parts):
        raise AgentError("refused, the name leads out of the model's directory", "mend the manifest", where=repr(path))
    if not path.isprintable() or "\\" in path:
        raise AgentError("refused, the name has characters that none should", "mend the manifest", where=repr(path))
    if any(part.startswith(".metalserve-") for part in parts):
        raise AgentError("refused, names like this are metalserve's own", "mend the manifest", where=repr(path))


class Tree:
    """An open directory.

    Raises:
        OSError: it does not exist, or is a link.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = os.open(path, _DIRECTORY)

    def __enter__(self) -> Tree:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    @contextmanager
    def parent(self, path: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """Give the open directory that holds `path`, and the last part of its name; links on the way are errors."""
        *parts, name = path.split("/")
        here = self.fd
        opened = -1
        try:
            for part in parts:
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(part, OPEN_DIRECTORY, dir_fd=here)
                below = os.open(part, _DIRECTORY, dir_fd=here)
                if opened >= 0:
                    os.close(opened)
                here = opened = below
            yield here, name
        finally:
            if opened >= 0:
                os.close(opened)

    def open(self, path: str, flags: int = os.O_RDONLY, *, make: bool = False) -> int:
        """Open a plain file below the directory and return its descriptor.

        Raises:
            OSError: it does not exist, is no plain file, or something on the way is a link.
        """
        with self.parent(path, make=make) as (directory, name):
            # not blocking: a pipe of that name would wait for ever
            wanted = flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
            descriptor = os.open(name, wanted, 0o644, dir_fd=directory)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "is not a plain file", path)
        return descriptor

    def stat(self, path: str) -> os.stat_result | None:
        """Return what is there, links not followed, or None."""
        try:
            with self.parent(path) as (directory, name):
                return os.stat(name, dir_fd=directory, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno == errno.ELOOP:
                return None
            raise

    def unlink(self, path: str) -> None:
        """Remove one name that is not a directory."""
        with self.parent(path) as (directory, name):
            os.unlink(name, dir_fd=directory)

    def entries(self) -> list[tuple[str, os.stat_result]]:
        """Return everything below, directories before what is in them, with what `lstat` says."""
        found: list[tuple[str, os.stat_result]] = []
        self._walk(self.fd, "", found)
        return found

    def _walk(self, directory: int, prefix: str, found: list[tuple[str, os.stat_result]]) -> None:
        with os.scandir(directory) as entries:
            names = [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
        for name, state in sorted(names, key=lambda each: each[0]):
            found.append((prefix + name, state))
            if stat.S_ISDIR(state.st_mode):
                below = os.open(name, _DIRECTORY, dir_fd=directory)
                try:
                    self._walk(below, f"{prefix}{name}/", found)
                finally:
                    os.close(below)

    def directories(self) -> list[str]:
        """Return the directories below, deepest first."""
        return [path for path, state in reversed(self.entries()) if stat.S_ISDIR(state.st_mode)]

    def sync_directory(self, path: str = "") -> None:
        """Bring the names in a directory to the drive."""
        if not path:
            os.fsync(self.fd)
            return
        with self.parent(path + "/.") as (directory, _):
            os.fsync(directory)


def remove_tree(path: str) -> None:
    """Remove a directory and all below it, read-only ones too, links not followed. Nothing there is fine."""
    try:
        with Tree(path) as tree:
            os.fchmod(tree.fd, OPEN_DIRECTORY)
            below = tree.entries()
            for name, state in below:
                if stat.S_ISDIR(state.st_mode):
                    with tree.parent(name) as (directory, last):
                        os.chmod(last, OPEN_DIRECTORY, dir_fd=directory)
            for name, state in reversed(below):
                with tree.parent(name) as (directory, last):
                    if stat.S_ISDIR(state.st_mode):
                        os.rmdir(last, dir_fd=directory)
                    else:
                        os.unlink(last, dir_fd=directory)
    except FileNotFoundError:
        return
    os.rmdir(path)
