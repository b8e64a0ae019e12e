"""Bytes from the source into a buffer: speed limit, streams that stand still, what counts as hopeless."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPException
from typing import Any

from .config import WantedFile
from .errors import AgentError
from .marker import BUFFER
from .progress import Progress
from .source import Source
from .web import SourceError

_LEAST = 16 << 10
_TRIES = 6
_STALL_S = 60.0
_BACKOFF_S = 1.0
_LONGEST_WAIT_S = 30.0


class FileFailed(AgentError):
    """One file cannot be had; others may."""


class Limiter:
    """A speed limit over all threads.

    Args:
        bytes_s: bytes a second, 0 for no limit.
    """

    def __init__(self, bytes_s: int) -> None:
        self.bytes_s = bytes_s
        self._lock = threading.Lock()
        self._free_at = 0.0

    @property
    def at_once(self) -> int:
        """Bytes that may be taken at a time without making others wait long."""
        return max(_LEAST, min(BUFFER, self.bytes_s // 8)) if self.bytes_s else BUFFER

    def take(self, count: int, sleep: Callable[[float], Any]) -> None:
        """Wait until `count` bytes more are within the limit."""
        if not self.bytes_s:
            return
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now - 0.1) + count / self.bytes_s
            wait = self._free_at - now
        if wait > 0:
            sleep(wait)


class Fetcher:
    """Gives the bytes of files of the source; one for all threads of a job.

    MS_TRIES, MS_STALL_S and MS_BACKOFF_S change how patient it is: tries without a byte, seconds that a stream may
    stand still, seconds before the second try.
    """

    def __init__(self, source: Source, limiter: Limiter, progress: Progress) -> None:
        self._source = source
        self._limiter = limiter
        self._progress = progress
        self._tries = int(os.environ.get("MS_TRIES", _TRIES))
        self._stall_s = float(os.environ.get("MS_STALL_S", _STALL_S))
        self._backoff_s = float(os.environ.get("MS_BACKOFF_S", _BACKOFF_S))
        self._reading: dict[int, tuple[Any, float]] = {}

    def read(self, file: WantedFile, start: int, end: int, buffer: memoryview) -> Iterator[memoryview]:
        """Yield the bytes of a file from `start` to before `end`, in parts of the buffer, whatever it takes.

        Raises:
            FileFailed: the source does not have the file as the manifest says.
            AgentError: the source cannot be used.
            Stopped: the job is to stop.
        """
        at, idle, whole = start, 0, False
        while at < end:
            self._progress.go_on()
            before, said, pause = at, "the connection ended", 0.0
            try:
                # a source that begins at the start only: what is there already is passed over
                with self._source.open(file, 0 if whole else at, end if end < file.size else None) as opened:
                    for part in self._stream(opened.stream, opened.start, at, end, buffer):
                        yield part
                        at += len(part)
                    if at == end == file.size and _has_more(opened.stream):
                        raise FileFailed(
                            f"the source has more than the {file.size} bytes of the manifest",
                            "make the manifest again from this revision",
                            where=file.path,
                        )
            except SourceError as error:
                if error.permanent:
                    raise _hopeless(file, error) from None
                whole = whole or error.status == 416
                said, pause = error.what, error.retry_after_s
            except (OSError, HTTPException) as error:
                said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            idle = 0 if at > before else idle + 1
            if idle >= self._tries:
                raise AgentError(
                    f"no byte came in {idle} tries: {said}", "see whether the host reaches the source", where=file.path
                )
            if at < end and idle:
                self._progress.stop.wait(min(_LONGEST_WAIT_S, max(pause, self._backoff_s * min(idle, 5))))

    def _stream(self, stream: Any, first: int, start: int, end: int, buffer: memoryview) -> Iterator[memoryview]:
        # No more at a time than comes in a quarter of a second: what is in the buffer is lost with the connection.
        at, size = first, _LEAST * 4
        me = threading.get_ident()
        while at < end:
            most = min(size, self._limiter.at_once, (start if at < start else end) - at)
            began = time.monotonic()
            self._reading[me] = (stream, began)
            try:
                count = stream.readinto(buffer[:most])
            finally:
                self._reading.pop(me, None)
            if not count:
                return
            took = time.monotonic() - began
            if took < 0.1:
                size = min(size * 2, len(buffer))
            elif took > 0.25:
                size = max(size // 2, _LEAST)
            at += count
            self._limiter.take(count, self._progress.stop.wait)
            self._progress.go_on()
            if at > start:
                yield buffer[:count]

    def break_stalled(self, *, all_of_them: bool = False) -> None:
        """Cut streams of which not even a small block came for long; whoever reads them tries again, or stops."""
        now = time.monotonic()
        for stream, began in list(self._reading.values()):
            if all_of_them or now - began > self._stall_s:
                _cut(stream)


def _cut(stream: Any) -> None:
    try:
        with socket.socket(fileno=os.dup(stream.fileno())) as connection:
            connection.shutdown(socket.SHUT_RDWR)
    except (OSError, ValueError, AttributeError):
        return  # it has ended meanwhile, or is no connection


def _has_more(stream: Any) -> bool:
    try:
        return bool(stream.read(1))
    except (OSError, HTTPException):
        return False


def _hopeless(file: WantedFile, error: SourceError) -> AgentError:
    # Refused credentials are the same for every file; a file that is not there says nothing of the others.
    kind = AgentError if error.status in (401, 403) else FileFailed
    return kind(error.what, error.remedy or "compare the manifest with the source", where=file.path)
