"""Who fetches what from the source: every host takes its own share of the pieces, the swarm spreads them.

A piece that a peer has is never asked of the source, so that N hosts together fetch about one copy. A host whose
share is done helps with what nobody has yet; where peers turn out slower than the source, it fetches on its own.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any

from .config import WantedFile
from .torrent import TorrentError, decode

STREAMS = 2
"""Requests at a time: each piece is whole, and with that of use to others, sooner than with many."""

RUN_BYTES = 32 << 20
"""Bytes asked for in one request: large enough that asking costs nothing, small enough to share the work by it."""


@dataclass(frozen=True)
class Piece:
    """One piece of a torrent.

    Attributes:
        index: its number in the torrent.
        file: the file it is of; a piece of a v2 torrent is of one file only.
        start: place of its first byte in the file.
        length: bytes.
    """

    index: int
    file: WantedFile
    start: int
    length: int


def pieces_of(torrent: bytes, files: Sequence[WantedFile]) -> list[Piece]:
    """Return the pieces of a torrent in their order.

    Raises:
        TorrentError: it is none of version 2, or not of exactly these files.
    """
    data = decode(torrent)
    try:
        info = data[b"info"]
        piece_size = int(info[b"piece length"])
        found = dict(_leaves(info[b"file tree"], ()))
    except (TypeError, KeyError, ValueError, AttributeError):
        raise TorrentError("is no torrent of version 2") from None
    wanted = {tuple(each.path.encode().split(b"/")): each for each in files}
    if found != {path: each.size for path, each in wanted.items()}:
        raise TorrentError("is of other files than the manifest")
    pieces: list[Piece] = []
    for path in sorted(wanted):
        each = wanted[path]
        for start in range(0, each.size, piece_size):
            pieces.append(Piece(len(pieces), each, start, min(piece_size, each.size - start)))
    return pieces


def _leaves(tree: Any, above: tuple[bytes, ...]) -> list[tuple[tuple[bytes, ...], int]]:
    found: list[tuple[tuple[bytes, ...], int]] = []
    for name, below in tree.items():
        if b"" in below:
            found.append(((*above, name), int(below[b""][b"length"])))
        elif len(above) < 64:
            found += _leaves(below, (*above, name))
    return found


class Shares:
    """What is still to be fetched from the source by this host. May be used by several threads at once.

    Args:
        pieces: of the torrent.
        rank: place of this host among the hosts of the swarm, from 0.
        hosts: how many there are.
        streams: how many threads take.
        wanted: the pieces that this host lacks at all; all when None.
    """

    def __init__(
        self, pieces: Sequence[Piece], rank: int, hosts: int, streams: int, wanted: set[int] | None = None
    ) -> None:
        count = len(pieces)
        self._pieces = pieces
        self._lock = threading.Lock()
        shares = [range(each * count // hosts, (each + 1) * count // hosts) for each in range(hosts)]
        self._own = shares.pop(rank)
        self._others = [_Other(share) for share in shares]
        piece = max((each.length for each in pieces), default=1)
        self._longest = max(1, min(RUN_BYTES // piece, len(self._own) // (2 * streams)))
        self._no_use = set(range(count)) - wanted if wanted is not None else set()
        self._have: Sequence[bool] = [False] * count
        self._at_peers: Sequence[int] = [0] * count
        self._taken: set[int] = set()
        self._alone = False

    def update(self, have: Sequence[bool], at_peers: Sequence[int], now: float, *, alone: bool) -> None:
        """Take note of what this host has and how many peers have each piece.

        Args:
            have: for every piece whether it is here.
            at_peers: for every piece how many peers have it.
            now: seconds of a monotonic clock.
            alone: peers are slower than the source, which is to be asked for everything.
        """
        with self._lock:
            self._have = have
            self._at_peers = at_peers if len(at_peers) == len(self._pieces) else [0] * len(self._pieces)
            self._alone = alone
            for other in self._others:
                other.update(sum(1 for index in other.share if self._at_peers[index]), now)

    def take(self) -> list[Piece]:
        """Return the next pieces to fetch, in a row of one file; empty when there is nothing to fetch now."""
        with self._lock:
            among: Container[int] = self._own
            first, most = next((index for index in self._own if self._wanted(index)), None), self._longest
            if first is None:
                # the other shares are under way: only what does not come, and from where nobody is soon
                lacking = [
                    index
                    for other in self._others
                    if self._alone or other.late
                    for index in other.share
                    if self._wanted(index)
                ]
                if not lacking:
                    return []
                among, first, most = lacking, random.choice(lacking), 2  # noqa: S311
            run = [self._pieces[first]]
            for piece in self._pieces[first + 1 : first + most]:
                if piece.file is not run[0].file or piece.index not in among or not self._wanted(piece.index):
                    break
                run.append(piece)
            self._taken.update(piece.index for piece in run)
            return run

    def wanted(self, piece: Piece) -> bool:
        """Tell whether a piece that was taken is still worth fetching."""
        with self._lock:
            return not self._have[piece.index] and (self._alone or not self._at_peers[piece.index])

    def give_back(self, pieces: Sequence[Piece]) -> None:
        """Let pieces that were taken, and did not come, be fetched again."""
        with self._lock:
            self._taken.difference_update(piece.index for piece in pieces)

    def wrong(self, index: int) -> None:
        """The source gave wrong bytes for a piece: it is not asked for them again."""
        with self._lock:
            self._no_use.add(index)

    def _wanted(self, index: int) -> bool:
        if self._have[index] or index in self._taken or index in self._no_use:
            return False
        return self._alone or not self._at_peers[index]


class _Other:
    """How another host gets on with its share."""

    SILENT_S = 3.0
    SLOW_S = 15.0

    def __init__(self, share: range) -> None:
        self.share = share
        self.late = False
        self._there = -1
        self._begun = self._came = 0.0

    def update(self, there: int, now: float) -> None:
        """`there` of its pieces are at peers now. Late: nothing new, or long to go at its pace."""
        if self._there < 0:
            self._begun = self._came = now
        if there > self._there:
            self._there, self._came = there, now
        left = len(self.share) - there
        takes = left * (now - self._begun) / there if there else 0.0
        self.late = now - self._came > self.SILENT_S or takes > self.SLOW_S + (now - self._begun)


class Feeder:
    """Threads that fetch pieces from the source and give them to the engine.

    Args:
        shares: what to fetch.
        read: returns an open stream of a piece's file from a place to before another; used by several threads.
        give: hands a whole piece over; may wait.
        streams: how many threads.
        pause: called with the bytes that have come; waits where a rate is to be kept.
    """

    PATIENCE = 5
    """Failures in a row after which a thread leaves the source alone: what is lacking is fetched directly later,
    which has a policy of its own for sources that fail."""

    def __init__(
        self,
        shares: Shares,
        read: Callable[[WantedFile, int, int], Any],
        give: Callable[[Piece, bytes], None],
        streams: int,
        pause: Callable[[int], None] = lambda length: None,
    ) -> None:
        self._shares = shares
        self._read = read
        self._give = give
        self._pause = pause
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.bytes = 0
        self.error = ""
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(streams)]

    @property
    def running(self) -> bool:
        """Whether any thread still fetches or waits for something to fetch."""
        return any(thread.is_alive() for thread in self._threads)

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_s: float = 1.0) -> None:
        """End; a thread that hangs in the source is left behind, whatever it still brings is dropped."""
        self._stop.set()
        until = time.monotonic() + timeout_s
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, until - time.monotonic()))

    def _work(self) -> None:
        failures = 0
        while not self._stop.is_set() and failures < self.PATIENCE:
            run = self._shares.take()
            if not run:
                self._stop.wait(0.2)
                continue
            try:
                self._fetch(run)  # takes what it has handed over out of `run`
                failures = 0
            except Exception as error:  # whatever a source raises, the swarm goes on without it
                failures += 1
                self.error = str(error)
                self._stop.wait(min(0.5 * 2**failures, 10.0))
            finally:
                self._shares.give_back(run)

    def _fetch(self, run: list[Piece]) -> None:
        first, last = run[0], run[-1]
        with self._read(first.file, first.start, last.start + last.length) as stream:
            while run and not self._stop.is_set() and self._shares.wanted(run[0]):
                data = self._exactly(stream, run[0].length)
                with self._lock:
                    self.bytes += len(data)
                self._give(run[0], data)
                del run[0]

    def _exactly(self, stream: Any, length: int) -> bytes:
        data = bytearray(length)
        view, at = memoryview(data), 0
        while at < length:
            count = stream.readinto(view[at : at + (1 << 20)])
            if not count:
                raise OSError("the source ended before the piece did")
            self._pause(count)
            at += count
        return bytes(data)
