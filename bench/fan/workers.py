"""The processes on the hosts, each in its host's namespace: they take part until they are ended."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.fan.links import PORT, SOURCE
from bench.fan.model import model
from metalserve.weights.agent.config import SwarmConfig, read_job
from metalserve.weights.agent.torrent import piece_size_for


def work_torrents(work: str) -> None:
    """Make the torrents of version 1 and of both versions, which only libtorrent makes."""
    import libtorrent as lt

    files = lt.file_storage()
    for each in sorted(model(Path(work)), key=lambda each: each.path):
        files.add_file(f"model/{each.path}", each.size)
    for name, flags, private in (("v1-plain", 64, True), ("hybrid-plain", 0, True), ("open-v1", 64, False)):
        torrent = lt.create_torrent(files, piece_size_for(files.total_size()), flags)
        torrent.set_priv(private)
        lt.set_piece_hashes(torrent, f"{work}/source")
        Path(work, f"{name}.torrent").write_bytes(lt.bencode(torrent.generate()))


def work_libtorrent(work: str, kind: str, tls: str, directory: str, own: str, role: str, peers: str) -> None:
    """Take part as a bare libtorrent with the agent's settings; a host ends when all hosts have everything."""
    import libtorrent as lt

    from metalserve.weights.agent.engine import settings_of

    others = [f"{each}:{PORT}" for each in peers.split(",")]
    number = int(own.rpartition(".")[2]) - 1
    keys = f"{work}/keys-{number}" if tls == "tls" else ""
    session = lt.session(settings_of(SwarmConfig("", f"{own}:{PORT}", tuple(others), keys)))
    wanted = lt.add_torrent_params()
    wanted.ti = lt.torrent_info(lt.bdecode(Path(work, f"{kind}-{tls}.torrent").read_bytes()))
    wanted.save_path = directory
    flags = lt.torrent_flags
    seeder = directory.endswith("/source")
    wanted.flags = flags.seed_mode if seeder else flags.update_subscribe
    if role == "web":
        wanted.url_seeds = [f"http://{SOURCE}:8080/"]
    handle = session.add_torrent(wanted)
    if keys:
        Path(keys, "dh.pem").write_text("")
        handle.set_ssl_certificate(f"{keys}/cert.pem", f"{keys}/key.pem", f"{keys}/dh.pem", "")
    told = False
    turn = 0
    while True:
        if turn % 20 == 0 and not told:
            for each in others:
                handle.connect_peer((each.rpartition(":")[0], PORT), 0, 0)
        turn += 1
        time.sleep(0.1)
        if not seeder and not told and handle.status().is_seeding:
            handle.flush_cache()
            Path(directory, ".done").touch()
            told = True


def work_agent(job: str, directory: str, work: str) -> None:
    """Run the agent's swarm, as the unit on a host does."""
    from metalserve.weights.agent.progress import Progress
    from metalserve.weights.agent.swarm import swarm

    os.environ["MS_RUN"] = f"{work}/run-{Path(directory).name}"
    wanted = read_job(job)
    progress = Progress(wanted.key, wanted.total, len(wanted.files))
    swarm(wanted, Path(directory), wanted.files, progress)
    found = progress.snapshot()
    print(json.dumps({"peers": found["bytes_from_peers"], "source": found["bytes_from_source"]}), flush=True)
    Path(directory, ".done").touch()
    while True:
        time.sleep(1.0)  # it goes on giving until it is ended


def work_chain(work: str, directory: str, own: str, before: str, after: str) -> None:
    """Take the files one after the other from the host before (or the source), and pass them on as they arrive."""
    import urllib.request

    listener = socket.create_server((own, 7000)) if after == "1" else None
    upstream = None
    if before != "-":
        while upstream is None:
            with contextlib.suppress(OSError):
                upstream = socket.create_connection((before, 7000))
    downstream = listener.accept()[0] if listener else None
    queue: list[bytes] = []
    lock = threading.Condition()

    def pass_on() -> None:
        while True:
            with lock:
                while not queue:
                    lock.wait()
                chunk = queue.pop(0)
                lock.notify_all()
            if not chunk:
                return
            if downstream is not None:
                downstream.sendall(chunk)

    sender = threading.Thread(target=pass_on)
    sender.start()
    for each in model(Path(work)):
        stream: Any = urllib.request.urlopen(f"http://{SOURCE}:8080/model/{each.path}") if upstream is None else None
        left = each.size
        with Path(directory, each.path).open("wb") as file:
            while left:
                size = min(left, 1 << 18)
                chunk = stream.read(size) if upstream is None else upstream.recv(size)
                left -= len(chunk)
                file.write(chunk)
                with lock:
                    while len(queue) > 64:
                        lock.wait()
                    queue.append(chunk)
                    lock.notify_all()
    with lock:
        queue.append(b"")
        lock.notify_all()
    sender.join()
    Path(directory, ".done").touch()


WORKERS: dict[str, Callable[..., None]] = {
    "torrents": work_torrents,
    "libtorrent": work_libtorrent,
    "agent": work_agent,
    "chain": work_chain,
}


def work(name: str, *words: str) -> int:
    """Be a worker, from the moment that all of them are there: what starting Python costs is no part of the run."""
    gate = Path(os.environ["FANOUT_GATE"]) if "FANOUT_GATE" in os.environ else None
    if gate is not None:
        import libtorrent  # noqa: F401

        from metalserve.weights.agent import source, swarm  # noqa: F401

        Path(f"{gate}-{os.getpid()}").touch()
        while not gate.exists():
            time.sleep(0.01)
    WORKERS[name](*words)
    return 0
