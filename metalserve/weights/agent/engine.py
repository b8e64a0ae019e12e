"""The engine of the swarm: one libtorrent session for one model.

The one module that imports `libtorrent` (Debian and Ubuntu: python3-libtorrent). No tracker, DHT, local discovery,
peer exchange or port mapping; peers are those of the configuration, every other address is refused; with credentials
all of it is TLS between certificates of the fleet's own authority.
"""

from __future__ import annotations

import base64
import importlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .config import Job, SwarmConfig
from .errors import AgentError
from .shares import pieces_of
from .torrent import NAME, TorrentError

RECONNECT_S = 5.0

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

    def look(self) -> tuple[bool, list[bool], int]:
        """Return whether files are still being checked, which pieces are here, and the bytes that came from peers."""
        status = self.handle.status(_COUNTERS | _PIECES)
        have = list(status.pieces)
        if len(have) != len(self.pieces):  # nothing or everything: the engine gives no list
            have = [bool(status.is_seeding)] * len(self.pieces)
        return int(status.state) in _NOT_YET, have, int(status.total_payload_download)

    def give(self, index: int, data: bytes) -> None:
        """Hand a whole piece to the engine, which proves it like one of a peer."""
        self.handle.add_piece(index, data, 0)
        whole = self.info.piece_size(index)
        if len(data) < whole:
            # The last piece of a file: 2.0.8 takes it only filled up with zeros, 2.0.13 only as it is, and each
            # passes over what it does not take.
            self.handle.add_piece(index, data.ljust(whole, b"\0"), 0)

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


__all__ = ["Node", "Trouble", "settings_of"]
