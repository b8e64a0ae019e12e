"""The power of one lab host: the switch that one hand at a time is on, the processes behind it, and their end."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from metalserve.lab import cgroups
from metalserve.lab.layout import Layout
from metalserve.lab.system import ProcessId, read_json


@contextmanager
def switch(layout: Layout, name: str) -> Iterator[None]:
    """Hold a host's power switch: its BMC, a test and a person may all reach for it."""
    directory = layout.host(name)
    if not directory.is_dir():
        yield
        return
    lock = os.open(directory / "power.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def processes(layout: Layout, name: str) -> dict[str, ProcessId]:
    """Return the host's processes that run, of `supervisor`, `nspawn` and `leader` (its own PID 1)."""
    state: dict[str, Any] = read_json(layout.host(name) / "state.json") or {}
    recorded = {
        key: ProcessId(**state[key]) for key in ("supervisor", "nspawn", "leader") if state.get(key) is not None
    }
    return {key: process for key, process in recorded.items() if process.alive()}


def leader(layout: Layout, name: str) -> ProcessId | None:
    """Return the host's PID 1 as the machine sees it."""
    return processes(layout, name).get("leader")


def cut_power(layout: Layout, name: str) -> None:
    """End all of a host's processes at once, also those that a crash has left."""
    with switch(layout, name):
        cut(layout, name)


def cut(layout: Layout, name: str) -> None:
    """Cut the power, with the switch in hand."""
    # the supervisor first, or it would boot the host again; it ends the others itself when it is well, and until then
    # it may have written down more of them
    for key, first in (("supervisor", signal.SIGTERM), ("leader", signal.SIGKILL), ("nspawn", signal.SIGKILL)):
        if (process := processes(layout, name).get(key)) is not None:
            process.end(first=first)
    group = (read_json(layout.host(name) / "machine.json") or {}).get("cgroup")
    if group:
        cgroups.remove(group)
