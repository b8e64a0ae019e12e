"""Fan-out: the time until six hosts have a model, against the time of one host alone, on links of one shaped rate.

    python bench/fanout.py [--mbit 100] [--mib 256] [--hosts 6] [--rounds 2] [--only NAME ...] [--python PYTHON]

A source and the hosts are network namespaces on one bridge; every link, the source's too, is shaped to the same rate
in both directions (tc tbf). The ways: each host downloads all of it (star), a chain in which each host passes on what
arrives, libtorrent in several set-ups, aria2 where it is installed, and the agent's own swarm (`agent`). All run on
the cores of this one machine, that do the hashing and the encryption of all seven: the rate must be low enough for
the links to be what limits, so the share of the cores that a run used is printed beside it. Root is needed.
PYTHON is one with libtorrent, by default the one that runs this.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from metalserve.weights.agent.config import Job, SourceConfig, SwarmConfig, WantedFile, read_job  # noqa: E402
from metalserve.weights.agent.torrent import make_torrent, piece_size_for, with_authority  # noqa: E402

SOURCE = "10.77.0.1"
PORT = 6881
LIMIT = 1.5
"""Times of one host that six may take (issue 5)."""


def address(number: int) -> str:
    """Return the address of host `number`, from 1; the source is 0."""
    return f"10.77.0.{number + 1}"


# ---- the links ----------------------------------------------------------------------------------------------------


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@contextlib.contextmanager
def links(hosts: int, mbit: float, source_mbit: float) -> Iterator[str]:
    """Namespaces PREFIX0 (the source) to PREFIXn on a bridge, every link shaped in both directions; yields PREFIX."""
    prefix = f"msf{os.getpid() % 10000}-"
    names = [f"{prefix}b", *(f"{prefix}{i}" for i in range(hosts + 1))]
    try:
        for name in names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", names[0], "link", "add", "br0", "type", "bridge")
        ip("-n", names[0], "link", "set", "br0", "up")
        for i in range(hosts + 1):
            host = names[i + 1]
            ip("-n", names[0], "link", "add", f"p{i}", "type", "veth", "peer", "name", "eth0", "netns", host)
            ip("-n", names[0], "link", "set", f"p{i}", "master", "br0", "up")
            ip("-n", host, "addr", "add", f"{address(i)}/24", "dev", "eth0")
            ip("-n", host, "link", "set", "eth0", "up")
            for name, device in ((names[0], f"p{i}"), (host, "eth0")):
                rate = source_mbit if i == 0 else mbit
                words = f"qdisc add dev {device} root tbf rate {rate}mbit burst 256kb latency 30ms"
                subprocess.run(["tc", "-n", name, *words.split()], check=True)
        yield prefix
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, stderr=subprocess.DEVNULL)


# ---- one run ------------------------------------------------------------------------------------------------------


class Run:
    """One way, once: the source's process and one process a host, each in its namespace."""

    def __init__(self, work: Path, prefix: str, hosts: int, python: str, aria2: list[str]) -> None:
        self.work, self.prefix, self.hosts, self.python, self.aria2 = work, prefix, hosts, python, aria2
        self.children: list[subprocess.Popen[bytes]] = []
        self.gate, self.waiting = work / "gate", 0

    def go(self) -> None:
        """Wait until every worker is there, and let them begin."""
        while len(list(self.work.glob("gate-*"))) < self.waiting:
            time.sleep(0.01)
        self.gate.touch()

    def start(self, host: int, command: list[str]) -> subprocess.Popen[bytes]:
        """Start `command` on a host."""
        log = (self.work / f"log-{host}").open("ab")
        gate = {"FANOUT_GATE": str(self.gate)} if "worker" in command else {}
        self.waiting += bool(gate)
        child = subprocess.Popen(
            ["ip", "netns", "exec", f"{self.prefix}{host}", *command],
            stdout=log,
            stderr=log,
            env={**os.environ, **gate},
        )
        self.children.append(child)
        return child

    def worker(self, host: int, *words: str) -> subprocess.Popen[bytes]:
        """Start a worker of this file on a host."""
        return self.start(host, [self.python, str(ROOT / "bench/fanout.py"), "worker", *words])

    def directory(self, host: int) -> Path:
        """Return an empty directory of a host."""
        found = self.work / f"host-{host}"
        shutil.rmtree(found, ignore_errors=True)
        found.mkdir()
        return found

    def stop(self) -> None:
        """End what was started."""
        for child in self.children:
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
        for child in self.children:
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self.children.clear()
        for each in self.work.glob("gate*"):
            each.unlink()
        self.waiting = 0


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


def libtorrent(kind: str, tls: bool, from_source: str) -> Callable[[Run], list[subprocess.Popen[bytes]]]:
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


def agent(tls: bool, *, entry: bool = False) -> Callable[[Run], list[subprocess.Popen[bytes]]]:
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


WAYS: dict[str, tuple[str, Callable[[Run], list[subprocess.Popen[bytes]]]]] = {
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


# ---- what is shared -----------------------------------------------------------------------------------------------


def model(work: Path) -> list[WantedFile]:
    """Return the files of the model."""
    return [WantedFile(*each) for each in json.loads((work / "model.json").read_text())]


def prepare(work: Path, mib: int, hosts: int, python: str) -> None:
    """Make a model of `mib` MiB in eight files and two small ones, its torrents and the certificates."""
    from metalserve.weights.credentials import authority_of, credentials_of

    source = work / "source" / "model"
    source.mkdir(parents=True)
    generator = random.Random(5)
    files = []
    for name, size in [
        *((f"part-{i}.safetensors", mib * (1 << 20) // 8 + i) for i in range(8)),
        ("config.json", 900),
        ("tokenizer.json", 2 << 20),
    ]:
        digest = hashlib.sha256()
        with (source / name).open("wb") as file:
            while (left := size - file.tell()) > 0:
                chunk = generator.randbytes(min(left, 1 << 22))
                digest.update(chunk)
                file.write(chunk)
        files.append(WantedFile(name, size, digest.hexdigest()))
    (work / "model.json").write_text(json.dumps([(each.path, each.size, each.sha256) for each in files]))
    secret = "bench" * 8
    plain = make_torrent(source, files, piece_size_for(sum(each.size for each in files)))
    for name, torrent in (("plain", plain), ("tls", with_authority(plain, authority_of(secret)))):
        (work / f"v2-{name}.torrent").write_bytes(torrent)
        (work / f"v2-{name}.base64").write_bytes(base64.encodebytes(torrent))
    for host in range(hosts + 1):
        keys = credentials_of(secret, f"host-{host}")
        directory = work / f"keys-{host}"
        directory.mkdir(mode=0o700)
        for name, text in (("ca.pem", keys.authority), ("cert.pem", keys.certificate), ("key.pem", keys.key)):
            (directory / name).write_text(text)
    subprocess.run([python, str(ROOT / "bench/fanout.py"), "worker", "torrents", str(work)], check=True)
    done = work / "aria2-done"
    done.write_text('#!/bin/sh\nkill -TERM "$PPID"\n')
    done.chmod(0o755)


def wrong(work: Path, host: int) -> list[str]:
    """Return the files that a host does not have right."""
    found = []
    for each in model(work):
        places = [work / f"host-{host}" / each.path, work / f"host-{host}" / "model" / each.path]
        place = next((p for p in places if p.exists()), None)
        with contextlib.ExitStack() as stack:
            if place is not None:
                digest = hashlib.file_digest(stack.enter_context(place.open("rb")), "sha256").hexdigest()
            if place is None or digest != each.sha256:
                found.append(each.path)
    return found


# ---- workers, each in a host's namespace --------------------------------------------------------------------------


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


# ---- all of it ----------------------------------------------------------------------------------------------------


def measure(run: Run, name: str, timeout_s: float) -> dict[str, Any]:
    """Run one way; seconds until every host has everything, the share of the cores that it used, and what is wrong."""
    begin = WAYS[name][1]
    hosts = [1] if name == "one" else range(1, run.hosts + 1)
    before, begun = _used(), time.monotonic()
    children = begin(run)
    if run.waiting or name == "aria2":
        run.go()
        begun = time.monotonic()
    pending = dict(zip(hosts, children, strict=True))
    while pending and time.monotonic() - begun < timeout_s:
        for host, child in list(pending.items()):
            if child.poll() is not None or (run.work / f"host-{host}" / ".done").exists():
                del pending[host]
        time.sleep(0.02)
    seconds = time.monotonic() - begun
    run.stop()
    cores = (_used() - before) / seconds / (os.cpu_count() or 1)
    bad = {host: wrong(run.work, host) for host in hosts}
    lacking = {host: len(files) for host, files in bad.items() if files}
    for host in lacking:
        print("\n".join((run.work / f"log-{host}").read_text().splitlines()[-8:]), file=sys.stderr)
    return {"seconds": round(seconds, 2), "cores": round(cores, 2), "wrong": lacking}


def _used() -> float:
    """Return the seconds of CPU that the processes of all runs so far have used (the source's server not)."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> int:
    """Print a table and one JSON line; exit 1 when a host has wrong bytes or the agent took too long."""
    if sys.argv[1:2] == ["worker"]:
        # what starting Python costs on this machine is no part of it: all are there before any begins
        gate = Path(os.environ["FANOUT_GATE"]) if "FANOUT_GATE" in os.environ else None
        if gate is not None:
            import libtorrent  # noqa: F401

            from metalserve.weights.agent import source, swarm  # noqa: F401

            Path(f"{gate}-{os.getpid()}").touch()
            while not gate.exists():
                time.sleep(0.01)
        WORKERS[sys.argv[2]](*sys.argv[3:])
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mbit", type=float, default=100)
    parser.add_argument("--source-mbit", type=float, default=0, help="rate of the source's link, 0 for the same")
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--hosts", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--work", default="/dev/shm", help="directory on a fast file system")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("fanout: root is needed for network namespaces")
    version = subprocess.run(
        [arguments.python, "-c", "import libtorrent; print(libtorrent.__version__)"],
        check=False,
        capture_output=True,
        text=True,
    )
    if version.returncode:
        sys.exit(
            f"fanout: {arguments.python} has no libtorrent -> install python3-libtorrent, or name another --python"
        )
    program = shutil.which("aria2c")
    names = ["one", *(n for n in arguments.only if n != "one" and (n != "aria2" or program))]
    if "aria2" in arguments.only and not program:
        print("aria2: not installed, left out")
    # What else runs on this machine must not pass for a slow link; a nice value counts within one session only.
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    work = Path(arguments.work) / f"metalserve-fanout-{os.getpid()}"
    work.mkdir()
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    try:
        prepare(work, arguments.mib, arguments.hosts, arguments.python)
        total = sum(each.size for each in model(work))
        source_mbit = arguments.source_mbit or arguments.mbit
        with links(arguments.hosts, arguments.mbit, source_mbit) as prefix:
            run = Run(work, prefix, arguments.hosts, arguments.python, [program or ""])
            server = Run(work, prefix, arguments.hosts, sys.executable, [])
            server.start(
                0,
                [
                    sys.executable,
                    "-m",
                    "metalserve.lab.fileserver",
                    str(work / "source"),
                    SOURCE,
                    "8080",
                    str(work / "requests"),
                ],
            )
            try:
                _wait_for_server(prefix)
                for _ in range(arguments.rounds):
                    for name in names:
                        results[name].append(measure(run, name, 8 * total * 8 / 1e6 / source_mbit))
                        print(f"  {name}: {results[name][-1]}", file=sys.stderr, flush=True)
            finally:
                run.stop()
                server.stop()
    finally:
        shutil.rmtree(work)
    base = statistics.median(each["seconds"] for each in results["one"])
    rows = []
    print(
        f"{total / 1e6:.0f} MB to {arguments.hosts} hosts, links of {arguments.mbit:g} Mbit/s, the source's "
        f"{source_mbit:g}; libtorrent {version.stdout.strip()}; {arguments.rounds} rounds, medians"
    )
    print(f"{'way':38} {'s':>7} {'ratio':>6} {'cores':>6}")
    for name in names:
        seconds = [each["seconds"] for each in results[name]]
        row = {
            "way": name,
            "seconds": seconds,
            "ratio": round(statistics.median(seconds) / base, 2),
            "cores": max(each["cores"] for each in results[name]),
            "wrong": [each["wrong"] for each in results[name] if each["wrong"]],
        }
        rows.append(row)
        print(
            f"{WAYS[name][0]:38} {statistics.median(seconds):7.1f} {row['ratio']:6.2f} {row['cores']:6.0%}"
            + ("  WRONG OR LATE" if row["wrong"] else "")
        )
    print(
        json.dumps(
            {
                "bench": "fanout",
                "bytes": total,
                "hosts": arguments.hosts,
                "mbit": arguments.mbit,
                "source_mbit": source_mbit,
                "libtorrent": version.stdout.strip(),
                "ways": rows,
            }
        )
    )
    ours = [row for row in rows if row["way"] in ("agent", "agent-plain")]
    return 1 if any(row["ratio"] > LIMIT or row["wrong"] for row in ours) else 0


def _wait_for_server(prefix: str) -> None:
    command = [
        "ip",
        "netns",
        "exec",
        f"{prefix}1",
        "curl",
        "-sf",
        "-o",
        "/dev/null",
        f"http://{SOURCE}:8080/model/config.json",
    ]
    for _ in range(100):
        if subprocess.run(command, check=False).returncode == 0:
            return
        time.sleep(0.1)
    sys.exit("fanout: the source does not answer")


if __name__ == "__main__":
    sys.exit(main())
