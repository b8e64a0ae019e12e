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
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.fan.links import SOURCE, links
from bench.fan.model import model, prepare
from bench.fan.run import Run, measure, wait_for_source
from bench.fan.ways import WAYS
from bench.fan.workers import work

LIMIT = 1.5
"""Times of one host that six may take (issue 5)."""

Results = dict[str, list[dict[str, Any]]]
"""Way -> what each of its rounds gave."""


def main() -> int:
    """Print a table and one JSON line; exit 1 when a host has wrong bytes or the agent took too long."""
    if sys.argv[1:2] == ["worker"]:
        return work(*sys.argv[2:])
    arguments = _arguments()
    if os.geteuid() != 0:
        sys.exit("fanout: root is needed for network namespaces")
    version = _libtorrent(arguments.python)
    program = shutil.which("aria2c")
    names = ["one", *(n for n in arguments.only if n != "one" and (n != "aria2" or program))]
    if "aria2" in arguments.only and not program:
        print("aria2: not installed, left out")
    # What else runs on this machine must not pass for a slow link; a nice value counts within one session only.
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    work_directory = Path(arguments.work) / f"metalserve-fanout-{os.getpid()}"
    work_directory.mkdir()
    try:
        prepare(work_directory, arguments.mib, arguments.hosts, arguments.python)
        total = sum(each.size for each in model(work_directory))
        results = _measured(work_directory, arguments, names, program or "", total)
    finally:
        shutil.rmtree(work_directory)
    return _tell(results, arguments, total, version)


def _arguments() -> argparse.Namespace:
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
    arguments.source_mbit = arguments.source_mbit or arguments.mbit
    return arguments


def _libtorrent(python: str) -> str:
    """Return the version of libtorrent that a Python has; ends the bench where it has none."""
    command = [python, "-c", "import libtorrent; print(libtorrent.__version__)"]
    found = subprocess.run(command, check=False, capture_output=True, text=True)
    if found.returncode:
        sys.exit(f"fanout: {python} has no libtorrent -> install python3-libtorrent, or name another --python")
    return found.stdout.strip()


def _measured(work: Path, arguments: argparse.Namespace, names: list[str], aria2: str, total: int) -> Results:
    results: Results = {name: [] for name in names}
    timeout_s = 8 * total * 8 / 1e6 / arguments.source_mbit
    with links(arguments.hosts, arguments.mbit, arguments.source_mbit) as prefix:
        run = Run(work, prefix, arguments.hosts, arguments.python, [aria2])
        server = Run(work, prefix, arguments.hosts, sys.executable, [])
        words = [str(work / "source"), SOURCE, "8080", str(work / "requests")]
        server.start(0, [sys.executable, "-m", "metalserve.lab.fileserver", *words])
        try:
            wait_for_source(prefix)
            for _ in range(arguments.rounds):
                for name in names:
                    results[name].append(measure(run, name, WAYS[name][1], timeout_s))
                    print(f"  {name}: {results[name][-1]}", file=sys.stderr, flush=True)
        finally:
            run.stop()
            server.stop()
    return results


def _tell(results: Results, arguments: argparse.Namespace, total: int, version: str) -> int:
    """Print the table and the JSON line; return the exit status."""
    base = statistics.median(each["seconds"] for each in results["one"])
    print(
        f"{total / 1e6:.0f} MB to {arguments.hosts} hosts, links of {arguments.mbit:g} Mbit/s, the source's "
        f"{arguments.source_mbit:g}; libtorrent {version}; {arguments.rounds} rounds, medians"
    )
    print(f"{'way':38} {'s':>7} {'ratio':>6} {'cores':>6}")
    rows = []
    for name, rounds in results.items():
        seconds = [each["seconds"] for each in rounds]
        row = {
            "way": name,
            "seconds": seconds,
            "ratio": round(statistics.median(seconds) / base, 2),
            "cores": max(each["cores"] for each in rounds),
            "wrong": [each["wrong"] for each in rounds if each["wrong"]],
        }
        rows.append(row)
        print(
            f"{WAYS[name][0]:38} {statistics.median(seconds):7.1f} {row['ratio']:6.2f} {row['cores']:6.0%}"
            + ("  WRONG OR LATE" if row["wrong"] else "")
        )
    told = {"bytes": total, "hosts": arguments.hosts, "mbit": arguments.mbit, "source_mbit": arguments.source_mbit}
    print(json.dumps({"bench": "fanout", **told, "libtorrent": version, "ways": rows}))
    ours = [row for row in rows if row["way"] in ("agent", "agent-plain")]
    return 1 if any(row["ratio"] > LIMIT or row["wrong"] for row in ours) else 0


if __name__ == "__main__":
    sys.exit(main())
