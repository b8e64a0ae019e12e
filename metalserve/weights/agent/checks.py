"""Is what is published what was proved? Three checks, from one that costs nothing to one that reads all.

- sizes: names, sizes and times against the marker. Reads no byte of the model.
- fast: the same, and some blocks of each file against digests taken when it was published. A file whose inode was
  changed since (its ctime) is read whole. What it cannot find: bytes that changed on the drive itself, outside the
  sampled blocks, with no system call to change them. Only the full check finds those.
- full: every byte against the SHA-256 of the manifest, files in parallel.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from dataclasses import dataclass, field
from typing import Any

from .errors import AgentError
from .marker import (
    BUFFER,
    Marker,
    MarkerError,
    Proved,
    digest_of_samples,
    read_marker,
)
from .store import MARKER, Store
from .tree import Tree


@dataclass
class Report:
    """What a check found.

    Attributes:
        kind: `sizes`, `fast` or `full`.
        state: `intact`, `absent`, `changed`, or `damaged` (bytes are wrong).
        problems: path -> what is wrong; the empty path is the directory itself.
        files: files that were looked at.
        bytes_there: bytes of all files.
        bytes_read: bytes that were read and hashed.
        seconds: that it took.
        listed: digest of the list of files that the marker names, or empty.
        reread: files that a fast check had to read whole, since their inode was changed.
        proved: files that a full check found right.
    """

    kind: str
    state: str = "intact"
    problems: dict[str, str] = field(default_factory=dict)
    files: int = 0
    bytes_there: int = 0
    bytes_read: int = 0
    seconds: float = 0.0
    listed: str = ""
    reread: list[str] = field(default_factory=list)
    proved: dict[str, Proved] = field(default_factory=dict)

    @property
    def intact(self) -> bool:
        """Whether it may be served."""
        return self.state == "intact"

    @property
    def why(self) -> str:
        """The first problem in words, and how many more there are."""
        if not self.problems:
            return "" if self.intact else "it is not there"
        path, what = next(iter(self.problems.items()))
        more = f", and {len(self.problems) - 1} more" if len(self.problems) > 1 else ""
        return (f"{path}: {what}" if path else what) + more

    def bad(self, path: str, what: str, state: str = "changed") -> None:
        """Note a problem."""
        self.problems.setdefault(path, what)
        if self.state != "damaged":
            self.state = state

    def to_data(self) -> dict[str, Any]:
        """Return what is printed as JSON."""
        return {
            "check": self.kind,
            "state": self.state,
            "problems": self.problems,
            "files": self.files,
            "bytes_there": self.bytes_there,
            "bytes_read": self.bytes_read,
            "seconds": round(self.seconds, 3),
            "rate_bytes_s": int(self.bytes_read / self.seconds) if self.seconds > 0 else 0,
            "list": self.listed,
            "reread": self.reread,
        }


def quick(store: Store, listed: str | None, *, samples: bool = True) -> Report:
    """Check names, sizes and times, and with `samples` some bytes. Wrong bytes are marked in the store.

    Args:
        store: what is to be checked.
        listed: digest of the list of files that it must be of; None for any.
        samples: read sampled blocks too.
    """
    began = time.monotonic()
    report = Report("fast" if samples else "sizes")
    tree = open_published(store, report)
    if tree is not None:
        with tree:
            try:
                _quick(store, tree, listed, samples, report)
            except OSError as error:
                report.bad("", f"cannot be read: {error.strerror}")
    report.seconds = time.monotonic() - began
    return report


def open_published(store: Store, report: Report) -> Tree | None:
    """Open the published directory; where that cannot be done the report says why."""
    try:
        return Tree(store.published)
    except FileNotFoundError:
        report.state = "absent"
    except OSError as error:
        report.bad("", f"cannot be read: {error.strerror}")
    return None


def _quick(store: Store, tree: Tree, listed: str | None, samples: bool, report: Report) -> None:
    marker = against_marker(store, tree, listed, report)
    if marker is None or not report.intact or not samples or marker.format == 1:
        return
    wrong = {}
    for path, before in marker.files.items():
        descriptor = tree.open(path)
        try:
            if os.fstat(descriptor).st_ctime_ns != before.ctime_ns:
                report.reread.append(path)
                report.bytes_read += before.size
                right = _whole(descriptor) == before.sha256
            else:
                report.bytes_read += min(before.size, len(before.samples) * (64 << 10))
                right = digest_of_samples(descriptor, before.samples) == before.sampled
        except OSError as error:
            report.bad(path, f"cannot be read: {error.strerror}")
            continue
        finally:
            os.close(descriptor)
        if not right:
            wrong[path] = "bytes are not those that were proved"
            report.bad(path, wrong[path], "damaged")
    if wrong:
        mark(store, wrong)


def against_marker(store: Store, tree: Tree, listed: str | None, report: Report) -> Marker | None:
    """Compare names, sizes and times with the marker, and return it where there is one."""
    found = {path: state for path, state in tree.entries() if not stat.S_ISDIR(state.st_mode)}
    found.pop(MARKER, None)
    report.files = len(found)
    report.bytes_there = sum(state.st_size for state in found.values() if stat.S_ISREG(state.st_mode))
    for path, what in store.damage().items():
        report.bad(path, what, "damaged")
    try:
        marker = read_marker(tree)
    except MarkerError as error:
        report.bad("", str(error))
        return None
    report.listed = marker.listed
    if listed is not None and marker.listed != listed:
        report.bad("", "was staged from another manifest")
        return marker
    for path in sorted(marker.files.keys() | found.keys()):
        if path not in marker.files:
            report.bad(path, "is not in the manifest")
        elif path not in found:
            report.bad(path, "is missing")
        elif not stat.S_ISREG(found[path].st_mode):
            report.bad(path, "is no plain file")
        elif found[path].st_size != marker.files[path].size:
            report.bad(path, f"has {found[path].st_size} bytes instead of {marker.files[path].size}")
        elif found[path].st_mtime_ns != marker.files[path].mtime_ns:
            report.bad(path, "was changed after its bytes were proved")
    return marker


def _whole(descriptor: int) -> str:
    digest, buffer, at = hashlib.sha256(), memoryview(bytearray(BUFFER)), 0
    while True:
        count = os.preadv(descriptor, [buffer], at)
        if not count:
            return digest.hexdigest()
        digest.update(buffer[:count])
        at += count


def mark(store: Store, wrong: dict[str, str]) -> None:
    """Mark a published directory as damaged.

    Raises:
        AgentError: that cannot be written down.
    """
    try:
        store.mark_damaged({**store.damage(), **wrong})
    except OSError as error:
        raise AgentError(
            f"has wrong bytes ({', '.join(wrong)}), and that cannot be written down: {error.strerror}",
            "stop what serves it, then see why the drive refuses to be written",
            where=store.published,
        ) from error
