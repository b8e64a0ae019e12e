"""The power switch of a host: however often and by whomever it is reached for, one supervisor runs at most."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from metalserve.lab import drives, hosts, power
from metalserve.lab.api import Lab
from metalserve.lab.fleet import RunningHost
from metalserve.lab.layout import Layout
from metalserve.lab.system import write_json

HOST = RunningHost(name="one", index=0, address="192.0.2.1", profile="l40s-4", suite="trixie")


def supervisors(layout: Layout, name: str) -> list[int]:
    """Return the supervisors of a host that run, as the machine's own list of processes has them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"metalserve.lab.supervisor" in words and str(layout.host(name)).encode() in words:
            found.append(int(path.parent.name))
    return found


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Layout]:
    """A host that needs no root: it boots a program that does nothing."""
    made = Layout(tmp_path / "lab", 199)
    made.host(HOST.name).mkdir(parents=True)
    write_json(made.host(HOST.name) / "made.json", {"lower": []})
    monkeypatch.setattr(hosts, "mount", lambda layout, host: None)
    monkeypatch.setattr(hosts, "managed_by_systemd", lambda: True)  # then nobody makes a control group
    boot = ["sh", "-c", f"echo boot >>{tmp_path}/boots; exec sleep infinity"]
    monkeypatch.setattr(hosts, "_command", lambda layout, host, bound: boot)
    monkeypatch.setattr(drives, "attach", lambda place, sizes: [])
    monkeypatch.setattr(drives, "wanted", lambda place: [])
    yield made
    power.cut_power(made, HOST.name)


def test_a_host_that_was_just_switched_on_is_found_by_the_next_hand(layout: Layout, tmp_path: Path) -> None:
    boots = tmp_path / "boots"
    boots.touch()
    for _ in range(3):
        assert hosts.start(layout, HOST)
        assert not hosts.start(layout, HOST), "it runs, though its supervisor has not come to boot it yet"
        hosts.stop(layout, HOST, grace_s=0)
        assert supervisors(layout, HOST.name) == [], "what was on its way is ended too"
    before = boots.read_text()
    assert hosts.start(layout, HOST)
    until = time.monotonic() + 30
    while boots.read_text() == before:
        assert time.monotonic() < until, "it never boots"
        time.sleep(0.05)
    (one,) = supervisors(layout, HOST.name)
    assert power.processes(layout, HOST.name)["supervisor"].pid == one


def test_many_hands_on_the_switch_start_one_supervisor(layout: Layout) -> None:
    began: list[bool] = []
    hands = [threading.Thread(target=lambda: began.append(hosts.start(layout, HOST))) for _ in range(6)]
    for hand in hands:
        hand.start()
    for hand in hands:
        hand.join()
    assert sorted(began) == [False] * 5 + [True]
    assert len(supervisors(layout, HOST.name)) == 1


def test_a_supervisor_that_nobody_has_written_down_boots_nothing(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from metalserve.lab import supervisor

    monkeypatch.setattr(supervisor, "KNOWN_S", 0.2)
    mark = tmp_path / "booted"
    write_json(layout.host(HOST.name) / "machine.json", {"command": ["touch", str(mark)]})
    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    assert supervisor.Supervisor(layout.host(HOST.name)).loop() == 1
    assert not mark.exists()


@pytest.mark.lab
def test_a_destroyed_host_that_is_healed_and_switched_off_and_on_at_once_boots_once(lab: Lab) -> None:
    host = lab.hosts[-1]
    lab.fault(host, "filesystem-destroyed")
    lab.heal(host)
    lab.stop(host, grace_s=0)
    lab.start(host)
    assert len(supervisors(lab.layout, host)) == 1
    assert lab.ssh(host, "systemctl is-system-running").stdout == "running\n"
    lab.stop(host)
    assert supervisors(lab.layout, host) == []
    lab.start(host)
