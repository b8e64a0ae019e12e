"""The ways in which hosts get the model: each begins its processes on the hosts and returns them."""

from __future__ import annotations

import subprocess
import time

from bench.fan.links import PORT, SOURCE, address
from bench.fan.model import model
from bench.fan.run import Run, Way
from metalserve.weights.agent.config import Job, SourceConfig, SwarmConfig


def one(run: Run) -> list[subprocess.Popen[bytes]]:
    """One host alone, four streams of curl."""
    return [_curl(run, 1)]


def star(run: Run) -> list[subprocess.Popen[bytes]]:
    """Every host downloads everything from the source."""
    return [_curl(run, host) for host in range(1, run.hosts + 1)]


def _curl(run: Run, host: int) -> subprocess.Popen[bytes]:
    target = run.directory(host)
    urls = [f"http://{SOURCE}:8080/model/{each.path}" for each in model(run.work)]
    return run.start(
        host,
        ["curl", "-sSfZ", "--parallel-max", "4", "--output-dir", str(target), "--remote-name-all", *urls],
    )


def chain(run: Run) -> list[subprocess.Popen[bytes]]:
    """Each host passes on to the next what arrives."""
    workers = []
    for host in range(run.hosts, 0, -1):
        before = "-" if host == 1 else address(host - 1)
        after = "1" if host < run.hosts else "0"
        workers.append(run.worker(host, "chain", str(run.work), str(run.directory(host)), address(host), before, after))
    return workers


def libtorrent(kind: str, tls: bool, from_source: str) -> Way:
    """Bare libtorrent: the source is a peer ('seeder') or a web seed over HTTP ('web')."""

    def begin(run: Run) -> list[subprocess.Popen[bytes]]:
        words = [str(run.work), kind, "tls" if tls else "plain"]
        everybody = [address(i) for i in range(run.hosts + 1)]
        if from_source == "seeder":
            run.worker(0, "libtorrent", *words, str(run.work / "source"), SOURCE, "seeder", ",".join(everybody[1:]))
        else:
            everybody.remove(SOURCE)
        workers = []
        for host in range(1, run.hosts + 1):
            peers = ",".join(each for each in everybody if each != address(host))
            workers.append(
                run.worker(host, "libtorrent", *words, str(run.directory(host)), address(host), from_source, peers)
            )
        return workers

    return begin


def aria2(run: Run) -> list[subprocess.Popen[bytes]]:
    """aria2, version 1; it takes no peers by name, so the hosts find one another by local discovery."""
    common = [*run.aria2, "-q", "--enable-dht=false", "--bt-enable-lpd=true", "--seed-ratio=0.0", "--listen-port=6881"]
    common += [
        "--bt-lpd-interface=eth0",
        "--bt-max-peers=0",
        "--enable-peer-exchange=true",
        "--bt-request-peer-speed-limit=100M",
    ]
    torrent = str(run.work / "open-v1.torrent")
    run.start(0, [*common, "--check-integrity=true", "--dir", str(run.work / "source"), torrent])
    time.sleep(4.0)
    return [
        run.start(
            host,
            [
                *common,
                "--file-allocation=none",
                "--dir",
                str(run.directory(host)),
                "--seed-time=600",
                "--on-bt-download-complete",
                str(run.work / "aria2-done"),
                torrent,
            ],
        )
        for host in range(1, run.hosts + 1)
    ]


def agent(tls: bool) -> Way:
    """The agent's swarm: each host takes its share from the source over HTTP and shares it."""

    def begin(run: Run) -> list[subprocess.Popen[bytes]]:
        everybody = [f"{address(i)}:{PORT}" for i in range(1, run.hosts + 1)]
        for host in range(1, run.hosts + 1):
            config = SwarmConfig(
                torrent=str(run.work / f"v2-{'tls' if tls else 'plain'}.base64"),
                listen=f"{address(host)}:{PORT}",
                peers=tuple(each for each in everybody if each != f"{address(host)}:{PORT}"),
                credentials=str(run.work / f"keys-{host}") if tls else "",
            )
            job = Job(
                key="bench",
                repository="bench/model",
                revision="0" * 40,
                store="",
                files=tuple(model(run.work)),
                source=SourceConfig("http", f"http://{SOURCE}:8080/model"),
                swarm=config,
            )
            (run.work / f"job-{host}.json").write_text(job.to_json())
        return [
            run.worker(host, "agent", str(run.work / f"job-{host}.json"), str(run.directory(host)), str(run.work))
            for host in range(1, run.hosts + 1)
        ]

    return begin


WAYS: dict[str, tuple[str, Way]] = {
    "one": ("one host alone, curl", one),
    "star": ("every host from the source, curl", star),
    "chain": ("each host passes on to the next", chain),
    "v1": ("libtorrent v1, source is a peer", libtorrent("v1", False, "seeder")),
    "hybrid": ("libtorrent hybrid, source is a peer", libtorrent("hybrid", False, "seeder")),
    "v2": ("libtorrent v2, source is a peer", libtorrent("v2", False, "seeder")),
    "v2-tls": ("libtorrent v2, source is a peer, TLS", libtorrent("v2", True, "seeder")),
    "v2-web": ("libtorrent v2, source is a web seed", libtorrent("v2", False, "web")),
    "aria2": ("aria2 v1, source is a peer", aria2),
    "agent-plain": ("agent: shares from HTTP, v2", agent(False)),
    "agent": ("agent: shares from HTTP, v2, TLS", agent(True)),
}
