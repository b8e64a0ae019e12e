"""`metalserve converge` and `drift` as commands, over `@local` and `@fake` hosts."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from metalserve.paths import ROOT
from tests.seam.conftest import BARE, Seam, seam

__all__ = ["seam"]
DEPLOY = "tests/seam/deploy.py"
STUCK = BARE + "\n@@ms:step done"


@dataclass
class Ran:
    rc: int
    out: str
    err: str


def metalserve(seam: Seam, *arguments: str, extra: Mapping[str, str] | None = None) -> Ran:
    command, name, *rest = ["-m", "metalserve", *arguments][1:]
    done = subprocess.run(
        [sys.executable, "-m", command, name, str(seam.inventory), DEPLOY, *rest],
        cwd=ROOT,
        env=seam.environment(extra),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def report(seam: Seam) -> Path:
    return seam.directory / "fleet.json"


def hosts(path: Path) -> dict[str, str]:
    data: dict[str, Any] = json.loads(path.read_text())
    return {name: host["status"] for name, host in data["hosts"].items()}


def test_dry_then_for_real_then_nothing(seam: Seam, report: Path) -> None:
    options = ("--report", str(report))
    dry = metalserve(seam, "converge", "--dry", *options)
    assert dry.rc == 3, dry.err
    assert hosts(report) == {"@local": "would change"}
    assert list(seam.root.iterdir()) == []
    first = metalserve(seam, "converge", *options)
    assert first.rc == 0, first.err
    assert hosts(report) == {"@local": "changed"}
    assert "Starting operation: Seam | configure" in first.err  # pyinfra's progress passes through
    assert first.err.count("Fleet") == 1
    second = metalserve(seam, "converge", "--dry", *options)
    assert second.rc == 0
    assert hosts(report) == {"@local": "unchanged"}


def test_waves_stop_at_a_failure_and_only_the_failed_are_tried_again(seam: Seam, report: Path) -> None:
    seam.hosts({"@fake/a": seam.fake(STUCK), "@fake/b": seam.fake(STUCK), "@local": {}})
    stopped = metalserve(seam, "converge", "--canary", "1", "--then", "50%", "--report", str(report))
    assert stopped.rc == 1
    assert hosts(report) == {"@fake/a": "failed", "@fake/b": "not reached", "@local": "not reached"}
    assert "wave 1 of 2: @fake/a" in stopped.err and "wave 2 of 2" not in stopped.err
    assert "2 hosts were not reached: @fake/b, @local" in stopped.err
    assert json.loads(report.read_text())["waves"] == [["@fake/a"], ["@fake/b", "@local"]]
    again = metalserve(seam, "converge", "--retry-failed", str(report), "--limit", "@local", "--report", str(report))
    assert again.rc == 2 and "not in this inventory" in again.err  # the limit leaves a failed host out: said, not done
    one = metalserve(seam, "converge", "--limit", "@local", "--report", str(report))
    assert (one.rc, hosts(report)) == (0, {"@local": "changed"})
    none = metalserve(seam, "converge", "--retry-failed", str(report))
    assert none.rc == 0 and "nothing to do" in none.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--limit", "gpu-99"), "--limit gpu-99: no such host or group -> hosts: @local"),
        (("--then", "0%"), "is no size of a wave"),
        (("--canary", "0"), "0 is not in the range"),
        (("--retry-failed", "/no/such/report.json"), "/no/such/report.json: cannot be read"),
        (("--dry", "--canary", "1"), "--dry changes nothing"),
        (("--no-such-option",), "No such option"),
    ],
)
def test_wrong_usage_is_refused_before_anything(seam: Seam, arguments: tuple[str, ...], words: str) -> None:
    ran = metalserve(seam, "converge", *arguments)
    assert ran.rc == 2, ran.err
    assert words in ran.err
    assert "Connecting" not in ran.err and list(seam.root.iterdir()) == []


def test_bad_settings_of_a_later_wave_are_refused_before_the_first(seam: Seam) -> None:
    seam.hosts({"@local": {}, "@fake/z": seam.fake(relase="x")})
    ran = metalserve(seam, "converge", "--canary", "1")
    assert ran.rc == 2
    assert "did you mean 'release'" in ran.err and "no host was contacted" in ran.err
    assert list(seam.root.iterdir()) == []


def test_a_report_that_is_none(seam: Seam, report: Path) -> None:
    report.write_text('{"schema": 7}')
    ran = metalserve(seam, "converge", "--retry-failed", str(report))
    assert ran.rc == 2 and "is no report of metalserve" in ran.err


def test_no_such_deploy(seam: Seam) -> None:
    command = [sys.executable, "-m", "metalserve", "converge", str(seam.inventory), "deploys/nope.py"]
    done = subprocess.run(command, cwd=ROOT, env=seam.environment(), capture_output=True, text=True)
    assert done.returncode != 0 and "deploys/nope.py: no such deploy file" in done.stderr
    assert "Traceback" not in done.stderr


def test_it_works_from_any_directory(seam: Seam, report: Path) -> None:
    command = [sys.executable, "-m", "metalserve", "converge", seam.inventory.name, DEPLOY, "--report", "r.json"]
    environment = {**seam.environment(), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=seam.directory, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert hosts(seam.directory / "r.json") == {"@local": "changed"}


def test_ctrl_c_is_passed_on_and_the_report_says_interrupted(seam: Seam, report: Path) -> None:
    reached = seam.directory / "reached"
    script = f": >{reached}; sleep 3; echo on; : >$SEAM_ROOT/mark"
    seam.hosts({"@local": {}, "@fake/later": seam.fake()})
    command = [sys.executable, "-m", "metalserve", "converge", str(seam.inventory), DEPLOY]
    command += ["--canary", "1", "--report", str(report)]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=seam.environment({"SEAM_SCRIPT": script}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = time.monotonic() + 30
        while not reached.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    assert hosts(report) == {"@fake/later": "not reached", "@local": "interrupted"}
    assert "Traceback" not in err


class TestDrift:
    def test_told_once_for_many_hosts(self, seam: Seam) -> None:
        seam.hosts({f"@fake/n{i}": seam.fake() for i in range(5)})
        ran = metalserve(seam, "drift")
        assert ran.rc == 3, ran.err
        assert f"5 hosts: seam / configure: file {seam.root}/plain.conf: absent -> written" in ran.out.replace("\n", "")
        assert "0 of 5 hosts as they should be" in ran.out
        assert "Connecting" not in ran.out + ran.err

    def test_json(self, seam: Seam) -> None:
        seam.hosts({"@fake/n": seam.fake(), "@fake/bad": seam.fake("")})
        ran = metalserve(seam, "drift", "--json")
        assert ran.rc == 1  # a host that could not be compared counts for more than drift
        data = json.loads(ran.out)
        assert data["hosts"] == {"@fake/bad": "failed", "@fake/n": "would change"}
        assert data["drift"][0]["hosts"] == ["@fake/n"]
        assert data["failures"]["@fake/bad"]["what"].startswith("the observation broke off")

    def test_none(self, seam: Seam) -> None:
        assert metalserve(seam, "converge", "--report", str(seam.directory / "r.json")).rc == 0
        ran = metalserve(seam, "drift")
        assert (ran.rc, ran.out.strip()) == (0, "1 of 1 hosts as they should be")

    def test_a_deploy_that_is_broken_shows_its_own_words(self, seam: Seam) -> None:
        broken = seam.directory / "broken.py"
        broken.write_text("raise RuntimeError('broken deploy')\n")
        command = [sys.executable, "-m", "metalserve", "drift", str(seam.inventory), str(broken)]
        done = subprocess.run(command, cwd=ROOT, env=seam.environment(), capture_output=True, text=True)
        assert done.returncode == 1
        assert "broken deploy" in done.stdout + done.stderr
