"""The swarm: hosts of one fleet share a model by libtorrent, on their private network and nowhere else.

The one module that imports `libtorrent` (Debian and Ubuntu: python3-libtorrent). No tracker, DHT, local discovery,
peer exchange or port mapping; peers are those of the configuration, every other address is refused; with credentials
all of it is TLS between certificates of the fleet's own authority.

What comes is only trusted for speed: the engine proves every piece against the torrent, and the core every file
against the manifest before it counts.
"""

from __future__ import annotations

import base64
import contextlib
import importlib
import os
import shutil
import signal
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .config import Job, SwarmConfig, WantedFile
from .errors import AgentError
from .fetch import Limiter
from .progress import RUN, Progress
from .shares import STREAMS, Feeder, Piece, Shares, pieces_of
from .source import Source
from .torrent import NAME, TorrentError
from .web import SourceError

TICK_S = 0.2
RECONNECT_S = 5.0
RATE_WINDOW_S = 10.0
"""Seconds over which the peers' rate is held against the source's."""

IN_FLIGHT_BYTES = 64 << 20
"""Bytes from the source that the engine may still have to write: bounds the memory."""

GIVEN_S = 20.0
"""Seconds after which a piece that the engine was given, and does not have, is fetched once more."""

# RFC 7919, ffdhe2048. TLS 1.3 does not use it, but libtorrent wants a file to be there.
_DH = """-----BEGIN DH PARAMETERS-----
MIIBCAKCAQEA//////////+t+FRYortKmq/cViAnPTzx2LnFg84tNpWp4TZBFGQz
+8yTnc4kmz75fS/jY2MMddj2gbICrsRhetPfHtXV/WVhJDP1H18GbtCFY2VVPe0a
87VXE15/V8k1mE8McODmi3fipona8+/och3xWKE2rec1MKzKT0g6eXq8CrGCsyT7
YdEIqUuyyOP7uWrat2DX9GgdT0Kj3jlN9K5W7edjcrsZCwenyO4KbXCeAvzhzffi
7MA0BM0oNC9hkXL+nOmFg/+OTxIy7vKBg8P+OxtMb61zO7X8vC7CIAXFjvGDfRaD
ssbzSibBsu/6iGtCOGEoXJf//////////wIBAg==
-----END DH PARAMETERS-----
"""


# bits and numbers of libtorrent's interface, which its Python module names differently from version to version
_ERROR, _STORAGE, _STATUS = 1, 8, 64
_COUNTERS, _PIECES = 2, 8
_HANDSHAKE, _CONNECTING = 64, 128
_PAD = 1
_PRIORITY = 4
_NOT_YET = (0, 1, 6, 7)  # states before a torrent takes anything: queued, checking, allocating


class Trouble(AgentError):
    """The swarm cannot be used; the model is fetched directly."""


def settings_of(config: SwarmConfig) -> dict[str, Any]:
    """Return the settings of a libtorrent session: a private network with few, fast and well-known peers."""
    secure = bool(config.credentials)
    address = config.listen.rpartition(":")[0]
    return {
        "listen_interfaces": config.listen + ("s" if secure else ""),
        "outgoing_interfaces": address.strip("[]"),
        "enable_dht": False,
        "enable_lsd": False,
        "enable_upnp": False,
        "enable_natpmp": False,
        "enable_ip_notifier": False,
        "enable_incoming_utp": False,
        "enable_outgoing_utp": False,
        "announce_to_all_trackers": False,
        # inside TLS nothing needs a second encryption; without it, the protocol's own is forced (no authentication)
        "in_enc_policy": 2 if secure else 0,
        "out_enc_policy": 2 if secure else 0,
        "allowed_enc_level": 3 if secure else 2,
        "user_agent": "metalserve",
        "peer_fingerprint": "-MS0000-",
        "alert_mask": _ERROR | _STORAGE | _STATUS,
        # all peers are served at once: none of them is a stranger who has to earn it
        "choking_algorithm": 0,
        "unchoke_slots_limit": -1,
        "connections_limit": 2 * len(config.peers) + 10,
        "connection_speed": 100,
        "smooth_connects": False,
        "min_reconnect_time": 1,
        "max_failcount": 100,
        "peer_connect_timeout": 5,
        "handshake_timeout": 10,
        "request_timeout": 10,
        "piece_timeout": 10,
        "peer_timeout": 30,
        # a fast link needs much under way; blocks are 16 KiB
        "request_queue_time": 1,
        "tick_interval": 100,
        "unchoke_interval": 1,
        "max_out_request_queue": 128,
        "max_allowed_in_request_queue": 128,
        "send_buffer_low_watermark": 256 << 10,
        "send_buffer_watermark": 4 << 20,
        "send_buffer_watermark_factor": 150,
        "max_queued_disk_bytes": 64 << 20,
        "initial_picker_threshold": 0,
        "file_pool_size": 200,
    }


class Node:
    """One host in the swarm of one model.

    Args:
        job: whose model.
        content: directory that holds the model's files or is to hold them.
        work: directory for what lives as long as the node; made anew.
        lacking: paths of the files that may be written; None when all is there and nothing is ever written.

    Raises:
        Trouble: libtorrent is missing, or the torrent or the credentials are of no use.
    """

    def __init__(self, job: Job, content: Path, work: Path, lacking: set[str] | None) -> None:
        if job.swarm is None:
            raise Trouble("no swarm is configured")
        try:
            self._lt: Any = importlib.import_module("libtorrent")
        except ImportError as error:
            raise Trouble(f"libtorrent is missing ({error})", "install python3-libtorrent") from None
        self.config = job.swarm
        self._work = work
        torrent = _torrent_at(self.config.torrent)
        try:
            self.pieces = pieces_of(torrent, job.files)
            self.info: Any = self._lt.torrent_info(self._lt.bdecode(torrent))
        except (TorrentError, RuntimeError, ValueError) as error:
            raise Trouble(str(error), "run the weights role again", where=self.config.torrent) from None
        found = self.info.files()
        named = {found.file_path(i) for i in range(found.num_files()) if not found.file_flags(i) & _PAD}
        if named != {f"{NAME}/{each.path}" for each in job.files} or self.info.num_pieces() != len(self.pieces):
            raise Trouble("has names that libtorrent does not keep", where=self.config.torrent)
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(mode=0o700, parents=True)
        (work / NAME).symlink_to(content.resolve(), target_is_directory=True)
        self._peers = [_endpoint(each) for each in self.config.peers]
        self.session: Any = self._lt.session(settings_of(self.config))
        self.session.set_ip_filter(self._filter())
        self._next_round = 0.0
        self.handle = self._add(lacking)

    def _filter(self) -> Any:
        refuse = self._lt.ip_filter()
        refuse.add_rule("0.0.0.0", "255.255.255.255", 1)  # noqa: S104 - a range of addresses
        refuse.add_rule("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 1)
        for address, _ in self._peers:
            refuse.add_rule(address, address, 0)
        return refuse

    def _add(self, lacking: set[str] | None) -> Any:
        flags = self._lt.torrent_flags
        wanted = self._lt.add_torrent_params()
        wanted.ti = self.info
        wanted.save_path = str(self._work)
        wanted.flags = flags.apply_ip_filter | flags.disable_dht | flags.disable_lsd | flags.disable_pex
        if lacking is None:
            # upload_mode: what was published is never written to, even where a piece turns out wrong on the drive
            wanted.flags |= flags.seed_mode | flags.upload_mode
        else:
            files = self.info.files()
            paths = (files.file_path(i)[len(NAME) + 1 :] for i in range(files.num_files()))
            wanted.file_priorities = [_PRIORITY if path in lacking else 0 for path in paths]
        secure = bool(self.config.credentials)
        if secure:
            wanted.flags |= flags.paused  # until it has its certificate
        handle = self.session.add_torrent(wanted)
        if secure:
            self._show_certificate(handle)
            handle.resume()
        # of the torrent, not of the session: those of the session do not count on a local network
        handle.set_upload_limit(self.config.upload_bytes_s)
        handle.set_download_limit(self.config.download_bytes_s)
        return handle

    def _show_certificate(self, handle: Any) -> None:
        directory = Path(self.config.credentials)
        for name in ("cert.pem", "key.pem"):
            if not (directory / name).is_file():
                raise Trouble("is missing", "run the weights role again", where=str(directory / name))
        parameters = self._work / "dh.pem"
        parameters.write_text(_DH)
        handle.set_ssl_certificate(str(directory / "cert.pem"), str(directory / "key.pem"), str(parameters), "")

    def alerts(self) -> Iterator[Any]:
        """Yield what the engine has to say since the last call, by the name of its class."""
        for alert in self.session.pop_alerts():
            yield type(alert).__name__, alert

    def connect(self) -> int:
        """Dial the peers that are not connected, every few seconds; returns how many are."""
        connected = {each.ip[0] for each in self.handle.get_peer_info() if not _connecting(each)}
        now = time.monotonic()
        if now >= self._next_round:
            self._next_round = now + RECONNECT_S
            for endpoint in self._peers:
                if endpoint[0] not in connected:
                    self.handle.connect_peer(endpoint, 0, 0)
        return len(connected)

    def close(self) -> None:
        """Leave the swarm; returns when nothing is written any more."""
        if self.session is None:
            return
        self.session.remove_torrent(self.handle)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and not any(name == "torrent_removed_alert" for name, _ in self.alerts()):
            self.session.wait_for_alert(200)
        self.handle = None
        self.session = None  # waits for the engine's threads
        shutil.rmtree(self._work, ignore_errors=True)


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
        source = Source(job.source, _secret(job))
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
        last = -1
        try:
            while True:
                trouble = self._listen()
                status = node.handle.status(_COUNTERS | _PIECES)
                checking = int(status.state) in _NOT_YET
                if len(status.pieces) == len(node.pieces):
                    have = list(status.pieces)
                node.connect()
                now = time.monotonic()
                peers, source = int(status.total_payload_download), self._feeder.bytes
                self._count(peers, source)
                if peers + source > last or checking:
                    last, moved = peers + source, now
                if not checking and all(have[index] for index in self._wanted):
                    return self._flushed(), have
                if not checking:
                    at_peers = node.handle.piece_availability()
                    self._settle(have)
                    self._shares.update(have, at_peers, now, alone=self._too_slow(now, peers, source))
                    if not feeding:
                        feeding = True
                        self._feeder.start()
                if self._progress.stop.is_set():
                    return False, have
                if trouble or now - moved > self._stall_s:
                    why = trouble or f"no byte from anybody for {self._stall_s} s"
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
            # the engine counts a piece at the end of a file as a whole one, filled with zeros
            self._node.handle.add_piece(piece.index, data.ljust(self._node.info.piece_size(piece.index), b"\0"), 0)

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


def _secret(job: Job) -> str:
    if not job.authorisation:
        return ""
    try:
        return Path(job.authorisation).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise Trouble(f"cannot be read: {error}", "run the weights role again", where=job.authorisation) from None


def _torrent_at(path: str) -> bytes:
    if not path:
        raise Trouble("no torrent is there yet")
    try:
        return base64.b64decode(Path(path).read_bytes(), validate=False)
    except (OSError, ValueError) as error:
        raise Trouble(f"cannot be read: {error}", "run the weights role again", where=path) from None


def _endpoint(text: str) -> tuple[str, int]:
    address, _, port = text.rpartition(":")
    return address.strip("[]"), int(port)


def _connecting(peer: Any) -> bool:
    return bool(int(peer.flags) & (_HANDSHAKE | _CONNECTING))


__all__ = ["Node", "Trouble", "leave", "seed", "settings_of", "swarm"]
