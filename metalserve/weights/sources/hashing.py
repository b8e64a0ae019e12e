"""Hashes files of a source, several at a time, while their bytes pass."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import replace
from http.client import HTTPException
from typing import TypeVar

from metalserve.weights.agent.web import SourceError
from metalserve.weights.manifest import ManifestError
from metalserve.weights.sources.origin import Advance, Found, Origin

_CHUNK = 4 << 20
"""Bytes hashed at a time."""

_TRIES = 3
"""Times that a file is asked for when its connection breaks."""

_POINTER = b"version https://git-lfs.github.com/spec/"
"""What a Git LFS pointer begins with: https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md."""

_LONGEST_POINTER = 1024
"""Bytes; the specification has pointers shorter than this."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Stopped(Exception):
    """Another file failed, or the user stopped."""


def each(items: Sequence[Item], function: Callable[[Item], Result], *, threads: int = 8) -> list[Result]:
    """Call `function` for all items, several at a time, and return the results in order; the first error ends it."""
    if not items:
        return []
    pool = ThreadPoolExecutor(max_workers=min(threads, len(items)))
    try:
        futures = [pool.submit(function, item) for item in items]
        wait(futures, return_when=FIRST_EXCEPTION)
        for future in futures:
            if future.done() and (error := future.exception()) is not None and not isinstance(error, _Stopped):
                raise error
        return [future.result() for future in futures]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def hash_all(origin: Origin, files: Sequence[Found], advance: Advance) -> list[Found]:
    """Return the files with size and SHA-256, from their bytes where the source does not tell them.

    Raises:
        ManifestError: a file cannot be read, is not what the source said of it, or is a Git LFS pointer.
    """
    stop = threading.Event()
    threads = max(4, min(16, os.cpu_count() or 4))
    try:
        return each(files, lambda found: _hashed(origin, found, advance, stop), threads=threads)
    finally:
        stop.set()


def _hashed(origin: Origin, found: Found, advance: Advance, stop: threading.Event) -> Found:
    if found.known:
        return found
    for attempt in range(1, _TRIES + 1):
        try:
            return _once(origin, found, advance, stop)
        except SourceError as error:
            if error.permanent or attempt == _TRIES:
                raise
            stop.wait(min(error.retry_after_s or attempt, 30.0))
        except (OSError, HTTPException) as error:
            if attempt == _TRIES:
                what = getattr(error, "strerror", None) or str(error) or type(error).__name__
                raise ManifestError(f"cannot be read: {what}", where=found.path) from error
            time.sleep(0.1)
    raise AssertionError("unreachable")


def _once(origin: Origin, found: Found, advance: Advance, stop: threading.Event) -> Found:
    digest, size, head = hashlib.sha256(), 0, b""
    blob = hashlib.sha1(f"blob {found.size}\0".encode(), usedforsecurity=False) if found.blob else None
    stream = origin.open(found)
    # http.client ends a body that was cut off like a whole one
    expected = found.size if found.size is not None else getattr(stream, "length", None)
    try:
        while chunk := stream.read(_CHUNK):
            if stop.is_set():
                raise _Stopped
            head = head or chunk[: len(_POINTER)]
            digest.update(chunk)
            if blob is not None:
                blob.update(chunk)
            size += len(chunk)
            advance(len(chunk))
    except BaseException:
        advance(-size)
        raise
    finally:
        stream.close()
    if expected is not None and size != expected:
        advance(-size)
        raise SourceError(f"{found.path}: gave {size} bytes instead of {expected}")
    if blob is not None and blob.hexdigest() != found.blob:
        raise ManifestError(f"its bytes are not those of git blob {found.blob}", where=found.path)
    if head.startswith(_POINTER) and size < _LONGEST_POINTER:
        raise ManifestError(
            "is a Git LFS pointer, not the file itself", where=found.path, remedy="`git lfs pull` at the source"
        )
    if found.sha256 is not None and digest.hexdigest() != found.sha256:
        raise ManifestError(
            f"hashes to {digest.hexdigest()}, but the source says {found.sha256}",
            where=found.path,
            remedy="one of the two is damaged",
        )
    return replace(found, size=size, sha256=digest.hexdigest())
