"""Ctrl-C, killed controllers, two runs at once: the next run always goes on."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from metalserve.paths import ROOT
from metalserve.pyinfra_seam.lock import lock_script
from tests.seam.conftest import Seam


def wait_for(what: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


class Started:
    """A run that goes on in the background; its last change waits until `let_go`."""

    def __init__(self, seam: Seam) -> None:
        self.seam = seam
        self.reached, self.gate, self.ended = (seam.directory / n for n in ("reached", "gate", "ended"))
        # The wait is bounded, so that a failing test leaves nothing behind for long.
        script = (
            f": >{self.reached}; i=0; while [ ! -e {self.gate} ] && [ $i -lt 300 ]; do sleep 0.1; i=$((i+1)); done; "
            f": >{self.ended}; echo still here; : >$SEAM_ROOT/mark"
        )
        self.process = subprocess.Popen(
            seam.command("-y"),
            cwd=ROOT,
            env=seam.environment({"SEAM_SCRIPT": script}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        wait_for(self.reached.exists)

    def let_go(self) -> None:
        self.gate.touch()

    def end(self) -> str:
        out, _ = self.process.communicate(timeout=60)
        return str(out)


@pytest.fixture
def started(seam: Seam) -> Iterator[Started]:
    run = Started(seam)
    yield run
    run.let_go()
    if run.process.poll() is None:
        run.process.kill()
    run.end()
    wait_for(run.ended.exists)


def test_a_second_run_is_refused_and_told_who_holds_the_host(seam: Seam, started: Started) -> None:
    second = seam.pyinfra("-y")
    assert second.rc == 1
    what = second.host()["failure"]["what"]
    assert what.startswith("another run is at work on this host, held by ")
    assert f"pid {started.process.pid} since " in what
    assert "another run is at work" in second.out
    assert not (seam.root / "mark").exists()
    started.let_go()
    started.end()
    assert started.process.returncode == 0
    assert (seam.root / "mark").exists()


def test_a_dry_run_needs_no_lock(seam: Seam, started: Started) -> None:
    assert seam.pyinfra("--dry").rc == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_so_and_exits_with_the_signal(
    seam: Seam, started: Started, number: signal.Signals
) -> None:
    begun = time.monotonic()
    started.process.send_signal(number)
    out = started.end()
    assert time.monotonic() - begun < 10
    assert started.process.returncode == 128 + number, out
    assert "interrupted; files are whole, run the same command again" in out
    report = json.loads((seam.directory / "report.json").read_text())
    assert report["complete"] is False
    assert report["hosts"]["@local"]["status"] == "interrupted"


def test_a_second_ctrl_c_does_not_cost_the_report(seam: Seam, started: Started) -> None:
    started.process.send_signal(signal.SIGINT)
    time.sleep(0.02)
    started.process.send_signal(signal.SIGINT)
    started.end()
    assert started.process.returncode == 130
    assert (seam.directory / "report.json").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_next_run_waits_for_what_the_dead_one_left_and_goes_on(
    seam: Seam, started: Started, number: signal.Signals, tmp_path: Path
) -> None:
    started.process.send_signal(number)
    started.end()
    assert not started.ended.exists()  # its script is still at work on the host
    environment = seam.environment() | {"PYTHONUNBUFFERED": "1"}
    said = tmp_path / "said"
    waits = "waiting for a script that an earlier run left on this host (process "
    with said.open("w") as output:
        again = subprocess.Popen(
            seam.command("-y"), cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, text=True
        )
        # however long a busy machine takes to get there
        wait_for(lambda: waits in said.read_text() or again.poll() is not None, seconds=90)
        assert again.poll() is None, said.read_text()
        assert not (seam.root / "mark").exists()
        started.let_go()
        again.wait(timeout=90)
    assert again.returncode == 0, said.read_text()
    assert (seam.root / "mark").exists()


class TestTheLockItself:
    """The script that holds it, without pyinfra."""

    def take(self, directory: Path, who: str = "me", silence_s: float = 300) -> subprocess.Popen[str]:
        script = lock_script(who, str(directory), silence_s)
        return subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def line(self, process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        return process.stdout.readline().strip()

    def close(self, process: subprocess.Popen[str]) -> None:
        process.communicate(timeout=10)

    def test_it_is_one_line(self) -> None:
        """`sudo -i` loses newlines."""
        assert "\n" not in lock_script("me")

    def test_held_until_its_input_ends(self, tmp_path: Path) -> None:
        first = self.take(tmp_path, "it's me")
        assert self.line(first) == "metalserve-locked"
        second = self.take(tmp_path)
        assert self.line(second) == f"metalserve-held by it's me, process {first.pid} here"
        self.close(second)
        self.close(first)
        third = self.take(tmp_path)
        assert self.line(third) == "metalserve-locked"
        self.close(third)

    def test_given_back_when_the_controller_falls_silent(self, tmp_path: Path) -> None:
        lock = self.take(tmp_path, silence_s=1)
        assert self.line(lock) == "metalserve-locked"
        assert lock.stdin is not None
        for _ in range(4):  # longer than the silence that is allowed
            time.sleep(0.5)
            lock.stdin.write(".")
            lock.stdin.flush()
        assert lock.poll() is None
        assert lock.wait(timeout=5) == 0  # its input is still open
        again = self.take(tmp_path)
        assert self.line(again) == "metalserve-locked"
        self.close(again)
        self.close(lock)

    def test_gone_with_its_process(self, tmp_path: Path) -> None:
        """What waits for input has the descriptor too, and ends when its input does: with the connection."""
        first = self.take(tmp_path)
        assert self.line(first) == "metalserve-locked"
        first.kill()
        self.close(first)
        wait_for(lambda: subprocess.run(["flock", "-n", str(tmp_path / "lock"), "true"]).returncode == 0, 5)

    def test_waits_for_a_leftover_script(self, tmp_path: Path) -> None:
        (tmp_path / "applying").write_text("process 7 since noon\n")
        holding = f'exec 8>>"{tmp_path}/apply"; flock 8; echo held; exec sleep 30'
        with subprocess.Popen(["sh", "-c", holding], stdout=subprocess.PIPE, text=True) as leftover:
            assert self.line(leftover) == "held"
            lock = self.take(tmp_path)
            assert self.line(lock) == "metalserve-waiting process 7 since noon"
            leftover.terminate()
        assert self.line(lock) == "metalserve-locked"
        self.close(lock)
