"""One way to share the model, once: its processes on the hosts, from the gate to the last byte."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.fan.links import SOURCE
from bench.fan.model import FANOUT, wrong


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
        """Start one of `bench.fan.workers` on a host."""
        return self.start(host, [self.python, str(FANOUT), "worker", *words])

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


Way = Callable[["Run"], list[subprocess.Popen[bytes]]]
"""Begins one process on each host that is to get the model, in their order."""


def measure(run: Run, name: str, begin: Way, timeout_s: float) -> dict[str, Any]:
    """Run one way; seconds until every host has everything, the share of the cores that it used, and what is wrong."""
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


def wait_for_source(prefix: str) -> None:
    """Wait until the source answers, for 10 s; ends the bench when it does not."""
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
