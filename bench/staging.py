"""One host stages a model: the agent against the clients that people use, over the same link, hashing included.

    python bench/staging.py [--mib 2048] [--rounds 5] [--mbit 2000] [--target DIR]

Needs root (network namespaces) and, for the clients, Debian: nginx, aria2 and rclone come as its packages, unpacked
below a scratch directory and not installed. A client that cannot be had is named in the output.

nginx gives the files, from memory, over (a) the loopback of a namespace and (b) a pair of veth devices shaped by tc.
The agent hashes while the bytes pass; clients that do not are followed by sha256sum, as many at a time as there are
cores, and those that check by themselves are measured that way too. Each client ends with its bytes on the drive
(`sync`), as the agent does. Rounds are interleaved and each client's turn moves, so that drift of the machine hits
all; the ratio is that of the medians of one run. CPU seconds are those of the client alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from metalserve.weights.agent.config import Job, SourceConfig, WantedFile  # noqa: E402
from tests.weights.standins.web import Answer, Asked, serving  # noqa: E402

REVISION = "0123456789abcdef0123456789abcdef01234567"
PACKAGES = ("nginx", "aria2", "libaria2-0", "libc-ares2", "libssh2-1", "rclone")
SERVER, CLIENT = "10.213.0.1", "10.213.0.2"
WEB, HUB = 8080, 8081
CORES = os.cpu_count() or 2


@dataclass
class Client:
    """One way to have the model in a directory, proved.

    Attributes:
        name: as it is shown.
        command: shell command, run in the target directory; $URL is the base of the files, $HUB the hub.
        ours: whether it is metalserve's.
    """

    name: str
    command: str
    ours: bool = False


def main() -> int:
    """Run all clients on both links; print tables and one JSON line. Exit 1 when one of them left wrong bytes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=2048, help="size of the model")
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mbit", type=int, default=2000, help="speed of the shaped link, Mbit/s")
    parser.add_argument("--target", type=Path, help="directory on the drive to stage to; memory when not given")
    parser.add_argument("--only", choices=["loopback", "shaped"], help="one link")
    parser.add_argument("--packages", type=Path, help="where the packages are unpacked; kept for the next run")
    parser.add_argument("--serve-hub", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve_hub:
        return serve_hub(arguments.serve_hub)
    if os.geteuid() != 0:
        sys.exit("bench/staging.py: needs root, for network namespaces")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("bench/staging.py: stopped"))  # namespaces are removed on the way
    with ExitStack() as stack:
        memory = Path("/dev/shm")
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ms-staging-", dir=memory)))
        place = arguments.target or memory
        target = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ms-target-", dir=place)))
        packages = arguments.packages or scratch / "packages"
        missing = unpack(packages)
        files = make_model(scratch / "www" / "m", arguments.mib, arguments.shards)
        clients = make_clients(scratch, packages, files, missing, target)
        load = f"{CORES} cores, load {os.getloadavg()[0]:.1f}"
        print(f"{arguments.mib} MiB in {arguments.shards} shards, {arguments.rounds} rounds, to {place}; {load}")
        for what in missing:
            print(f"missing, not measured: {what}")
        stack.enter_context(served(scratch, packages, files))
        series = {}
        for link in ("loopback", "shaped"):
            if arguments.only in (None, link):
                series[link] = measure(link, arguments, clients, files, target)
    shape = {"mib": arguments.mib, "shards": arguments.shards, "mbit": arguments.mbit, "cores": CORES}
    answer = {"bench": "staging", **shape, "load": round(os.getloadavg()[0], 1)}
    print(json.dumps({**answer, "missing": missing, "target": str(place), "links": series}))
    return 0


def unpack(packages: Path) -> list[str]:
    """Fetch and unpack the packages; return what cannot be had."""
    missing = []
    packages.mkdir(parents=True, exist_ok=True)
    if not (packages / "usr").is_dir():
        for name in PACKAGES:
            done = subprocess.run(["apt-get", "download", "-qq", name], cwd=packages, check=False, capture_output=True)
            if done.returncode:
                missing.append(f"package {name}")
        for package in packages.glob("*.deb"):
            subprocess.run(["dpkg", "-x", package, packages], check=True)
    if not (packages / "usr/sbin/nginx").exists():
        sys.exit("bench/staging.py: no nginx to serve from: apt-get cannot download it")
    return missing


def make_model(directory: Path, mib: int, shards: int) -> list[WantedFile]:
    """Write a model of random bytes; nothing of it can be compressed or found twice."""
    directory.mkdir(parents=True)
    files = []
    for number in range(1, shards + 1):
        path, digest, left = f"model-{number:05}-of-{shards:05}.safetensors", hashlib.sha256(), (mib << 20) // shards
        size = left
        with (directory / path).open("wb") as file:
            while left:
                block = os.urandom(min(left, 8 << 20))
                file.write(block)
                digest.update(block)
                left -= len(block)
        files.append(WantedFile(path, size, digest.hexdigest()))
    config = b'{"architectures": ["LlamaForCausalLM"]}'
    (directory / "config.json").write_bytes(config)
    return [*files, WantedFile("config.json", len(config), hashlib.sha256(config).hexdigest())]


def make_clients(
    scratch: Path, packages: Path, files: list[WantedFile], missing: list[str], target: Path
) -> list[Client]:
    """Return what is measured; a client whose program is not there is added to `missing`."""
    shutil.copytree(ROOT / "metalserve/weights/agent", scratch / "msweights")
    (scratch / "SUMS").write_text("".join(f"{f.sha256}  {f.path}\n" for f in files))
    (scratch / "names").write_text("".join(f"{f.path}\n" for f in files))
    sums = "".join(f"$URL/{f.path}\n  out={f.path}\n  checksum=sha-256={f.sha256}\n" for f in files)
    (scratch / "aria2-checked").write_text(sums)
    (scratch / "aria2").write_text("".join(f"$URL/{f.path}\n  out={f.path}\n" for f in files))
    share = -(-len(files) // (CORES * 4))  # a few shares a core: none waits long for another's last file
    check = (
        f"xargs -P{CORES} -d '\\n' -n{share} sh -c 'printf \"%s\\n\" \"$@\" | sha256sum --quiet -c' _ < {scratch}/SUMS"
    )
    agent = f"PYTHONPATH={scratch} MS_RUN={scratch}/run {find_python()} -B -m msweights stage"
    curl = "curl -sSf --retry 3"
    aria2 = "aria2c -q -j8 --file-allocation=none --allow-overwrite=true"
    fill = 'sed "s#\\$URL#$URL#"'
    wanted = [
        Client("agent (http)", f"{agent} {scratch}/http-$LINK.json", ours=True),
        Client("agent (hub)", f"{agent} {scratch}/hub-$LINK.json", ours=True),
        Client("curl -Z, then sha256sum", f"{curl} -Z --parallel-max 8 --remote-name-all {urls(files)} && {check}"),
        Client("xargs -P8 curl, then sha256sum", f"xargs -P8 -I@ {curl} -o @ $URL/@ < {scratch}/names && {check}"),
        Client("aria2c -x1, then sha256sum", f"{fill} {scratch}/aria2 | {aria2} -x1 -i - && {check}"),
        Client("aria2c -x4, then sha256sum", f"{fill} {scratch}/aria2 | {aria2} -x4 -s4 -i - && {check}"),
        Client(
            "aria2c, its own check", f"{fill} {scratch}/aria2-checked | {aria2} -x4 -s4 -i - --check-integrity=true"
        ),
        Client(
            "rclone copy, then sha256sum",
            f"rclone copy -q --config '' --transfers 8 --http-url $URL/ :http: . && {check}",
        ),
        Client(
            "hf download, then sha256sum",
            f"HF_ENDPOINT=$HUB HF_HOME={scratch}/hf hf download org/model --revision {REVISION} --local-dir . "
            f">{scratch}/hf.log 2>&1 && {check}",
        ),
    ]
    os.environ["PATH"] = f"{packages}/usr/bin:{packages}/usr/sbin:{Path(sys.executable).parent}:{os.environ['PATH']}"
    os.environ["LD_LIBRARY_PATH"] = f"{packages}/usr/lib/{os.uname().machine}-linux-gnu"
    for link, host in (("loopback", "127.0.0.1"), ("shaped", SERVER)):
        for kind, base in (
            ("http", f"http://{host}:{WEB}/m"),
            ("hub", f"http://{host}:{HUB}/org/model/resolve/{REVISION}"),
        ):
            job = Job(
                "bench", "org/model", REVISION, str(target / "org--model"), tuple(files), SourceConfig(kind, base)
            )
            (scratch / f"{kind}-{link}.json").write_text(job.to_json())
    programs = {"aria2c": "aria2c", "rclone": "rclone", "hf": "hf", "curl": "curl", "xargs": "curl"}
    found = []
    for client in wanted:
        program = programs.get(client.name.split()[0])
        if program and shutil.which(program) is None:
            missing.append(f"{client.name}: no {program} (pip install 'metalserve[hub]' brings hf)")
        else:
            found.append(client)
    return found


def find_python() -> str:
    """Return the Python that hosts have: that of the system, since the agent needs nothing else."""
    return "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable


def urls(files: list[WantedFile]) -> str:
    """Return the URLs of all files as words for the shell."""
    return " ".join(f"$URL/{quote(file.path)}" for file in files)


@contextmanager
def served(scratch: Path, packages: Path, files: list[WantedFile]) -> Iterator[None]:
    """Serve the model in a namespace of its own, which a pair of veth devices joins with the clients'."""
    names = (f"ms-server-{os.getpid()}", f"ms-client-{os.getpid()}")
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = " ".join(f"{kind}_temp_path {scratch}/nginx-{kind};" for kind in kinds)
    (scratch / "nginx.conf").write_text(
        f"worker_processes {CORES}; pid {scratch}/nginx.pid; error_log {scratch}/nginx.log; daemon off; user root;\n"
        "events { worker_connections 512; }\n"
        f"http {{ {temporary} access_log off; sendfile on; tcp_nopush on; keepalive_requests 10000; "
        f"server {{ listen {WEB}; root {scratch}/www; autoindex on; }} }}\n"
    )
    (scratch / "hub.json").write_text(json.dumps([[f.path, f.size, f.sha256] for f in files]))
    servers: list[subprocess.Popen[bytes]] = []
    for name in names:
        ip("netns", "add", name)
    try:
        ip("link", "add", "ms0", "netns", names[0], "type", "veth", "peer", "name", "ms0", "netns", names[1])
        for name, address in zip(names, (SERVER, CLIENT), strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "ms0")
            for device in ("lo", "ms0"):
                ip("-n", name, "link", "set", device, "up")
        inside = ["ip", "netns", "exec", names[0]]
        nginx = [str(packages / "usr/sbin/nginx"), "-p", str(scratch), "-c", str(scratch / "nginx.conf")]
        servers.append(subprocess.Popen([*inside, *nginx]))
        servers.append(subprocess.Popen([*inside, sys.executable, __file__, "--serve-hub", str(scratch / "hub.json")]))
        for port in (WEB, HUB):
            wait_for([*inside, "curl", "-sf", "-o", "/dev/null", f"http://127.0.0.1:{port}/"])
        yield
    finally:
        for server in servers:
            server.terminate()
            server.wait(timeout=20)
        for name in names:
            ip("netns", "del", name)


def ip(*words: str) -> None:
    """Call `ip`."""
    subprocess.run(["ip", *words], check=True)


def wait_for(command: list[str]) -> None:
    """Wait until a command succeeds, for 15 s."""
    until = time.monotonic() + 15
    while subprocess.run(command, check=False).returncode:
        if time.monotonic() > until:
            sys.exit(f"bench/staging.py: a server does not answer: {shlex.join(command)}")
        time.sleep(0.1)


def serve_hub(listing: Path) -> int:
    """Be a hub until told to stop: what `hf download` and the agent ask for; weights are redirected to nginx."""
    files = {path: (size, sha256) for path, size, sha256 in json.loads(listing.read_text())}

    def answer(asked: Asked) -> Answer:
        path = asked.path.partition(f"/resolve/{REVISION}/")[2]
        if asked.path.startswith("/api/models/org/model/tree/"):
            rows = [
                {"type": "file", "path": p, "size": s, "oid": h[:40], "lfs": {"oid": h, "size": s, "pointerSize": 134}}
                for p, (s, h) in files.items()
            ]
            return Answer(200, json.dumps(rows).encode(), {"Content-Type": "application/json"})
        if path in files:
            size, sha256 = files[path]
            host = asked.header("host").partition(":")[0]
            headers = {"X-Repo-Commit": REVISION, "ETag": f'"{sha256}"', "X-Linked-Etag": f'"{sha256}"'}
            location = f"http://{host}:{WEB}/m/{quote(path)}"
            return Answer(302, b"", {**headers, "X-Linked-Size": str(size), "Location": location})
        siblings = [{"rfilename": path} for path in files]
        data = {"id": "org/model", "sha": REVISION, "siblings": siblings, "tags": [], "downloads": 0}
        return Answer(200, json.dumps(data).encode(), {"Content-Type": "application/json"})

    with serving(answer, host="0.0.0.0", port=HUB):
        while True:
            time.sleep(3600)


def measure(
    link: str, arguments: argparse.Namespace, clients: list[Client], files: list[WantedFile], target: Path
) -> dict[str, object]:
    """Measure all clients over one link and print a table; return the figures."""
    server, client = f"ms-server-{os.getpid()}", f"ms-client-{os.getpid()}"
    place, host = (server, "127.0.0.1") if link == "loopback" else (client, SERVER)
    if link == "shaped":
        # what waits at the narrow place is bounded to 10 ms, as a switch would
        shape = f"tc -n {server} qdisc add dev ms0 root tbf rate {arguments.mbit}mbit burst 1mb latency 10ms"
        subprocess.run(shlex.split(shape), check=True)
    environment = {**os.environ, "LINK": link, "URL": f"http://{host}:{WEB}/m", "HUB": f"http://{host}:{HUB}"}
    seconds: dict[str, list[float]] = {each.name: [] for each in clients}
    cpu: dict[str, list[float]] = {each.name: [] for each in clients}
    for number in range(arguments.rounds):
        turn = number * 2 % len(clients)
        for each in clients[turn:] + clients[:turn]:
            took, used = run_one(each, place, environment, files, target)
            seconds[each.name].append(round(took, 3))
            cpu[each.name].append(round(used, 2))
            print(f"  {link}, round {number + 1}: {each.name:34} {took:6.2f} s, CPU {used:5.2f} s", flush=True)
    return report(link, clients, seconds, cpu, arguments.mib)


def run_one(
    client: Client, place: str, environment: dict[str, str], files: list[WantedFile], target: Path
) -> tuple[float, float]:
    """Run one client into an empty directory; return its seconds and CPU seconds. Ends the bench on wrong bytes."""
    store = target / "org--model"
    store.mkdir()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    done = subprocess.run(
        ["ip", "netns", "exec", place, "sh", "-c", f"{client.command} && sync -f ."],
        cwd=store,
        env=environment,
        check=False,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    took = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"bench/staging.py: {client.name} failed ({done.returncode}): {done.stderr[-2000:]}")
    there = store / REVISION if client.ours else store
    for file in files:
        if (there / file.path).stat().st_size != file.size:
            sys.exit(f"bench/staging.py: {client.name} left a wrong {file.path}")
    shutil.rmtree(store)
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def report(
    link: str, clients: list[Client], seconds: dict[str, list[float]], cpu: dict[str, list[float]], mib: int
) -> dict[str, object]:
    """Print the table of one link; return its figures."""
    median: Callable[[Client], float] = lambda each: statistics.median(seconds[each.name])  # noqa: E731
    best = min((each for each in clients if not each.ours), key=median)
    ours = clients[0]
    print(f"\n{link}: seconds of each round, median, MiB/s, CPU s, times the agent's")
    rows = {}
    for each in sorted(clients, key=median):
        value = median(each)
        ratio = round(value / median(ours), 2)
        rounds = " ".join(f"{second:6.2f}" for second in seconds[each.name])
        used = statistics.median(cpu[each.name])
        print(f"  {each.name:34} {rounds}  {value:6.2f}  {mib / value:6.0f}  {used:6.2f}  {ratio:5.2f}")
        rows[each.name] = {"seconds": seconds[each.name], "median_s": value, "cpu_s": used, "times_agent": ratio}
    ratio = round(median(best) / median(ours), 2)
    print(f"  {link}: the best of the others is {best.name}, it takes {ratio} times as long as the agent")
    return {"clients": rows, "best_other": best.name, "ratio": ratio}


if __name__ == "__main__":
    sys.exit(main())
