"""One file of the partial directory: what is there is hashed, what lacks is fetched, what is wrong is fetched again.

Where the file was published before, the digests of its beginnings are known: then a wrong piece is found at the first
digest that differs, and that piece alone is fetched; the hash goes on from the state it had before it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from typing import Any

from .config import WantedFile
from .errors import AgentError
from .fetch import Fetcher, FileFailed
from .marker import PIECE, Proved
from .progress import Progress
from .store import Store, free_bytes
from .tree import SEALED_FILE, Tree

_WRONG = 3
"""Times that wrong bytes are taken from the source before it counts as wrong itself."""

_SYNC_FROM = 8 << 20
"""Bytes from which a file is brought to the drive by itself, while others still come; small ones go all at once."""

_FICLONE = 0x40049409
"""ioctl of Linux: let one file share the blocks of another (XFS, btrfs)."""


class _Wrong(Exception):
    """The bytes since the last good digest are wrong."""

    def __init__(self, end: int, digest: str) -> None:
        self.end = end
        self.digest = digest
        super().__init__(digest)


class OneFile:
    """Brings one file into the partial directory.

    Args:
        tree: the partial directory.
        store: where it lies.
        wanted: the file.
        hint: what it was when it was published, if it was.
        fetcher: gives bytes of the source.
        progress: is told.
        buffer: to read into; of this thread alone.
    """

    def __init__(
        self,
        tree: Tree,
        store: Store,
        wanted: WantedFile,
        hint: Proved | None,
        fetcher: Fetcher,
        progress: Progress,
        buffer: memoryview,
    ) -> None:
        self._tree, self._store, self._wanted = tree, store, wanted
        self._fetcher, self._progress, self._buffer = fetcher, progress, buffer
        expected = (wanted.size, wanted.sha256, max(0, wanted.size - 1) // PIECE)
        self._hint = hint if hint and (hint.size, hint.sha256, len(hint.pieces)) == expected else None
        self._at = self._good = 0
        self._hash, self._good_hash = hashlib.sha256(), hashlib.sha256()
        self._pieces: list[str] = []
        self._wrong = 0
        self._fetched = 0  # place up to which bytes came from the source, not from the drive
        self._refetch = 0

    def run(self) -> Proved:
        """Return what was proved.

        Raises:
            FileFailed: this file cannot be had.
            AgentError: no file can.
            Stopped: the job is to stop.
        """
        self._open()
        try:
            while True:
                try:
                    self._pass()
                    break
                except _Wrong as wrong:
                    self._again(wrong)
            os.fchmod(self._fd, SEALED_FILE)
            if self._wanted.size >= _SYNC_FROM:
                os.fsync(self._fd)
            state = os.fstat(self._fd)
        except OSError as error:
            raise _full(self._wanted, self._store, error) from error
        finally:
            os.close(self._fd)
        self._progress.file_done()
        return Proved(
            path=self._wanted.path,
            size=state.st_size,
            mtime_ns=state.st_mtime_ns,
            ctime_ns=state.st_ctime_ns,
            sha256=self._wanted.sha256,
            pieces=tuple(self._pieces),
        )

    def _open(self) -> None:
        path, size = self._wanted.path, self._wanted.size
        try:
            state = self._tree.stat(path)
            if state is None:
                self._fd = self._tree.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, make=True)
                self._sealed, self._have = False, 0
                return
            # read-only: it was published, and an engine may have it mapped
            self._sealed = not state.st_mode & 0o200 or state.st_nlink > 1
            self._fd = self._tree.open(path, os.O_RDONLY if self._sealed else os.O_RDWR)
            self._have = state.st_size
            if self._have > size:
                self._unseal(size)
                os.ftruncate(self._fd, size)
                self._have = size
        except OSError as error:
            raise _full(self._wanted, self._store, error) from error

    def _pass(self) -> None:
        size = self._wanted.size
        while self._at < size:
            if self._at < self._refetch:
                self._fetch(self._refetch)
            elif self._at < self._have:
                self._reread()
            else:
                self._fetch(size)
        digest = self._hash.hexdigest()
        if digest != self._wanted.sha256:
            raise _Wrong(size, digest)

    def _reread(self) -> None:
        while self._at < self._have:
            self._progress.go_on()
            count = os.preadv(self._fd, [self._buffer[: self._have - self._at]], self._at)
            if not count:
                self._have = self._at
                return
            self._progress.hashed(count)
            self._take(self._buffer[:count])

    def _fetch(self, end: int) -> None:
        self._unseal(self._have)
        for part in self._fetcher.read(self._wanted, self._at, end, self._buffer):
            written = 0
            while written < len(part):
                try:
                    written += os.pwrite(self._fd, part[written:], self._at + written)
                except OSError as error:
                    raise _full(self._wanted, self._store, error) from error
            self._have = max(self._have, self._at + len(part))
            self._fetched = max(self._fetched, self._at + len(part))
            self._progress.moved(len(part))
            self._take(part)

    def _take(self, part: memoryview) -> None:
        while part:
            room = PIECE - self._at % PIECE
            self._hash.update(part[:room])
            self._at += len(part[:room])
            part = part[room:]
            if self._at % PIECE == 0 and self._at < self._wanted.size:
                index, digest = self._at // PIECE - 1, self._hash.hexdigest()
                if self._hint is not None and digest != self._hint.pieces[index]:
                    raise _Wrong(self._at, digest)
                self._pieces.append(digest)
                self._good, self._good_hash = self._at, self._hash.copy()

    def _again(self, wrong: _Wrong) -> None:
        """Go back to the last good byte; what follows is fetched again."""
        path, size, start = self._wanted.path, self._wanted.size, self._good
        if self._fetched > (start if self._hint is not None else 0):
            self._wrong += 1
        if self._wrong >= _WRONG and (self._hint is None or not self._hint.pieces):
            raise FileFailed(
                f"the source gives wrong bytes (SHA-256 {wrong.digest}, expected {self._wanted.sha256})",
                "compare the manifest with the source",
                where=path,
            )
        if self._hint is not None and self._wrong < _WRONG and (start, wrong.end) != (0, size):
            self._progress.say(f"{path}: bytes {start} to {wrong.end} are not what was proved; fetched again")
            self._progress.found(start - wrong.end)
            self._refetch = wrong.end
            self._rewind(start, self._good_hash)
            return
        if self._hint is not None and self._wrong >= _WRONG:
            self._wrong = _WRONG - 1  # perhaps what was known of its pieces is wrong: once more as a whole
        self._hint = None
        self._progress.say(f"{path}: SHA-256 {wrong.digest}, the manifest says {self._wanted.sha256}; fetched again")
        self._progress.found(-self._have)
        self._unseal(0)
        os.ftruncate(self._fd, 0)
        self._have = self._refetch = self._fetched = 0
        self._rewind(0, hashlib.sha256())

    def _rewind(self, at: int, state: Any) -> None:
        self._at = self._good = at
        self._hash, self._good_hash = state.copy(), state.copy()
        if at == 0:
            self._pieces = []

    def _unseal(self, keep: int) -> None:
        """Make the file one that may be written: a copy of its first `keep` bytes takes the place of a sealed one."""
        if not self._sealed:
            return
        name = hashlib.sha256(self._wanted.path.encode()).hexdigest()[:16]
        twin = f"{self._store.directory}/.twin-{self._store.revision}-{name}"
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        new = os.open(twin, flags, 0o644)
        try:
            _copy(self._fd, new, keep, self._progress)
            with self._tree.parent(self._wanted.path) as (directory, last):
                os.rename(twin, last, dst_dir_fd=directory)
        except BaseException:
            os.close(new)
            raise
        os.close(self._fd)
        self._fd, self._sealed = new, False


def _copy(source: int, target: int, count: int, progress: Progress) -> None:
    if not count:
        return
    try:
        fcntl.ioctl(target, _FICLONE, source)
        os.ftruncate(target, count)
        return
    except OSError:
        pass  # not a file system that shares blocks
    at = 0
    while at < count:
        progress.go_on()
        copied = os.sendfile(target, source, at, min(count - at, 64 << 20))
        if not copied:
            return
        at += copied


def _full(wanted: WantedFile, store: Store, error: OSError) -> AgentError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return AgentError(
            f"disk full: {free_bytes(store.directory) / 2**30:.2f} GiB are free on {store.directory}",
            "free space on it and run again; staging goes on where it stopped",
            where=wanted.path,
        )
    return AgentError(
        f"cannot be read or written: {error.strerror}",
        "see what the kernel says of the drive: dmesg",
        where=wanted.path,
    )
