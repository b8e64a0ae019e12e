"""Whether a step whose controller died may still be at work."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from metalserve.recovery.host_steps import BUSY, IDLE
from metalserve.recovery.in_flight import GOES_DOWN_S, ON_ITS_WAY_S, in_flight
from metalserve.recovery.values import Step, StepRecord
from tests.recovery.worlds import Clock, Fault, TestHands, World

FAULT = Fault(causes=("gpu-fault",), cure="reset-gpu")


def asked(rung: str, after: float, *, idle: bool | None = None, boot: str = "", fault: Fault | None = FAULT) -> bool:
    record = StepRecord(1, 1, Step(rung, (), "", 900.0, boot), begun=1000.0)
    return in_flight(record, "n1", TestHands(World(Clock(), fault, idle=idle)), 1000.0 + after)


def test_past_its_deadline_it_is_over() -> None:
    assert asked("reset-gpu", 899.0, idle=False)
    assert not asked("reset-gpu", 900.0, idle=False)


def test_a_script_is_over_when_nothing_holds_the_hosts_locks() -> None:
    assert asked("reset-gpu", ON_ITS_WAY_S - 1, idle=True), "it may be on its way"
    assert not asked("reset-gpu", ON_ITS_WAY_S, idle=True)
    assert asked("reset-gpu", ON_ITS_WAY_S, idle=None), "nobody could ask"


def test_a_boot_is_not_over_because_the_host_is_idle() -> None:
    assert asked("reboot", GOES_DOWN_S - 1, idle=True, boot="boot 1")
    assert not asked("reboot", GOES_DOWN_S, idle=True, boot="boot 1"), "it is up in the boot before"
    assert asked("reboot", GOES_DOWN_S, idle=True, boot="boot 0"), "it has booted: the proof says more"
    assert asked("reboot", GOES_DOWN_S, idle=True), "nobody knows the boot before"


@pytest.mark.parametrize("name", ["lock", "apply"])
def test_the_hosts_answer(tmp_path: Path, name: str) -> None:
    script = IDLE.replace("/run/metalserve", str(tmp_path))
    assert subprocess.run(["sh", "-c", script], check=False).returncode == 0, "nothing was ever run there"
    held = f"exec 9>>{tmp_path}/{name}; flock 9; exec 3>&9; {script}"
    assert subprocess.run(["sh", "-c", held], check=False).returncode == BUSY
    assert subprocess.run(["sh", "-c", script], check=False).returncode == 0
