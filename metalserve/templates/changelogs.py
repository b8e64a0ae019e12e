"""Changelogs of Debian packages inside a root: their entries, and the CVEs that these name."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from metalserve.templates.packages import Package

_HEAD = re.compile(r"^\S+ \(([^)\s]+)\) ([^;]+);")
_CVE = re.compile(r"\bCVE-\d{4}-\d{4,7}\b")
_LARGEST = 8 << 20
"""Bytes that are read of a changelog: the newest entries come first."""


@dataclass(frozen=True)
class Entry:
    """One entry.

    Attributes:
        version: of the source package.
        suite: where it was uploaded to; `bookworm-security` says what it is.
        cves: the CVEs that it names, in order.
    """

    version: str
    suite: str
    cves: tuple[str, ...]


def parse_changelog(text: str) -> list[Entry]:
    """Return the entries of a changelog, in the order of the file: newest first."""
    found: list[Entry] = []
    head: re.Match[str] | None = None
    cves: dict[str, None] = {}
    for line in (*text.splitlines(), None):
        match = _HEAD.match(line) if line is not None else None
        if match or line is None:
            if head:
                found.append(Entry(head[1], head[2].strip(), tuple(cves)))
            head, cves = match, {}
        else:
            cves.update(dict.fromkeys(_CVE.findall(line)))
    return found


def changelogs_of(root: Path) -> Callable[[Package], list[Entry] | None]:
    """Return what reads changelogs of the packages in `root`; nothing outside of it is ever read."""
    docs = root / "usr" / "share" / "doc"

    def read(package: Package) -> list[Entry] | None:
        directory = _directory(docs, package.name)
        for name in ("changelog.Debian.gz", "changelog.gz", "changelog.Debian"):
            path = directory / name
            if path.is_symlink() or not path.is_file():
                continue
            try:
                with gzip.open(path) if name.endswith(".gz") else path.open("rb") as stream:
                    entries = parse_changelog(stream.read(_LARGEST).decode(errors="replace"))
            except (OSError, EOFError, zlib.error):
                continue
            if entries:
                return entries
        return None

    return read


def _directory(docs: Path, name: str) -> Path:
    """Return a package's directory of documentation: packages of one source often link to one of them."""
    path = docs / name
    if path.is_symlink():
        target = str(path.readlink())
        if re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", target) and not (docs / target).is_symlink():
            return docs / target
        return docs / "-"
    return path
