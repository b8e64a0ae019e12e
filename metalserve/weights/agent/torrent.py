"""Torrents of models (BitTorrent v2, BEP 52), made with the standard library alone.

The same files give the same bytes: no date, no name of a host or a tool, no tracker. A torrent carries SHA-256 trees
over blocks of 16 KiB, so that a swarm can refuse a wrong piece at once; whether a *file* is right is still decided by
the SHA-256 of the manifest.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from .config import WantedFile

NAME = "model"
"""Name of the directory in every torrent: which model it is, only the digest says."""

BLOCK = 16 << 10
"""Bytes of a leaf of the tree (BEP 52)."""

_LARGEST_PIECES = ((1 << 30, 256 << 10), (16 << 30, 1 << 20), (512 << 30, 4 << 20))
"""Up to so many bytes in all, pieces of this size: small ones spread sooner, many make the torrent large."""


class TorrentError(Exception):
    """A torrent cannot be made of these files, or is none."""


def piece_size_for(total: int) -> int:
    """Return the size of a piece in bytes for a model of `total` bytes."""
    return next((piece for most, piece in _LARGEST_PIECES if total <= most), 16 << 20)


def make_torrent(directory: Path, files: Sequence[WantedFile], piece_size: int) -> bytes:
    """Hash the files below `directory` into a private torrent.

    Args:
        directory: holds the files, complete.
        files: what goes into it; only paths and sizes are used.
        piece_size: bytes, a power of two, at least 16 KiB.

    Raises:
        TorrentError: a file is missing, has another size, or `piece_size` is none.
        OSError: a file cannot be read.
    """
    if piece_size < BLOCK or piece_size & (piece_size - 1):
        raise TorrentError(f"pieces of {piece_size} bytes: must be a power of two, at least {BLOCK}")
    tree: dict[bytes, Any] = {}
    layers: dict[bytes, bytes] = {}
    # processes: a block is hashed in 10 us, and threads would spend as long again on the interpreter's lock
    with ProcessPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for each in files:
            node = tree
            *parents, name = os.fsencode(each.path).split(b"/")
            for parent in parents:
                node = node.setdefault(parent, {})
            leaf: dict[bytes, Any] = {b"length": each.size}
            if each.size:
                pieces = list(pool.map(_digest_of, _slices(directory / each.path, each.size, piece_size), chunksize=16))
                leaf[b"pieces root"] = _root_of_pieces(pieces, piece_size)
                if len(pieces) > 1:
                    layers[leaf[b"pieces root"]] = b"".join(pieces)
            node[name] = {b"": leaf}
    info = {
        b"file tree": tree,
        b"meta version": 2,
        b"name": NAME.encode(),
        b"piece length": piece_size,
        b"private": 1,
    }
    return encode({b"info": info, b"piece layers": layers})


def with_authority(torrent: bytes, certificate: str) -> bytes:
    """Return the torrent that only peers with a certificate of `certificate` (PEM) may join.

    The digests are those of `torrent`; its identity, the digest of `info`, is another one for each authority.

    Raises:
        TorrentError: `torrent` is none.
    """
    data = decode(torrent)
    if not isinstance(data, dict) or not isinstance(data.get(b"info"), dict):
        raise TorrentError("is no torrent")
    data[b"info"][b"ssl-cert"] = certificate.encode()
    return encode(data)


def _slices(path: Path, size: int, piece_size: int) -> Iterator[tuple[Path, int, int, int]]:
    found = path.stat().st_size
    if found != size:
        raise TorrentError(f"{path}: has {found} bytes, not {size}")
    small = size <= piece_size
    for start in range(0, size, piece_size):
        length = min(piece_size, size - start)
        # a file of one piece has a tree no larger than itself; the pieces of others are all of one height
        blocks = -(-length // BLOCK) if small else piece_size // BLOCK
        yield path, start, length, 1 << (blocks - 1).bit_length()


def _digest_of(piece: tuple[Path, int, int, int]) -> bytes:
    """Return the root of the tree over one piece: SHA-256 of its blocks, absent ones as zeros."""
    path, start, length, leaves = piece
    with path.open("rb") as file:
        file.seek(start)
        data = memoryview(file.read(length))
    if len(data) != length:
        raise TorrentError(f"{path}: became shorter while it was read")
    digests = [hashlib.sha256(data[at : at + BLOCK]).digest() for at in range(0, length, BLOCK)]
    return _root(digests, leaves, bytes(32))


def _root_of_pieces(pieces: list[bytes], piece_size: int) -> bytes:
    if len(pieces) == 1:
        return pieces[0]
    absent = _root([], piece_size // BLOCK, bytes(32))
    return _root(pieces, 1 << (len(pieces) - 1).bit_length(), absent)


def _root(digests: list[bytes], leaves: int, absent: bytes) -> bytes:
    while leaves > 1:
        if len(digests) % 2:
            digests = [*digests, absent]
        digests = [hashlib.sha256(digests[i] + digests[i + 1]).digest() for i in range(0, len(digests), 2)]
        absent = hashlib.sha256(absent + absent).digest()
        leaves //= 2
    return digests[0] if digests else absent


def encode(value: Any) -> bytes:
    """Return bencoded `value`: dictionaries with keys in order, lists, integers, bytes."""
    if isinstance(value, dict):
        return b"d" + b"".join(encode(key) + encode(value[key]) for key in sorted(value)) + b"e"
    if isinstance(value, list):
        return b"l" + b"".join(map(encode, value)) + b"e"
    if isinstance(value, int):
        return b"i%de" % value
    return b"%d:%s" % (len(value), value)


def decode(data: bytes) -> Any:
    """Return what is bencoded in `data`.

    Raises:
        TorrentError: it is not bencoded, or something follows.
    """
    try:
        value, end = _decode(data, 0, 0)
    except (ValueError, IndexError, RecursionError) as error:
        raise TorrentError(f"is not bencoded: {error}") from None
    if end != len(data):
        raise TorrentError("is not bencoded: something follows its end")
    return value


def _decode(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    kind = data[at : at + 1]
    if depth > 64:
        raise ValueError("too deep")
    if kind == b"i":
        end = data.index(b"e", at)
        return int(data[at + 1 : end]), end + 1
    if kind in (b"l", b"d"):
        at += 1
        items: list[Any] = []
        while data[at : at + 1] != b"e":
            item, at = _decode(data, at, depth + 1)
            items.append(item)
        if kind == b"l":
            return items, at + 1
        if len(items) % 2 or not all(isinstance(key, bytes) for key in items[::2]):
            raise ValueError("a dictionary without pairs")
        return dict(zip(items[::2], items[1::2])), at + 1  # noqa: B905 - Python 3.9
    colon = data.index(b":", at)
    length = int(data[at:colon])
    end = colon + 1 + length
    if length < 0 or end > len(data):
        raise ValueError("too short")
    return data[colon + 1 : end], end
