"""The swarm: hosts of one fleet share a model by libtorrent, on their private network and nowhere else.

What comes is only trusted for speed: the engine proves every piece against the torrent, and the core every file
against the manifest before it counts.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .config import Job, WantedFile
from .engine import Node, Trouble
from .fetch import Limiter
from .progress import RUN, Progress
from .shares import STREAMS, Feeder, Piece, Shares
from .source import Source, source_of
from .web import SourceError

TICK_S = 0.2
RATE_WINDOW_S = 10.0
"""Seconds over which the peers' rate is held against the source's."""

IN_FLIGHT_BYTES = 64 << 20
"""Bytes from the source that the engine may still have to write: bounds the memory."""

GIVEN_S = 20.0
"""Seconds after which a piece that the engine was given, and does not have, is fetched once more."""

_staying: list[Node] = []
"""The node of a finished `swarm`: it goes on giving while the files are hashed, until `leave`."""


def swarm(job: Job, partial: Path, lacking: Sequence[WantedFile], progress: Progress) -> None:
    """Fill the files of `partial` through peers, and this host's share of them from the source.

    Returns when all is there, or when nothing more comes: no byte from anybody for `stall_s`, or the engine cannot go
    on. Then a file that lacks something ends after its last piece that is whole from its beginning on, and the rest
    is fetched directly. After success the host goes on giving until `leave`.

    Args:
        job: whose model.
        partial: directory being filled.
        lacking: the files that are not known to be whole.
        progress: is told what came; its `stop` ends the swarm.
    """
    leave()
    lacking = [each for each in lacking if each.size and _may_be_written(partial / each.path)]
    if not lacking:
        return
    node = None
    done = False
    have: Sequence[bool] = []
    try:
        source = source_of(job)
        node = Node(job, partial, _run() / f"{job.key}.swarm", {each.path for each in lacking})
        done, have = _Filling(job, node, lacking, progress, source).run()
    except (Trouble, SourceError, RuntimeError) as trouble:
        progress.say(f"no swarm, all is fetched directly: {trouble}")
    finally:
        if done and node is not None:
            _staying.append(node)
        elif node is not None:
            node.close()
            progress.found(-_cut(partial, lacking, node.pieces, have))


def leave() -> None:
    """Stop giving what the last `swarm` brought: its directory is about to be renamed."""
    while _staying:
        _staying.pop().close()


def seed(job: Job, published: Path) -> None:
    """Give a published model to the peers until SIGTERM.

    Raises:
        Trouble: libtorrent is missing, or the torrent or the credentials are of no use.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    node = Node(job, published, _run() / f"{job.key}.seed", None)
    try:
        while not stop.wait(1.0):
            for name, alert in node.alerts():
                if name in ("file_error_alert", "hash_failed_alert", "listen_failed_alert"):
                    print(f"seed: {alert.message()}", flush=True)
    finally:
        node.close()


class _Filling:
    """One run of `swarm`, from joining to the last piece."""

    def __init__(self, job: Job, node: Node, lacking: Sequence[WantedFile], progress: Progress, source: Source) -> None:
        self._node, self._progress, self._source = node, progress, source
        self._stall_s = node.config.stall_s
        hosts = sorted({node.config.listen, *node.config.peers})
        paths = {each.path for each in lacking}
        self._wanted = [piece.index for piece in node.pieces if piece.file.path in paths]
        self._shares = Shares(node.pieces, hosts.index(node.config.listen), len(hosts), STREAMS, set(self._wanted))
        limiter = Limiter(job.rate_bytes_s)
        self._feeder = Feeder(
            self._shares, self._open, self._give, STREAMS, lambda count: limiter.take(count, progress.stop.wait)
        )
        self._given: dict[int, float] = {}  # pieces that the engine has not taken in yet, since when
        self._room = threading.Condition()
        self._open_to_gifts = True
        self._counted = [0, 0]
        self._piece_size = max((piece.length for piece in node.pieces), default=1)
        self._rates: list[tuple[float, int, int]] = []
        self._source_rate = float(1 << 20)

    def run(self) -> tuple[bool, Sequence[bool]]:
        """Return whether everything is there, and which pieces are."""
        node, moved = self._node, time.monotonic()
        feeding = False
        have: Sequence[bool] = [False] * len(node.pieces)
        last, before = -1, 0
        try:
            while True:
                trouble = self._listen()
                checking, have, peers = node.look()
                node.connect()
                now = time.monotonic()
                source = self._feeder.bytes
                self._count(peers, source)
                if sum(have) > last or checking:  # pieces, not bytes: wrong ones may come for ever
                    last, moved = sum(have), now
                if not checking and all(have[index] for index in self._wanted):
                    return self._flushed(), have
                if not checking:
                    before = before if feeding else self._bytes(have)
                    at_peers = node.handle.piece_availability()
                    self._settle(have)
                    self._shares.update(have, at_peers, now, alone=self._too_slow(now, peers, source))
                    if not feeding:
                        feeding = True
                        self._feeder.start()
                if self._progress.stop.is_set():
                    return False, have
                if trouble or now - moved > self._stall_s:
                    why = trouble or f"nothing from anybody for {self._stall_s} s"
                    if self._feeder.error:
                        why += f"; source: {self._feeder.error}"
                    self._progress.say(f"swarm: {why}; the rest is fetched directly")
                    return False, have
                node.session.wait_for_alert(int(TICK_S * 1000))
                time.sleep(TICK_S / 4)
        finally:
            with self._room:
                self._open_to_gifts = False
                self._room.notify_all()
            self._feeder.stop()
            # what came twice, or wrong, is no more of the model
            self._progress.found(self._bytes(have) - before - sum(self._counted))

    def _bytes(self, have: Sequence[bool]) -> int:
        return sum(self._node.pieces[index].length for index in self._wanted if have[index])

    def _listen(self) -> str:
        trouble = ""
        for name, alert in self._node.alerts():
            if name == "hash_failed_alert" and int(alert.piece_index) in self._given:
                self._shares.wrong(int(alert.piece_index))
                with self._room:
                    self._given.pop(int(alert.piece_index), None)
                    self._room.notify_all()
                self._progress.say(f"swarm: the source gave wrong bytes: {alert.message()}")
            elif name in ("file_error_alert", "torrent_error_alert", "listen_failed_alert"):
                trouble = alert.message()
        return trouble

    def _count(self, peers: int, source: int) -> None:
        before_peers, before_source = self._counted
        if peers != before_peers or source != before_source:
            self._progress.moved(peers - before_peers, peers=True)
            self._progress.moved(source - before_source)
            self._counted = [peers, source]

    def _too_slow(self, now: float, peers: int, source: int) -> bool:
        """Whether peers give less than half of what the source gave when it was asked last."""
        self._rates.append((now, peers, source))
        while now - self._rates[0][0] > RATE_WINDOW_S:
            self._rates.pop(0)
        before, peers_before, source_before = self._rates[0]
        seconds = now - before
        if seconds < RATE_WINDOW_S * 0.9:
            return False
        self._source_rate = max(self._source_rate, (source - source_before) / seconds)
        return (peers - peers_before) / seconds < self._source_rate / 2

    def _open(self, file: WantedFile, start: int, end: int) -> Any:
        opened = self._source.open(file, start, end)
        if opened.start != start:
            opened.stream.close()
            raise OSError("the source cannot begin in the middle of a file")
        return opened.stream

    def _give(self, piece: Piece, data: bytes) -> None:
        with self._room:
            while self._open_to_gifts and len(self._given) * self._piece_size >= IN_FLIGHT_BYTES:
                self._room.wait(1.0)
            if not self._open_to_gifts:
                return
            self._given[piece.index] = time.monotonic()
            self._node.give(piece.index, data)

    def _settle(self, have: Sequence[bool]) -> None:
        with self._room:
            now = time.monotonic()
            for index, since in list(self._given.items()):
                if have[index] or now - since > GIVEN_S:
                    del self._given[index]
                    self._shares.give_back((self._node.pieces[index],))
            self._room.notify_all()

    def _flushed(self) -> bool:
        self._node.handle.flush_cache()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            for name, alert in self._node.alerts():
                if name == "cache_flushed_alert":
                    return True
                if name == "file_error_alert":
                    self._progress.say(f"swarm: {alert.message()}")
                    return False
            self._node.session.wait_for_alert(200)
        return False


def _may_be_written(path: Path) -> bool:
    """Whether a file may be written in place: not one that was published, which an engine may have mapped."""
    try:
        state = path.lstat()
    except FileNotFoundError:
        return True
    return stat.S_ISREG(state.st_mode) and bool(state.st_mode & 0o200) and state.st_nlink == 1


def _cut(partial: Path, lacking: Sequence[WantedFile], pieces: Sequence[Piece], have: Sequence[bool]) -> int:
    """Leave of every lacking file only what is whole from its beginning on: what a direct download goes on from.

    Returns:
        the bytes that are given up.
    """
    good: dict[str, int] = {}
    lost: dict[str, int] = {}
    for piece in pieces:
        path, there = piece.file.path, piece.index < len(have) and have[piece.index]
        if path in lost:
            lost[path] += piece.length if there else 0
        elif there:
            good[path] = piece.start + piece.length
        else:
            lost[path] = 0
    for each in lacking:
        if each.path in lost:
            with contextlib.suppress(FileNotFoundError), (partial / each.path).open("r+b") as file:
                file.truncate(good.get(each.path, 0))
    return sum(lost.get(each.path, 0) for each in lacking)


def _run() -> Path:
    return Path(os.environ.get("MS_RUN", RUN))


__all__ = ["leave", "seed", "swarm"]
