"""Opens what holds evidence: files, directories, tars, standard input, compressed or not. Nothing goes to the disk."""

from __future__ import annotations

import gzip
import io
import json
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from metalserve.errors import MetalserveError

SIZE_LIMIT: Final = 256 << 20
"""Bytes of one file after decompression; a nvidia-bug-report has some tens of MiB."""
FILE_LIMIT: Final = 2000
"""Files of one directory or tar."""


def files_of(name: str) -> Iterator[tuple[str, bytes]]:
    """Yield (where, content) of a file, of all files of a directory or tar, or of standard input (`-`), decompressed.

    Raises:
        MetalserveError: it cannot be read or is too large.
    """
    if name == "-":
        yield "standard input", _unpacked("standard input", sys.stdin.buffer.read(SIZE_LIMIT + 1))
        return
    path = Path(name)
    try:
        if path.is_dir():
            inside = sorted(each for each in path.rglob("*") if each.is_file() and not each.is_symlink())
            if len(inside) > FILE_LIMIT:
                raise MetalserveError(f"has more than {FILE_LIMIT} files", where=name)
            for each in inside:
                yield str(each), _unpacked(str(each), each.read_bytes())
        elif _is_tar(path):
            yield from _of_tar(path)
        else:
            yield name, _unpacked(name, path.read_bytes())
    except OSError as error:
        raise MetalserveError(f"cannot be read: {error.strerror}", where=name) from error
    except tarfile.TarError as error:
        raise MetalserveError(f"cannot be read: {error}", where=name) from error


def unwrapped(text: str) -> str:
    """Return what a container said, of the file that Docker keeps of it: one JSON object with the key `log` a line."""
    if not text.lstrip().startswith('{"log":"'):
        return text
    return "".join(_said(line) for line in text.splitlines())


def _said(line: str) -> str:
    try:
        said = json.loads(line)["log"]
    except (ValueError, KeyError, TypeError):
        return f"{line}\n"
    return said if isinstance(said, str) else ""


def _is_tar(path: Path) -> bool:
    try:
        return tarfile.is_tarfile(path)
    except EOFError:  # a .gz that was cut off: what it is, is said when it is read
        return False


def _of_tar(path: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path) as archive:
        for number, member in enumerate(archive):
            if number >= FILE_LIMIT:
                raise MetalserveError(f"has more than {FILE_LIMIT} files", where=str(path))
            if member.isfile() and member.size <= SIZE_LIMIT:  # read only, never unpacked: its names do not matter
                content = archive.extractfile(member)
                if content is not None:
                    yield f"{path}:{member.name}", _unpacked(member.name, content.read())


def _unpacked(where: str, raw: bytes) -> bytes:
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = gzip.GzipFile(fileobj=io.BytesIO(raw)).read(SIZE_LIMIT + 1)
        except (OSError, EOFError) as error:
            raise MetalserveError(f"cannot be decompressed: {error}", where=where) from error
    if len(raw) > SIZE_LIMIT:
        raise MetalserveError(
            f"is larger than {SIZE_LIMIT >> 20} MiB", where=where, remedy="cut out the time in question"
        )
    return raw
