"""A directory on this machine."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from metalserve.weights.manifest import ManifestError
from metalserve.weights.sources.origin import Found, Listing, Stream


class DirectoryOrigin:
    """The files under a directory.

    A link is followed to its file, since download caches link to blobs; a link to a directory is refused.
    Hidden directories (`.cache`, `.git`) are what tools leave there, and are not looked into.

    Args:
        path: the directory.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._root = Path(path).expanduser()

    def listing(self) -> Listing:
        """Walk the directory."""
        if not self._root.is_dir():
            raise ManifestError("is not a directory", where=self._path)
        files: list[Found] = []
        for directory, directories, names in os.walk(self._root, onerror=_unreadable):
            for name in directories:
                if (Path(directory) / name).is_symlink():
                    where = f"{self._path}/{name}"
                    raise ManifestError("is a link to a directory, which a manifest cannot describe", where=where)
            directories[:] = sorted(name for name in directories if not name.startswith("."))
            for name in sorted(names):
                if not name.startswith("."):
                    path = Path(directory) / name
                    files.append(Found(path.relative_to(self._root).as_posix(), self._size(path)))
        if not files:
            raise ManifestError("holds no files", where=self._path)
        return Listing(files, self._path)

    def settled(self, found: Found) -> Found:
        """Return the file as it is: only its bytes tell more."""
        return found

    def open(self, found: Found) -> Stream:
        """Open a file; that it changes while it is read is found at its end."""
        return _Unchanged(self._root / found.path)

    def _size(self, path: Path) -> int:
        try:
            status = path.stat()
        except OSError as error:
            raise ManifestError(f"cannot be read: {error.strerror}", where=str(path)) from error
        if not stat.S_ISREG(status.st_mode):  # asked before opening: a pipe would block for ever
            raise ManifestError("is not a plain file", where=str(path))
        return status.st_size


class _Unchanged:
    """A file that must be the same at its end as at its beginning."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO = path.open("rb", buffering=0)
        self._before = self._state()
        self._left = self._before[0]

    def _state(self) -> tuple[int, int]:
        status = os.fstat(self._file.fileno())
        return status.st_size, status.st_mtime_ns

    def read(self, size: int, /) -> bytes:
        chunk = self._file.read(size)
        self._left -= len(chunk)
        # one that grows as fast as it is read would have no end
        if self._left < 0 or (not chunk and self._state() != self._before):
            raise ManifestError("was changed while it was hashed", where=str(self._path))
        return chunk

    def close(self) -> None:
        self._file.close()


def _unreadable(error: OSError) -> None:
    # os.walk would otherwise pass over a directory it cannot read, and the manifest would lack its files.
    raise ManifestError(f"cannot be read: {error.strerror}", where=str(error.filename)) from error
