"""Hashing a model on the host: the agent's checks against `sha256sum`, in one run, on the same files.

    python bench/staging_hash.py [--gb 2.4] [--shards 30] [--rounds 3] [--directory DIR] [--blake3-python PYTHON]

A synthetic model is laid out and published by the agent. Then, in turns: `sha256sum` one file after another, two and
four at a time, the agent's full check (a process of its own, as it runs on a host), and BLAKE3 in Python threads
where an interpreter that has it is given. The files stay in the page cache, so that it is hashing that is measured,
not a drive. At the end: the fast check, and a staging that finds all in place. The last line is JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from metalserve.weights.agent.config import Job, SourceConfig, WantedFile
from metalserve.weights.agent.tree import remove_tree

ROOT = Path(__file__).resolve().parent.parent
REVISION = "0" * 40
BLOCK = 8 << 20

BLAKE3 = """
import sys, blake3
from concurrent.futures import ThreadPoolExecutor
def one(path):
    digest, buffer = blake3.blake3(), memoryview(bytearray(1 << 20))
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()
list(ThreadPoolExecutor(int(sys.argv[1])).map(one, sys.argv[2:]))
"""


def lay_out(place: Path, shards: int, size: int) -> list[WantedFile]:
    """Write files of random bytes and return what they are."""
    rng = random.Random(1)
    block = rng.randbytes(BLOCK)
    files = []
    for number in range(shards):
        name = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        digest, left = hashlib.sha256(), size
        with (place / name).open("wb") as file:
            while left:
                part = (number.to_bytes(8, "little") + left.to_bytes(8, "little") + block)[: min(left, BLOCK)]
                file.write(part)
                digest.update(part)
                left -= len(part)
        files.append(WantedFile(name, size, digest.hexdigest()))
    return files


def processor_seconds() -> float:
    """Return the seconds that processors spent on the commands so far: what others do on the machine does not count."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def main() -> int:
    """Measure, print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=2.4)
    parser.add_argument("--shards", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", default=None, help="where the files lie; by default the temporary directory")
    parser.add_argument("--blake3-python", default="", help="an interpreter with the package blake3")
    arguments = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="metalserve-bench-", dir=arguments.directory))
    try:
        return measure(work, arguments)
    finally:
        remove_tree(str(work))


def measure(work: Path, arguments: argparse.Namespace) -> int:
    """Publish a model below `work`, and time all ways to hash it."""
    partial = work / "models" / "org--model" / f".partial-{REVISION}"
    partial.mkdir(parents=True)
    files = lay_out(partial, arguments.shards, int(arguments.gb * 1e9) // arguments.shards)
    job = Job(
        key="bench",
        repository="org/model",
        revision=REVISION,
        store=str(partial.parent),
        files=tuple(files),
        source=SourceConfig("directory", "/nonexistent"),
    )
    config = work / "job.json"
    config.write_text(job.to_json())
    shutil.copytree(ROOT / "metalserve" / "weights" / "agent", work / "lib" / "msweights")
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(work / "lib"), "MS_RUN": str(work / "run")}

    def agent(*words: str) -> None:
        command = [sys.executable, "-B", "-m", "msweights", *words, str(config)]
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)

    def shell(command: list[str], **more: str) -> None:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, text=True, **more)

    agent("stage")
    paths = [str(partial.parent / REVISION / each.path) for each in files]
    listed = "\0".join(paths)
    ways: dict[str, Callable[[], None]] = {
        "sha256sum, one at a time": lambda: shell(["sha256sum", *paths]),
        "xargs -P2 sha256sum": lambda: shell(["xargs", "-0", "-n1", "-P2", "sha256sum"], input=listed),
        "xargs -P4 sha256sum": lambda: shell(["xargs", "-0", "-n1", "-P4", "sha256sum"], input=listed),
        "agent, check --full": lambda: agent("check", "--full"),
    }
    if arguments.blake3_python:
        workers = str(2 * (os.cpu_count() or 1))
        ways["BLAKE3, Python threads"] = lambda: shell([arguments.blake3_python, "-c", BLAKE3, workers, *paths])
    ways["agent, check --fast"] = lambda: agent("check", "--fast")
    ways["agent, stage, all in place"] = lambda: agent("stage")
    took: dict[str, list[float]] = {name: [] for name in ways}
    used: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(arguments.rounds):
        for name, way in ways.items():
            before, began = processor_seconds(), time.perf_counter()
            way()
            took[name].append(time.perf_counter() - began)
            used[name].append(processor_seconds() - before)
    total = sum(each.size for each in files)
    medians = {name: statistics.median(each) for name, each in took.items()}
    work_of = {name: statistics.median(each) for name, each in used.items()}
    full = medians["agent, check --full"]
    print(f"{len(files)} files, {total / 1e9:.2f} GB, {os.cpu_count()} processors, {arguments.rounds} rounds, medians")
    for name, seconds in medians.items():
        print(
            f"  {name:28} {seconds:7.2f} s   {work_of[name]:6.2f} s of a processor   {seconds / full:5.2f} x full check"
        )
    ratios = {name: round(medians[name] / full, 2) for name in ways if "sha256sum" in name or "BLAKE3" in name}
    figures = {
        "seconds": {name: round(seconds, 3) for name, seconds in medians.items()},
        "processor_seconds": {name: round(seconds, 3) for name, seconds in work_of.items()},
        "slower_than_the_full_check": ratios,
        "bytes": total,
        "files": len(files),
    }
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
