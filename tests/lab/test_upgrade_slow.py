"""Upgrades that are cut off, held up and broken in every way that a lab can do it; the next run always goes on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from metalserve.lab.operate import wait_until_up
from metalserve.paths import ROOT
from tests.lab.conftest import beside
from tests.lab.fleet import Fleet
from tests.lab.upgrades import DEPLOY, NOW, OLD, OTHER, VERSIONS, Upgrades

pytestmark = [pytest.mark.lab, pytest.mark.slow]

PAIR, NEXT, SWITCHED = "pair", "next", "switched"
HOSTS = f"""\
release: {NOW}
hosts:
  {PAIR}: {{profile: h100-nvl-2, suite: trixie, expect: {{gpu: h100-nvl, count: 2, links: bridge}}}}
  {NEXT}: {{profile: h100-nvl-2, suite: bookworm, expect: {{gpu: h100-nvl, count: 2, links: bridge}}}}
  {SWITCHED}: {{profile: h100-sxm-8, suite: bookworm, expect: {{gpu: h100-sxm, count: 8, links: nvswitch}}}}
"""
# One engine is enough to see whether a host serves; the host with the switches needs none.
OVERRIDES = {"all": {"engine": {"replicas": 1}}, SWITCHED: {"model": None}}


@pytest.fixture(scope="module")
def upgrades(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upgrades]:
    directory = tmp_path_factory.mktemp("upgrade-slow")
    lab = beside(directory / "lab", 78 + os.getpid() % 22, HOSTS)
    try:
        fleet = Fleet(lab, directory)
        run = fleet.run(overrides=OVERRIDES)
        assert run.rc == 0, run.out
        yield Upgrades(fleet, directory, OVERRIDES)
    finally:
        lab.down()


@pytest.fixture(autouse=True)
def whole(upgrades: Upgrades) -> Iterator[None]:
    yield
    for host in upgrades.fleet.lab.hosts:
        upgrades.fleet.lab.heal(host)
        if upgrades.fleet.lab.state(host) != "up":
            upgrades.fleet.lab.start(host)


def other_than_now(upgrades: Upgrades, host: str) -> str:
    """Return the patch level that the host is not on, so that each test finds something to do."""
    return NOW if upgrades.driver(host)["kernel"] == VERSIONS[OLD] else OLD


def finished(upgrades: Upgrades, host: str, release: str) -> None:
    run = upgrades.run(host, release)
    assert run.rc == 0, run.out
    upgrades.is_on(host, release)
    assert upgrades.record(host)["result"] in ("done", "rolled back")
    assert upgrades.fleet.token(host) or host == SWITCHED
    assert upgrades.run(host, release).statuses == {host: "unchanged"}


def test_another_branch_and_back_while_the_apt_lock_is_held(upgrades: Upgrades) -> None:
    lock = "fcntl.lockf(open('/var/lib/dpkg/lock-frontend', 'w'), fcntl.LOCK_EX)"
    hold = f"import fcntl, time; held = {lock}; time.sleep(25)"
    upgrades.fleet.lab.ssh(PAIR, f'systemd-run -q --unit=apt-daily-test python3 -c "{hold}"')
    finished(upgrades, PAIR, OTHER)
    assert upgrades.fleet.lab.ssh(PAIR, "systemctl is-active apt-daily-test").stdout != "active\n"
    finished(upgrades, PAIR, NOW)


@pytest.mark.parametrize("step", ["drain", "free", "install", "reload", "start", "verify"])
def test_a_killed_controller_is_gone_on_from(upgrades: Upgrades, step: str) -> None:
    release = other_than_now(upgrades, PAIR)
    upgrades.killed_at(PAIR, release, step)
    if not upgrades.record(PAIR)["result"]:
        refused = upgrades.converge(PAIR, release)
        assert refused.rc == 1
        assert "an upgrade is unfinished" in refused.failure(PAIR)
        assert f"deploys/upgrade.py --limit {PAIR} --data release={release}" in refused.failure(PAIR)
    finished(upgrades, PAIR, release)


@pytest.mark.parametrize("step", ["install", "reload"])
def test_a_killed_controller_on_the_way_back_is_gone_on_from(upgrades: Upgrades, step: str) -> None:
    before = NOW if other_than_now(upgrades, PAIR) == OLD else OLD
    upgrades.fleet.lab.fault(PAIR, "driver-fails-to-load")
    upgrades.fleet.wait_until(PAIR, "grep -q driver-fails-to-load /opt/metalserve-lab/state/applied.json")
    release = other_than_now(upgrades, PAIR)
    upgrades.killed_at(PAIR, release, step, "back")
    run = upgrades.run(PAIR, release)
    assert run.rc == 1 and f"rolled back to {before}" in run.failure(PAIR)
    upgrades.is_on(PAIR, before)
    assert upgrades.fleet.token(PAIR)


@pytest.mark.parametrize("step", ["install", "reload"])
def test_lost_power_is_gone_on_from(upgrades: Upgrades, step: str) -> None:
    release = other_than_now(upgrades, PAIR)
    upgrades.record_path(PAIR).unlink(missing_ok=True)
    child = subprocess.Popen(
        upgrades.fleet.command(*upgrades.arguments(PAIR, release), deploy=DEPLOY),
        cwd=ROOT,
        env=upgrades.fleet.environment(upgrades.overrides, upgrades.extra),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        upgrades.wait_for(PAIR, step, "forward", child)
        upgrades.fleet.lab.stop(PAIR, grace_s=0)
    finally:
        child.kill()
        child.wait()
    upgrades.fleet.lab.start(PAIR)
    assert upgrades.record(PAIR)["target"]["name"] == release
    finished(upgrades, PAIR, release)


def test_an_unfinished_upgrade_is_turned_back_on_request(upgrades: Upgrades) -> None:
    release = other_than_now(upgrades, PAIR)
    before = NOW if release == OLD else OLD
    upgrades.killed_at(PAIR, release, "install")
    third = upgrades.run(PAIR, OTHER)
    assert third.rc == 1 and f"release {OTHER} has to wait" in third.failure(PAIR)
    finished(upgrades, PAIR, before)
    assert upgrades.record(PAIR)["result"] == "rolled back"


def test_a_module_that_is_held_takes_a_reboot_which_may_be_late(upgrades: Upgrades) -> None:
    release = other_than_now(upgrades, PAIR)
    upgrades.fleet.lab.fault(PAIR, "driver-held")
    before = upgrades.boot(PAIR)
    never = upgrades.run(PAIR, release, overrides={PAIR: {"driver": {"reboot": "never"}}})
    assert never.rc == 1 and "driver.reboot is 'never'; rolled back to" in never.failure(PAIR)
    assert upgrades.boot(PAIR) == before
    late = upgrades.run(PAIR, release, overrides={PAIR: {"driver": {"reboot_timeout_s": 1}}})
    assert late.rc == 1 and "did not come back within 1 s" in late.failure(PAIR)
    assert upgrades.record(PAIR)["step"] == "reboot"
    wait_until_up(upgrades.fleet.lab.layout, [upgrades.fleet.lab.fleet.host(PAIR)])
    finished(upgrades, PAIR, release)
    assert upgrades.boot(PAIR) != before


def test_a_driver_that_does_not_build_is_rolled_back(upgrades: Upgrades) -> None:
    release = other_than_now(upgrades, PAIR)
    before = NOW if release == OLD else OLD
    upgrades.fleet.lab.fault(PAIR, "driver-fails-to-build")
    upgrades.fleet.wait_until(PAIR, "grep -q driver-fails-to-build /opt/metalserve-lab/state/applied.json")
    run = upgrades.run(PAIR, release)
    assert run.rc == 1
    assert "failed at step install" in run.failure(PAIR) and f"rolled back to {before}" in run.failure(PAIR)
    upgrades.is_on(PAIR, before)
    assert upgrades.fleet.token(PAIR)


def test_a_release_that_no_repository_has_stops_nothing(upgrades: Upgrades) -> None:
    before = upgrades.fleet.lab.ssh(PAIR, "docker inspect -f '{{.Id}}' metalserve-vllm-0").stdout
    run = upgrades.run(PAIR, "lab-580-lost")
    assert run.rc == 1
    assert "have no package nvidia-driver-pinning-580.999.01; near it they have: " in run.failure(PAIR)
    assert upgrades.fleet.lab.ssh(PAIR, "docker inspect -f '{{.Id}}' metalserve-vllm-0").stdout == before


def test_libraries_that_are_not_the_drivers_are_repaired(upgrades: Upgrades) -> None:
    finished(upgrades, PAIR, NOW)
    old = VERSIONS[OLD]
    upgrades.fleet.lab.ssh(
        PAIR,
        "rm /etc/apt/preferences.d/nvidia-driver-pinning-*; DEBIAN_FRONTEND=noninteractive apt-get install -qy "
        f"--allow-downgrades libnvidia-ml1={old}-1 nvidia-smi={old}-1 nvidia-persistenced={old}-1 "
        f"nvidia-driver-cuda={old}-1 libcuda1={old}-1 libnvidia-ptxjitcompiler1={old}-1 libnvidia-nvvm4={old}-1 "
        f"libcudadebugger1={old}-1 nvidia-kernel-support={old}-1 firmware-nvidia-gsp={old}-1 nvidia-modprobe={old}-1 "
        f"nvidia-kernel-open-dkms={old}-1",
    )
    assert "mismatch" in upgrades.fleet.lab.ssh(PAIR, "nvidia-smi").stdout
    finished(upgrades, PAIR, NOW)


def test_a_fabric_manager_that_is_not_the_drivers_is_repaired(upgrades: Upgrades) -> None:
    upgrades.fleet.lab.ssh(
        SWITCHED,
        "rm /etc/apt/preferences.d/nvidia-driver-pinning-*; DEBIAN_FRONTEND=noninteractive apt-get install -qy "
        f"--allow-downgrades nvidia-fabricmanager={VERSIONS[OLD]}-1; systemctl restart nvidia-fabricmanager",
    )
    assert "don't match" in upgrades.fleet.lab.ssh(SWITCHED, "cat /var/log/fabricmanager.log").stdout
    finished(upgrades, SWITCHED, NOW)
    assert "Completed" in upgrades.fleet.lab.ssh(SWITCHED, "nvidia-smi -q | grep -A1 Fabric").stdout
    finished(upgrades, SWITCHED, OLD)
    finished(upgrades, SWITCHED, NOW)


def test_a_failing_canary_stops_the_rest(upgrades: Upgrades) -> None:
    finished(upgrades, PAIR, NOW)
    finished(upgrades, NEXT, NOW)
    upgrades.fleet.lab.fault(PAIR, "driver-fails-to-load")
    upgrades.fleet.wait_until(PAIR, "grep -q driver-fails-to-load /opt/metalserve-lab/state/applied.json")
    chosen = ("--limit", PAIR, "--limit", NEXT, "--to", OLD)
    plan = upgrades.metalserve(*chosen)
    assert plan.returncode == 3, plan.stderr
    assert f"{NOW} -> {OLD}" in plan.stdout and "reload" in plan.stdout and "nothing was changed" in plan.stdout
    stopped = upgrades.metalserve(*chosen, "--canary", "1", "--then", "50%", "--yes")
    assert stopped.returncode == 1
    assert f"rolled back to {NOW}" in stopped.stderr.replace("\n", " ")
    assert f"{NOW}: 1 host(s): {PAIR}" in stopped.stderr
    assert f"{NOW} (not reached): 1 host(s): {NEXT}" in stopped.stderr
    upgrades.is_on(NEXT, NOW)
    upgrades.fleet.lab.heal(PAIR)
    done = upgrades.metalserve(*chosen, "--canary", "1", "--then", "50%", "--yes")
    assert done.returncode == 0, done.stderr
    assert f"{OLD}: 2 host(s): {NEXT}, {PAIR}" in done.stderr
    upgrades.is_on(NEXT, OLD)
    assert Path(upgrades.fleet.directory / "waves.json").exists()
    assert upgrades.metalserve(*chosen).returncode == 0, "nothing is left to do"
