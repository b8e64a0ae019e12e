"""A process of the lab that outlives the command that began it: known by pid and start time, recorded in a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from metalserve.lab.hosts import spawn
from metalserve.lab.system import ProcessId, read_json, write_json


def running(record: Path) -> ProcessId | None:
    """Return the process that the file names, if it runs."""
    recorded = read_json(record)
    found = ProcessId(**recorded) if recorded else None
    return found if found is not None and found.alive() else None


def begin(record: Path, command: Sequence[str], *, log: Path) -> None:
    """Start a process and write down which one it is."""
    started = ProcessId.of(spawn(list(command), log=log))
    if started is not None:
        write_json(record, vars(started))


def end(record: Path) -> None:
    """End the process, and forget it."""
    found = running(record)
    if found is not None:
        found.end(grace_s=2.0)
    record.unlink(missing_ok=True)
