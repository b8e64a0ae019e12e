"""Fabric manager and Docker on converged hosts: what dies is seen although all else looks well, what runs goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.fleet import Fleet

pytestmark = [pytest.mark.lab, pytest.mark.fleet]

DEPLOY = """\
from metalserve.pyinfra_seam.role import begin
from roles import container_runtime

begin(container_runtime.desired.watch)
container_runtime.container_runtime()
"""

# A manager that somebody starts counts from nought for systemd; in the journal its deaths stay for half an hour.
FORGET = "journalctl -q --rotate --vacuum-time=1s 2>/dev/null; systemctl restart nvidia-fabricmanager"


@pytest.fixture
def host(serving: Fleet) -> str:
    """A host with NVSwitches that serves."""
    name = next((h.name for h in serving.lab.fleet.hosts if h.profile == "h100-sxm-8"), None)
    if name is None:
        pytest.skip("the lab has no host with NVSwitches")
    return name


@pytest.fixture
def switched(serving: Fleet, host: str) -> Iterator[Fleet]:
    """The fleet; its host with NVSwitches is healed afterwards, and the restarts are forgotten."""
    yield serving
    serving.lab.heal(host)
    serving.wait_until(host, "! ls /run/systemd/system/nvidia-fabricmanager.service.d/*flapping.conf 2>/dev/null")
    done = serving.lab.ssh(host, FORGET)
    assert done.returncode == 0, done.stderr


def findings(fleet: Fleet, host: str) -> dict[str, list[dict[str, Any]]]:
    """What deploys/verify.py finds on a host, by check."""
    run = fleet.run("--limit", host, deploy="deploys/verify.py")
    assert run.rc == 1, run.out
    found: dict[str, list[dict[str, Any]]] = {}
    for finding in run.report["hosts"][host]["findings"]:
        found.setdefault(finding["check"], []).append(finding)
    # The one state that everybody looks at tells of neither: it is latched.
    states = found["fabric-state"]
    assert {f["status"] for f in states} == {"ok"} and all("Completed" in f["observed"] for f in states)
    return found


def test_a_dead_manager_is_found_while_the_fabric_is_completed(switched: Fleet, host: str) -> None:
    switched.lab.fault(host, "fabric-manager-dead")
    switched.wait_until(host, "! systemctl -q is-active nvidia-fabricmanager")
    found = findings(switched, host)
    (alive,) = found["fabric-manager-alive"]
    assert alive["status"] == "fail" and "the fabric's state is still Completed" in alive["observed"]
    assert "ActiveState=failed" in alive["evidence"]
    assert found["fabric-manager-flapping"][0]["status"] == "ok"


@pytest.mark.slow
def test_a_manager_that_dies_and_comes_back_is_found_flapping(switched: Fleet, host: str) -> None:
    switched.lab.fault(host, "fabric-manager-flapping")
    switched.wait_until(host, "[ $(systemctl show -P NRestarts nvidia-fabricmanager) -ge 3 ]", 60)
    (flapping,) = findings(switched, host)["fabric-manager-flapping"]
    assert flapping["status"] == "fail" and "time(s) in 30 minutes" in flapping["observed"]
    assert "NRestarts=" in flapping["evidence"] and flapping["threshold"]["id"] == "fabric-manager-deaths"


@pytest.mark.slow
def test_what_docker_can_take_by_a_reload_leaves_the_engines_alone(serving: Fleet, host: str, tmp_path: Path) -> None:
    deploy = tmp_path / "deploy.py"
    deploy.write_text(DEPLOY)
    watched = "docker ps -q | sort; systemctl show -P ActiveEnterTimestamp docker"
    before = serving.lab.ssh(host, watched).stdout
    assert len(before.splitlines()) > 1, "engines run"
    off = {host: {"container": {"live_restore": False}}}
    for overrides, state in ((off, "false"), (None, "true")):
        run = serving.run("--limit", host, deploy=str(deploy), overrides=overrides)
        assert run.rc == 0, run.out
        changes = [change for _, _, change in run.report["hosts"][host]["changes"]]
        assert changes[-1] == "reload Docker (live-restore) (containers go on)"
        assert serving.lab.ssh(host, "docker info --format '{{.LiveRestoreEnabled}}'").stdout.strip() == state
    assert serving.lab.ssh(host, watched).stdout == before
    again = serving.run("--limit", host, deploy=str(deploy))
    assert again.statuses[host] == "unchanged", again.out
