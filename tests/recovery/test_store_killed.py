"""Controllers that are killed at any instruction, and two on one file: what was reported written is there."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from metalserve.paths import ROOT
from metalserve.recovery.database import migrations
from metalserve.recovery.store import Store


@contextmanager
def writer(path: Path, name: str, hosts: int) -> Iterator[subprocess.Popen[bytes]]:
    arguments = [sys.executable, "-m", "tests.recovery.writer", str(path), name, str(hosts)]
    process = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def forked(path: Path, name: str, hosts: int) -> tuple[int, int]:
    """Start a writer without the second that a new interpreter takes; returns its pid and the pipe of what it says."""
    from tests.recovery.writer import main

    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            os.dup2(writing, 1)
            main(str(path), name, hosts)
        finally:
            os._exit(70)
    os.close(writing)
    return pid, reading


def drained(pipe: int) -> bytes:
    said = b""
    while chunk := os.read(pipe, 1 << 16):
        said += chunk
    os.close(pipe)
    return said


def lines(said: bytes) -> list[dict[str, Any]]:
    assert said.endswith(b"\n") or not said
    return [json.loads(line) for line in said.splitlines()]


def check(path: Path, reported: list[dict[str, Any]]) -> None:
    """Hold what the file says against what was reported written."""
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        # A kill before the first migration's end leaves an empty file; one in the middle of it leaves nothing else.
        assert connection.execute("PRAGMA user_version").fetchone()[0] in (0, len(migrations()))
    connection.close()
    store = Store(path)
    attempts = {attempt.id: attempt for attempt in store.attempts()}
    steps = {step.id: step for attempt in attempts.values() for step in attempt.steps}
    sightings = {each.factors["n"] for each in store.sightings(0.0)}
    marks = {mark.host for mark in store.marks(time.time())}
    for each in reported:
        if "begun" in each:
            assert attempts[each["begun"]].host == each["host"]
        elif "begun_step" in each:
            assert steps[each["begun_step"]].attempt == each["attempt"]
        elif "step" in each:
            assert steps[each["step"]].outcome == each["outcome"]
        elif "ended" in each:
            assert attempts[each["ended"]].result == "recovered"
        elif "sighting" in each:
            assert each["sighting"] in sightings
        elif "mark" in each:
            assert each["mark"] in marks
    # An outcome is reported before the next step begins: none is written over by whoever goes on.
    outcomes = [each["step"] for each in reported if "step" in each]
    assert len(outcomes) == len(set(outcomes))
    opened = store.open_attempts()
    assert len({attempt.host for attempt in opened}) == len(opened)
    for attempt in opened:
        assert sum(step.ended is None for step in attempt.steps) <= 1
    store.close()


def kill_again_and_again(path: Path, kills: int, at_once: int = 1, longest_s: float = 0.15) -> list[dict[str, Any]]:
    source = random.Random(kills)
    reported: list[dict[str, Any]] = []
    for number in range(kills):
        # From the first instruction on: the earliest kills hit the file's creation and its migrations.
        writers = [forked(path, f"w{number}-{each}", 4) for each in range(at_once)]
        time.sleep(source.uniform(0.0, longest_s))
        for pid, _ in writers:
            os.kill(pid, signal.SIGKILL)
        for pid, pipe in writers:
            assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
            reported += lines(drained(pipe))
        if number % 10 == 9 or number == kills - 1:
            check(path, reported)
    return reported


def test_nothing_that_was_reported_is_lost(tmp_path: Path) -> None:
    reported = kill_again_and_again(tmp_path / "state" / "recovery.db", 10)
    assert sum("ended" in each for each in reported) >= 3


@pytest.mark.slow
def test_nothing_is_lost_by_two_hundred_kills(tmp_path: Path) -> None:
    path = tmp_path / "state" / "recovery.db"
    reported = kill_again_and_again(path, 200, at_once=2, longest_s=0.3)
    assert sum("ended" in each for each in reported) >= 100
    store = Store(path)
    assert any(step.outcome == "unknown" for attempt in store.attempts() for step in attempt.steps)
    assert any(entry.what == "take-over" for entry in store.journal())


@pytest.mark.slow
def test_killed_while_the_file_is_made(tmp_path: Path) -> None:
    source = random.Random(1)
    for number in range(60):
        path = tmp_path / str(number) / "recovery.db"
        pid, pipe = forked(path, "w", 4)
        time.sleep(source.uniform(0.0, 0.03))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        reported = lines(drained(pipe))
        if path.exists():
            check(path, reported)
        else:
            assert reported == []


def test_two_processes_hammer_one_file(tmp_path: Path) -> None:
    path = tmp_path / "state" / "recovery.db"
    with writer(path, "left", 3) as left, writer(path, "right", 3) as right:
        wait_until(path, 30)
        for process in (left, right):
            process.kill()
        said = [process.communicate() for process in (left, right)]
    assert [errors for _, errors in said] == [b"", b""]
    by = [lines(out) for out, _ in said]
    check(path, [*by[0], *by[1]])
    assert all(any("ended" in each for each in one) for one in by)
    assert not any("forbidden" in each for each in [*by[0], *by[1]])  # who took the lock is never refused
    store = Store(path)
    for attempt in store.attempts():
        assert len({step.words for step in attempt.steps if step.words}) <= 1  # nobody else put a hand in


def wait_until(path: Path, attempts: int) -> None:
    """Wait until both have made so many attempts together, however slow the disk is."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if path.exists() and path.stat().st_size:
            store = Store(path)
            actors = {attempt.words for attempt in store.attempts() if attempt.result}
            done = len(store.attempts())
            store.close()
            if done >= attempts and {"left", "right"} <= actors:
                return
        time.sleep(0.1)
    pytest.fail("the writers are too slow")
