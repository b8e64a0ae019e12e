"""Hosts of one fleet on addresses of their own of the loopback network, each a process of the agent."""

from __future__ import annotations

import base64
import importlib
import importlib.util
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from metalserve.paths import ROOT
from metalserve.weights.agent.config import SwarmConfig
from metalserve.weights.agent.torrent import make_torrent, with_authority
from metalserve.weights.credentials import authority_of, credentials_of
from tests.weights.agent_host import Host, content, wanted

SECRET = "5e" * 16
PIECE = 64 << 10
MODEL = {
    "config.json": b"{}",
    "empty.txt": b"",
    "sub dir/part 1.safetensors": content(1_500_000, 1),
    "sub dir/part 2.safetensors": content(1_500_001, 2),
    "part 3.safetensors": content(3 * PIECE, 3),
}
TOTAL = sum(map(len, MODEL.values()))


def engine() -> Any:
    """Return libtorrent; what the lock has must be there, elsewhere the tests of it are left out."""
    if importlib.util.find_spec("libtorrent") is None:
        assert "\nlibtorrent==" not in (ROOT / "requirements.lock").read_text(), "libtorrent is locked, but not there"
        pytest.skip("libtorrent is not installed")
    return importlib.import_module("libtorrent")


class SwarmHosts:
    """Hosts that share MODEL.

    Args:
        root: directory for all of it.
        url: of the source; an empty one has nothing.
        count: how many hosts the configuration names; they run only when they are started.
        changes: of every host's job; `swarm` are changes of its SwarmConfig.
    """

    def __init__(
        self, root: Path, url: str, count: int, *, swarm: dict[str, Any] | None = None, **changes: Any
    ) -> None:
        self.lt = engine()
        self.root, self.count = root, count
        self.port = _free_port()
        self.torrent = root / "model.torrent"
        self.torrent.write_bytes(base64.encodebytes(self._made()))
        self.addresses = [f"127.0.0.{number}" for number in range(2, 2 + count)]
        self.hosts = []
        for number, address in enumerate(self.addresses):
            peers = tuple(f"{each}:{self.port}" for each in self.addresses if each != address)
            config = SwarmConfig(
                str(self.torrent), f"{address}:{self.port}", peers, self.keys(SECRET, number), stall_s=20
            )
            config = replace(config, **(swarm or {}))
            self.hosts.append(Host(self.root / f"host-{number}", MODEL, url, swarm=config, **changes))

    def _made(self) -> bytes:
        directory = self.root / "made"
        for name, body in MODEL.items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_bytes(body)
        return with_authority(make_torrent(directory, wanted(MODEL), PIECE), authority_of(SECRET))

    def keys(self, secret: str, number: int) -> str:
        """Return a directory with what a host of the fleet of `secret` shows."""
        directory = self.root / f"keys-{secret[:4]}-{number}"
        directory.mkdir(exist_ok=True)
        made = credentials_of(secret, f"host-{number}")
        (directory / "cert.pem").write_text(made.certificate)
        (directory / "key.pem").write_text(made.key)
        return str(directory)

    def start(self, number: int, command: str = "stage") -> subprocess.Popen[str]:
        """Start the agent on a host, which has the engine beside the standard library."""
        host = self.hosts[number]
        site = Path(self.lt.__file__ or "").parent
        site = site.parent if site.name == "libtorrent" else site
        return host.start(command, host.config, PYTHONPATH=f"{host.lib}:{site}")

    def done(self, number: int) -> int:
        """Return how many bytes of the model a host has."""
        try:
            return int(self.hosts[number].progress()["bytes_done"])
        except (OSError, ValueError):
            return 0

    def stranger(self, address: str, keys: str) -> tuple[Any, Any]:
        """Return a bare session of the engine at `address` that joins, and its torrent; it has nothing yet."""
        from metalserve.weights.agent.engine import settings_of

        directory = self.root / f"stranger-{address}-{Path(keys).name}"
        directory.mkdir()
        settings = settings_of(SwarmConfig("", f"{address}:{self.port}", ("127.0.0.2:1",), keys))
        session = self.lt.session(settings)
        joining = self.lt.add_torrent_params()
        joining.ti = self.lt.torrent_info(self.lt.bdecode(base64.b64decode(self.torrent.read_bytes())))
        joining.save_path = str(directory)
        joining.flags = self.lt.torrent_flags.update_subscribe
        handle = session.add_torrent(joining)
        (directory / "dh.pem").write_text("")
        handle.set_ssl_certificate(f"{keys}/cert.pem", f"{keys}/key.pem", str(directory / "dh.pem"), "")
        return session, handle


def finished(process: subprocess.Popen[str], timeout_s: float = 90) -> str:
    """Wait for a process to end well; returns what it printed."""
    out, err = process.communicate(timeout=timeout_s)
    print(out, err)
    assert process.returncode == 0, f"{process.returncode}: {err}\n{out}"
    return out


def until(true: Callable[[], object], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, "never true"
        time.sleep(0.05)


def sockets_of(pid: int) -> set[tuple[str, str]]:
    """Return (protocol, local address) of every socket of a process."""
    inodes = set()
    for each in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(os.readlink(each))
        except OSError:
            continue
    found = set()
    for protocol in ("tcp", "udp", "tcp6", "udp6", "raw"):
        for line in Path(f"/proc/{pid}/net/{protocol}").read_text().splitlines()[1:]:
            words = line.split()
            if f"socket:[{words[9]}]" in inodes:
                packed = bytes.fromhex(words[1].split(":")[0])
                if len(packed) == 4:
                    found.add((protocol, socket.inet_ntoa(packed[::-1])))
                else:
                    found.add((protocol, socket.inet_ntop(socket.AF_INET6, packed)))
    return found


def _free_port() -> int:
    with socket.create_server(("127.0.0.2", 0)) as server:
        port = server.getsockname()[1]
    assert isinstance(port, int)
    return port


def sent(host: Host) -> dict[str, int]:
    """Return the bytes that a host took from peers and from the source."""
    progress = json.loads(json.dumps(host.progress()))
    return {"peers": progress["bytes_from_peers"], "source": progress["bytes_from_source"]}
