"""Verifies a build: its signature, then every byte of every file, and the disk as it is uncompressed."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

from metalserve.templates.manifest import DISK, FileEntry, Manifest, TemplateError
from metalserve.templates.shelf_files import check_listing
from metalserve.templates.signing import TrustedKey, verified_manifest

_CHUNK = 1 << 20

Advance = Callable[[int], None]
"""Called with the number of bytes that were read since the last call."""


def verify_build(
    directory: Path, keys: Iterable[TrustedKey], *, raw: bool = True, advance: Advance = lambda _bytes: None
) -> Manifest:
    """Verify a build and return its manifest.

    Args:
        directory: the build's directory, `.../NAME/BUILD`.
        keys: who is trusted.
        raw: also uncompress the disk and hash it; needs the program `zstd`.
        advance: is told of progress.

    Raises:
        TemplateError: the first thing that is not as the signed manifest says.
    """
    manifest = verified_manifest(directory, keys)
    check_listing(directory, manifest)
    for name, listed in sorted(manifest.files.items()):
        path = directory / name
        with _open(path) as stream:
            _compare(_hash(stream, listed.size, advance), listed, str(path))
    if raw:
        where = f"{directory / DISK} (uncompressed)"
        _compare(_uncompressed(directory / DISK, manifest.raw.size, advance), manifest.raw, where)
    return manifest


def _open(path: Path) -> IO[bytes]:
    try:
        return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    except OSError as error:
        raise TemplateError(f"cannot be read: {error.strerror}", where=str(path)) from error


def _hash(stream: IO[bytes], limit: int, advance: Advance) -> FileEntry:
    """Hash a stream, reading no further than the first piece behind `limit` bytes: a bomb stays small."""
    hashed, total = hashlib.sha256(), 0
    while total <= limit and (piece := stream.read(_CHUNK)):
        hashed.update(piece)
        total += len(piece)
        advance(len(piece))
    return FileEntry(size=total, sha256=hashed.hexdigest())


def _compare(found: FileEntry, listed: FileEntry, where: str) -> None:
    if found.size != listed.size:
        more = "more than" if found.size > listed.size else f"{found.size} bytes instead of"
        raise TemplateError(f"has {more} the {listed.size} bytes of the manifest", where=where)
    if found.sha256 != listed.sha256:
        raise TemplateError(f"has SHA-256 {found.sha256}; the manifest says {listed.sha256}", where=where)


def _uncompressed(path: Path, limit: int, advance: Advance) -> FileEntry:
    with _open(path) as compressed:
        try:
            process = subprocess.Popen(
                ["zstd", "-dcq"], stdin=compressed, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        except FileNotFoundError:
            raise TemplateError(
                "is not installed; the disk cannot be read", where="zstd", remedy="apt-get install zstd"
            ) from None
        with process:
            assert process.stdout is not None
            found = _hash(process.stdout, limit, advance)
            if found.size > limit:
                process.kill()
    if process.returncode and found.size <= limit:
        raise TemplateError("cannot be uncompressed: it is no whole zstd stream", where=str(path))
    return found
