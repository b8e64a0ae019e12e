"""The BMCs of a running lab: what they do to its hosts, as the hosts themselves show it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metalserve.bmc import open_bmc
from metalserve.bmc.client import Bmc
from metalserve.lab import operate
from metalserve.lab.api import Lab
from metalserve.lab.bmc import service
from metalserve.lab.fleet import RunningHost
from metalserve.paths import ROOT
from metalserve.settings.bmc import BmcSettings
from tests.bmc.boot_server import BootServer
from tests.lab.fleet import Fleet

pytestmark = pytest.mark.lab

BOOT = "cat /proc/sys/kernel/random/boot_id"


@pytest.fixture
def host(lab: Lab) -> Iterator[RunningHost]:
    chosen = lab.fleet.hosts[0]
    if lab.state(chosen.name) != "up":
        lab.start(chosen.name)
    yield chosen
    lab.bmc_heal(chosen.name)
    if lab.state(chosen.name) != "up":
        lab.start(chosen.name)


@pytest.fixture
def bmc(lab: Lab, host: RunningHost) -> Iterator[Bmc]:
    settings = service.settings(lab.layout, host)["bmc"]
    with open_bmc(BmcSettings.model_validate(settings), host.name) as opened:
        yield opened


def test_power_follows_the_host_and_the_host_follows_the_power(lab: Lab, host: RunningHost, bmc: Bmc) -> None:
    assert bmc.power() == "on"
    assert bmc.identity().simulated
    before = lab.ssh(host.name, f"touch /root/kept; {BOOT}").stdout
    assert bmc.set_power("off", 60).power == "off"
    assert lab.state(host.name) == "stopped"
    assert bmc.set_power("on", 30).power == "on"
    operate.wait_until_up(lab.layout, [host])
    after = lab.ssh(host.name, f"rm /root/kept && {BOOT}").stdout
    assert after not in ("", before)
    lab.ssh(host.name, "systemctl poweroff")
    deadline = time.monotonic() + 30
    while bmc.power() != "off":
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_host_that_cannot_be_reached_is_cycled(lab: Lab, host: RunningHost, bmc: Bmc) -> None:
    before = lab.ssh(host.name, BOOT).stdout
    lab.ssh(host.name, "systemctl mask --runtime --now ssh.service", timeout_s=20)
    assert lab.state(host.name) != "up"
    assert bmc.set_power("cycle", 60).power == "on"
    operate.wait_until_up(lab.layout, [host])
    assert lab.ssh(host.name, BOOT).stdout not in ("", before)


@pytest.mark.slow
@pytest.mark.parametrize("by", ["pxe", "cd"])
def test_a_destroyed_system_is_written_anew(lab: Lab, host: RunningHost, bmc: Bmc, by: Any) -> None:
    server = BootServer(host.name, address=lab.layout.controller_address)
    try:
        lab.ssh(host.name, "touch /root/old; rm -rf /usr/lib/systemd /etc/ssh")
        lab.fault(host.name, "power-limited")
        if by == "pxe":
            lab.layout.boot_server.write_text(f"{server.url}\n")
        else:
            bmc.insert(f"{server.url}/v1/files/installer/deploy.iso")
        assert bmc.boot_once(by).once
        bmc.set_power("cycle", 60)
        deadline = time.monotonic() + 60
        while not server.results:
            assert time.monotonic() < deadline, bmc.events().items
            time.sleep(0.1)
        assert [each["status"] for each in server.results] == ["ok"], server.results
        operate.wait_until_up(lab.layout, [host])
        assert lab.ssh(host.name, "ls /root/old /usr/lib/systemd/systemd").stdout == "/usr/lib/systemd/systemd\n"
        assert [each["kind"] for each in lab.faults(host.name)] == ["power-limited"], "hardware is not cured by a disk"
        assert lab.ssh(host.name, "systemctl is-system-running").stdout == "running\n"
    finally:
        lab.heal(host.name)
        lab.layout.boot_server.unlink(missing_ok=True)
        bmc.eject()
        server.stop()


@pytest.mark.slow
def test_the_command_line_reads_freely_and_changes_only_with_yes(lab: Lab, host: RunningHost, tmp_path: Path) -> None:
    fleet = Fleet(lab, tmp_path)

    def said(*words: str) -> tuple[int, str]:
        line = [sys.executable, "-m", "metalserve", "bmc", words[0], "inventories/lab.py", *words[1:]]
        done = subprocess.run(line, cwd=ROOT, env=fleet.environment(), capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    code, out = said("status", "--json")
    assert code == 0, out
    rows = json.loads(out)["hosts"]
    assert [row["power"] for row in rows] == ["on"] * len(lab.hosts)
    assert all(row["simulated"] and row["identity"]["proven"] for row in rows)
    assert said("power", host.name, "cycle")[0] == 3
    assert lab.state(host.name) == "up"
    code, out = said("power", host.name, "cycle", "--yes")
    assert code == 0, out
    operate.wait_until_up(lab.layout, [host])
    assert "Power unit off" in said("events", host.name, "--since", "1h")[1]
    lab.bmc_fault(host.name, "wrong-credentials")
    code, out = said("status")
    assert code == 1
    assert "refuses the login" in out
