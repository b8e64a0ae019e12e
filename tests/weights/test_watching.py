"""Following a unit that works on a model: the shell that looks, run by a shell, and what is made of its words."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metalserve.weights.progress import Progress, duration, read_progress
from metalserve.weights.watching import follow, follow_script, look

UNIT = "metalserve-weights@org--model-abababababab.service"
NOW: dict[str, Any] = {
    "format": 1, "job": "org--model-abababababab", "phase": "fetching", "bytes_total": 4 * 2**30, "bytes_done": 2**30,
    "bytes_from_peers": 0, "bytes_from_source": 2**30, "rate_bytes_s": 100 * 2**20, "eta_s": 31, "files_total": 9,
    "files_done": 2, "started_at": 1, "updated_at": 2, "message": "", "error": None,
}  # fmt: skip


def told(active: str, result: str = "success", *said: str, **progress: Any) -> list[str]:
    """Return the lines of one look."""
    shown = json.dumps({**NOW, **progress}) if progress or active == "active" else ""
    return [f"@@ActiveState={active}", f"@@Result={result}", f"@@progress {shown}", *(f"@@said {s}" for s in said)]


def test_a_unit_that_runs() -> None:
    found = look(UNIT, told("active"))
    assert (found.running, found.failed) == (True, "")
    assert found.words == "fetching: 1.00 of 4.00 GiB, 100.0 MiB/s, about 31 s left"
    assert found.data["rate_bytes_s"] == 100 * 2**20 and found.data["eta_s"] == 31
    assert look(UNIT, told("activating")).running, "it has told nothing yet"


def test_a_unit_that_ended_well() -> None:
    found = look(UNIT, told("inactive", phase="done", bytes_done=4 * 2**30, eta_s=None))
    assert (found.running, found.failed, found.words) == (False, "", "done: 4.00 of 4.00 GiB")


@pytest.mark.parametrize(
    ("lines", "failed", "remedy"),
    [
        (told("failed", "exit-code", phase="failed", error={"what": "full", "remedy": "clear"}), "full", "clear"),
        (told("failed", "exit-code", "one", "config.json: gone -> look", "more"), "config.json: gone", "look"),
        (told("failed", "exit-code", "Traceback", "KeyError: 1"), "KeyError: 1", f"journalctl -u {UNIT} -n 50"),
        (told("failed", "exit-code"), f"{UNIT} failed (exit-code)", f"journalctl -u {UNIT} -n 50"),
        (told("failed", "oom-kill", phase="fetching"), f"{UNIT} was ended from outside (oom-kill)", "run again"),
        (told("failed", "signal"), f"{UNIT} was ended from outside (signal)", "run again"),
        ([], f"{UNIT} failed (not known why)", "journalctl"),
    ],
)  # fmt: skip
def test_a_unit_that_failed_says_why(lines: list[str], failed: str, remedy: str) -> None:
    found = look(UNIT, lines)
    assert (found.running, found.failed) == (False, failed)
    assert found.remedy.startswith(remedy)


@given(st.lists(st.text(max_size=60), max_size=8))
def test_nothing_that_is_said_is_taken_for_an_end_without_the_unit_saying_so(lines: list[str]) -> None:
    found = look(UNIT, lines)
    assert found.failed or any(line.startswith("@@ActiveState=") for line in lines)


def run(script: str, directory: Path, systemctl: str) -> list[str]:
    """Run a script with a systemctl and a journalctl of the test's."""
    for name, text in (("systemctl", systemctl), ("journalctl", 'echo "first -> do"')):
        tool = directory / name
        tool.write_text(f"#!/bin/sh\n{text}\n")
        tool.chmod(0o755)
    path = {"PATH": f"{directory}:{os.environ['PATH']}"}
    done = subprocess.run(["sh", "-c", script], env=path, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_shell_waits_for_the_end_and_tells_the_last_words(tmp_path: Path) -> None:
    count = tmp_path / "count"
    systemctl = (
        f'case "$*" in is-active*) echo x >>{count}; [ $(wc -l <{count}) -lt 3 ] && echo active || echo failed ;;\n'
        "*InvocationID*) echo 0123 ;; *) echo ActiveState=failed; echo Result=exit-code ;; esac"
    )
    lines = run(follow_script(UNIT, "no-such-job", 10), tmp_path, systemctl)
    assert len(count.read_text().split()) == 3
    found = look(UNIT, lines)
    assert (found.failed, found.remedy) == ("first", "do")


def test_the_shell_comes_back_while_the_unit_runs_on(tmp_path: Path) -> None:
    systemctl = 'case "$*" in is-active*) echo active ;; *InvocationID*) ;; *) echo ActiveState=active ;; esac'
    lines = run(follow_script(UNIT, "no-such-job", 0), tmp_path, systemctl)
    assert look(UNIT, lines).running


def test_a_check_is_followed_by_its_own_progress() -> None:
    assert "/run/metalserve/weights/k-check.json" in follow("check", "k").script(1)
    assert "metalserve-weights-check@k.service" in follow("check", "k").script(1)
    assert "/run/metalserve/weights/k.json" in follow("repair", "k").script(1)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 2, "phase": "done"}', '{"format": 1}'])
def test_what_is_no_progress_is_none(text: str) -> None:
    assert read_progress(text) is None


def test_progress_with_odd_values_is_still_read() -> None:
    found = read_progress(json.dumps({**NOW, "rate_bytes_s": None, "bytes_done": True, "error": "x", "eta_s": "soon"}))
    assert found == Progress(
        "org--model-abababababab", "fetching", 4 * 2**30, 0, 0, 2**30, 0.0, None, 9, 2
    )  # fmt: skip
    assert "left" not in found.in_words()


def test_time_in_words() -> None:
    assert [duration(s) for s in (-3, 45, 150, 7500, 3 * 86400)] == ["0 s", "45 s", "2 min", "2 h 5 min", "3 d"]
