"""What was proved, as it is kept in the published directory: `.metalserve-manifest`.

Format 2 is JSON: the digest of the list of files, and for each file its size and times when its last byte was hashed,
its SHA-256, the digests of its beginnings at every piece (so that a wrong piece can be found and fetched alone), and
a digest of some sampled blocks (so that a check can look at bytes without reading them all). Format 1, written by
metalserve before 0.2, has sizes and times only.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import quote

from .config import WantedFile
from .store import HINTS, MARKER, Store
from .tree import Tree

PIECE = 64 << 20
"""Bytes between two digests of a file's beginning: what is fetched again when one byte is wrong."""

SAMPLE = 64 << 10
"""Bytes of a sampled block."""

BUFFER = 1 << 20
"""Bytes read and hashed at a time at most."""

_SAMPLES = 384
"""Sampled blocks of a model, more only where it has so many files: 24 MiB, read in some 30 ms from the page cache."""

_HEADER_1 = "metalserve-manifest 1"


class MarkerError(Exception):
    """There is no marker, or it is none."""


@dataclass(frozen=True)
class Proved:
    """One file as it was when its bytes were hashed.

    Attributes:
        path: inside the directory.
        size: bytes.
        mtime_ns: time of its last change.
        ctime_ns: time of the last change of its inode, or -1 where it is not known (format 1).
        sha256: of the content, or empty (format 1).
        pieces: digests of the first PIECE, 2 x PIECE, ... bytes, without that of the whole.
        samples: where the sampled blocks begin.
        sampled: digest of the sampled blocks one after another.
    """

    path: str
    size: int
    mtime_ns: int
    ctime_ns: int = -1
    sha256: str = ""
    pieces: tuple[str, ...] = ()
    samples: tuple[int, ...] = ()
    sampled: str = ""


@dataclass(frozen=True)
class Marker:
    """What a published directory says of itself.

    Attributes:
        format: 1 or 2.
        files: by path.
        listed: digest of the list of files it was staged from.
        serial: which publication on this mount it is: an order that no wrong clock can change.
        published_at: by the wall clock, seconds since 1970; only to be shown.
        piece: bytes between two digests of a file's beginning.
    """

    format: int
    listed: str
    files: dict[str, Proved] = field(default_factory=dict)
    serial: int = 0
    published_at: int = 0
    piece: int = 0


def digest_of_list(files: Iterable[WantedFile]) -> str:
    """Return the digest of a list of files, as `metalserve.weights.store.file_list` writes it."""
    text = "".join(f"{each.sha256}\t{each.size}\t{quote(each.path)}\t{each.path}\n" for each in files)
    return hashlib.sha256(text.encode()).hexdigest()


def to_text(marker: Marker, repository: str, revision: str) -> str:
    """Return the text of a marker, one file a line."""
    head = {
        "format": 2,
        "repository": repository,
        "revision": revision,
        "list": marker.listed,
        "serial": marker.serial,
        "published_at": marker.published_at,
        "piece": marker.piece,
    }
    rows = ",\n".join(json.dumps(asdict(each)) for each in marker.files.values())
    return json.dumps(head)[:-1] + ',\n"files": [\n' + rows + "\n]}\n"


def parse(text: str) -> Marker:
    """Read a marker of either format.

    Raises:
        MarkerError: it is none.
    """
    if text.startswith(_HEADER_1):
        return _parse_1(text)
    try:
        data: Any = json.loads(text)
        if data["format"] != 2:
            raise MarkerError(f"is of format {data['format']}")
        files = [
            Proved(**{**each, "pieces": tuple(each["pieces"]), "samples": tuple(each["samples"])})
            for each in data["files"]
        ]
        return Marker(
            format=2,
            listed=str(data["list"]),
            files={each.path: each for each in files},
            serial=int(data["serial"]),
            published_at=int(data["published_at"]),
            piece=int(data["piece"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise MarkerError(f"cannot be read: {error}") from None


def _parse_1(text: str) -> Marker:
    lines = text.splitlines()
    if len(lines) < 2 or not lines[1].startswith("list "):
        raise MarkerError("is cut off")
    files = {}
    for line in lines[2:]:
        size, _, rest = line.partition("\t")
        seconds, _, path = rest.partition("\t")
        whole, _, part = seconds.partition(".")
        if not (size.isdigit() and whole.isdigit() and path):
            raise MarkerError("is cut off")
        files[path] = Proved(path, int(size), int(whole) * 10**9 + int(part[:9].ljust(9, "0") or 0))
    return Marker(format=1, listed=lines[1][5:], files=files)


def read_marker(tree: Tree, name: str = MARKER) -> Marker:
    """Read the marker of an open directory.

    Raises:
        MarkerError: there is none.
    """
    try:
        with os.fdopen(tree.open(name), encoding="utf-8") as file:
            return parse(file.read())
    except FileNotFoundError:
        raise MarkerError("has no marker of metalserve") from None
    except (OSError, UnicodeDecodeError) as error:
        raise MarkerError(f"marker cannot be read: {error}") from None


def read_hints(tree: Tree) -> dict[str, Proved]:
    """Return what is known of files of a directory that was published once; nothing where it was not."""
    try:
        marker = read_marker(tree, HINTS)
    except MarkerError:
        return {}
    return marker.files if marker.piece == PIECE else {}


def write_marker(store: Store, tree: Tree, text: str) -> None:
    """Put a marker into a directory of the store, whole or not at all, and bring it to the drive."""
    # beside the directory: in it, whoever checks at this moment would take it for a stray
    new = f"{store.directory}/.twin-marker-{os.getpid()}"
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fchmod(file.fileno(), 0o444)
        os.fsync(file.fileno())
    os.replace(new, MARKER, dst_dir_fd=tree.fd)
    tree.sync_directory()


def plan_samples(sizes: Sequence[int], source: random.Random | None = None) -> list[tuple[int, ...]]:
    """Choose the blocks of each file that a fast check reads: the first, the last, and others anywhere.

    Files of up to two blocks are covered as a whole. The larger a file, the more of its blocks.
    """
    rng = source or random.SystemRandom()
    total = sum(sizes) or 1
    spare = max(0, _SAMPLES - 2 * len(sizes))
    plan = []
    for size in sizes:
        blocks = -(-size // SAMPLE)
        chosen = {0, blocks - 1} if blocks else set()
        extra = min(max(0, blocks - 2), spare * size // total)
        if extra:
            chosen |= set(rng.sample(range(1, blocks - 1), extra))
        plan.append(tuple(block * SAMPLE for block in sorted(chosen)))
    return plan


def digest_of_samples(descriptor: int, samples: Iterable[int]) -> str:
    """Return the digest of the sampled blocks of an open file."""
    digest = hashlib.sha256()
    for start in samples:
        digest.update(os.pread(descriptor, SAMPLE, start))
    return digest.hexdigest()


def next_serial(mount: str) -> int:
    """Return a number larger than that of everything published below a mount point."""
    highest = 0
    for store in published_below(mount):
        try:
            with Tree(store.published) as tree:
                highest = max(highest, read_marker(tree).serial)
        except (OSError, MarkerError):
            continue
    return highest + 1


def is_revision(name: str) -> bool:
    """Tell whether a name is that of a commit."""
    return len(name) == 40 and all(character in "0123456789abcdef" for character in name)


def published_below(mount: str) -> list[Store]:
    """Return what looks like a published model below a mount point, by name."""
    found = []
    for model in sorted(os.listdir(mount)):
        directory = f"{mount}/{model}"
        if "--" not in model or model.startswith(".") or os.path.islink(directory) or not os.path.isdir(directory):
            continue
        found += [Store(directory, name) for name in sorted(os.listdir(directory)) if is_revision(name)]
    return [store for store in found if store.is_published()]
