"""Recoveries on the lab: every injected fault is cured without a hand, or its host is quarantined with its packet."""

from __future__ import annotations

import json
import re
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metalserve.recovery.case import STAGES
from tests.lab.fleet import Fleet
from tests.lab.recovering import Recovering, mend, rungs, strike
from tests.lab.test_main_job import BRIDGED, ENGINES, PCIE, SWITCHED

pytestmark = [pytest.mark.lab, pytest.mark.fleet]

SERVES_AGAIN_S = 15.0
RESET_S = 60.0


@pytest.fixture
def recovering(serving: Fleet, tmp_path: Path) -> Recovering:
    return Recovering(serving, tmp_path / "state")


@pytest.fixture
def hurt(serving: Fleet) -> Iterator[set[str]]:
    """Names of the hosts that a test hurts beyond what it mends; they are healed, and rebooted when that is not all."""
    names: set[str] = set()
    yield names
    mend(serving, names)


def boots_of(fleet: Fleet, host: str) -> int:
    """Return how often a host has booted since it has had power."""
    state = json.loads((fleet.lab.layout.host(host) / "state.json").read_text())
    return int(state["boots"])


def page_of(attempt: dict[str, Any]) -> str:
    """Return the page of the packet that an attempt's words name."""
    packet = re.search(r"packet: (\S+)", attempt["words"])
    assert packet is not None, attempt["words"]
    with tarfile.open(packet[1]) as archive:
        page = archive.extractfile(next(n for n in archive.getnames() if n.endswith("README.txt")))
        assert page is not None
        return page.read().decode()


def test_a_gpu_that_needs_a_reset_is_reset_verified_and_serves(recovering: Recovering) -> None:
    fleet = recovering.fleet
    strike(fleet, BRIDGED, "gpu-needs-reset", 1)
    rc, plan, _ = recovering.run("--unhealthy")
    assert rc == 3
    (taken,) = plan["take"]
    assert (taken["host"], taken["step"], taken["reboots"], taken["wipes"]) == (BRIDGED, "reset-gpu", False, False)
    assert set(plan["well"]) == set(fleet.lab.hosts) - {BRIDGED}
    assert plan["capacity"][0]["serving"] - plan["capacity"][0]["remaining"] == len(ENGINES[BRIDGED])
    before = fleet.lab.ssh(BRIDGED, "docker inspect -f '{{.Id}}' metalserve-vllm-0").stdout
    rc, said, log = recovering.run("--unhealthy", "--yes")
    assert rc == 0, log
    attempt = said["attempts"][BRIDGED]
    assert attempt["result"] == "recovered" and said["simulated"] is True
    assert rungs(attempt) == [("reset-gpu", "good"), ("accept", "good")], log
    assert tarfile.is_tarfile(attempt["evidence"]), "kept before the first step"
    assert attempt["subjects"][0]["serial"], "a GPU is known by its serial number"
    assert fleet.lab.ssh(BRIDGED, "nvidia-smi --query-gpu=gpu_recovery_action --format=csv,noheader").stdout == (
        "None\nNone\n"
    )
    assert fleet.lab.ssh(BRIDGED, "docker inspect -f '{{.Id}}' metalserve-vllm-0").stdout != before
    assert fleet.token(BRIDGED, 8000) and fleet.token(BRIDGED, 8001)
    fleet.lab.heal(BRIDGED)


@pytest.mark.slow
def test_the_deploy_restarts_hung_engines_and_leaves_well_hosts_alone(recovering: Recovering) -> None:
    fleet = recovering.fleet
    strike(fleet, PCIE, "engine-hang")
    dry = recovering.deploy("--dry")
    assert {status for name, status in dry.statuses.items() if name != PCIE} == {"unchanged"}
    assert {host["sessions"] for name, host in dry.report["hosts"].items() if name != PCIE} == {1}
    assert "restart-engine: the engine says it is healthy, but no token comes" in dry.out
    run = recovering.deploy("--limit", PCIE)
    assert run.rc == 0, run.out
    assert "restart-engine (good)" in run.report["hosts"][PCIE]["proofs"]["recovery"]
    assert all(fleet.token(PCIE, port) for port in ENGINES[PCIE])
    record = json.loads(fleet.lab.ssh(PCIE, "cat /var/lib/metalserve/recovery.json").stdout)
    assert record["result"] == "recovered" and record["steps"][0]["proof"] == "good"
    fleet.lab.heal(PCIE)


@pytest.mark.slow
def test_dead_engines_serve_again_within_seconds_of_being_found(recovering: Recovering) -> None:
    fleet = recovering.fleet
    strike(fleet, BRIDGED, "engine-dead")
    rc, said, log = recovering.run(BRIDGED, "--yes")
    assert rc == 0, log
    attempt = said["attempts"][BRIDGED]
    assert rungs(attempt) == [("restart-engine", "good"), ("accept", "good")]
    step = next(s for s in attempt["steps"] if s["step"]["rung"] == "restart-engine")
    assert step["ended"] - attempt["begun"] < SERVES_AGAIN_S, "from the verdict to a token of every engine"
    fleet.lab.heal(BRIDGED)


@pytest.mark.slow
def test_a_reset_with_fabric_manager_takes_less_than_a_minute(recovering: Recovering) -> None:
    fleet = recovering.fleet
    strike(fleet, SWITCHED, "gpu-needs-reset", 3)
    rc, said, log = recovering.run(SWITCHED, "--yes")
    assert rc == 0, log
    attempt = said["attempts"][SWITCHED]
    assert rungs(attempt) == [("reset-gpu", "good"), ("accept", "good")]
    step = next(s for s in attempt["steps"] if s["step"]["rung"] == "reset-gpu")
    assert step["ended"] - attempt["begun"] < RESET_S, "the simulated reset itself takes no time"
    assert fleet.lab.ssh(SWITCHED, "systemctl is-active nvidia-fabricmanager nvidia-persistenced").stdout == (
        "active\nactive\n"
    )
    fleet.lab.heal(SWITCHED)


CURED = [
    # host, fault, GPU, the rungs that are made
    (SWITCHED, "gpu-off-bus", 3, ["reboot"]),
    (SWITCHED, "remap-pending", 2, ["reset-gpu"]),
    (SWITCHED, "driver-mismatch", None, ["reload-driver"]),
    (BRIDGED, "container-stuck", None, ["restart-engine"]),
]


@pytest.mark.slow
@pytest.mark.parametrize(("host", "fault", "gpu", "made"), CURED)
def test_each_fault_is_cured_by_the_step_that_can(
    recovering: Recovering, hurt: set[str], host: str, fault: str, gpu: int | None, made: list[str]
) -> None:
    hurt.add(host)
    strike(recovering.fleet, host, fault, gpu)
    rc, said, log = recovering.run(host, "--yes")
    assert rc == 0, log
    attempt = said["attempts"][host]
    assert [rung for rung, _ in rungs(attempt)] == [*made, "accept"], log
    assert attempt["result"] == "recovered"
    assert all(recovering.fleet.token(host, port) for port in ENGINES[host])


@pytest.mark.slow
def test_a_fault_that_no_reset_cures_falls_through_to_quarantine_with_its_packet(
    recovering: Recovering, hurt: set[str]
) -> None:
    hurt.add(BRIDGED)
    strike(recovering.fleet, BRIDGED, "gpu-needs-reset", 0, sticky=True)
    rc, said, log = recovering.run(BRIDGED, "--yes", timeout_s=1800)
    assert rc == 1, log
    attempt = said["attempts"][BRIDGED]
    names = [rung for rung, _ in rungs(attempt)]
    assert attempt["result"] == "quarantined"
    assert names == ["reset-gpu", "reload-driver", "reboot", "power-cycle", "quarantine"], log
    text = page_of(attempt)
    assert attempt["subjects"][0]["serial"] in text and "simulated" in text.lower()
    again, _, log = recovering.run("--unhealthy", "--yes")
    assert again == 2, log
    again, plan, _ = recovering.run("--unhealthy")
    assert again == 2 and "marked quarantine" in plan["refuse"][BRIDGED], "it is left alone"


TOGETHER = [
    # fault and GPU, twice; the rungs that are made; how it ends
    (("gpu-needs-reset", 0), ("container-stuck", None), ["reset-gpu", "accept"], "recovered"),
    (("gpu-off-bus", 1), ("engine-dead", None), ["reboot", "accept"], "recovered"),
    (("gpu-needs-reset", 0), ("remap-failed", 1), ["quarantine"], "quarantined"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("one", "other", "made", "ends"), TOGETHER)
def test_two_faults_at_once_are_cured_by_the_step_that_reaches_both(
    recovering: Recovering,
    hurt: set[str],
    one: tuple[str, int | None],
    other: tuple[str, int | None],
    made: list[str],
    ends: str,
) -> None:
    hurt.add(BRIDGED)
    strike(recovering.fleet, BRIDGED, *one)
    strike(recovering.fleet, BRIDGED, *other, first=False)
    rc, said, log = recovering.run(BRIDGED, "--yes")
    attempt = said["attempts"][BRIDGED]
    assert ([rung for rung, _ in rungs(attempt)], attempt["result"]) == (made, ends), log
    assert rc == (0 if ends == "recovered" else 1)
    if ends == "recovered":
        assert all(recovering.fleet.token(BRIDGED, port) for port in ENGINES[BRIDGED])


@pytest.mark.slow
def test_a_gpu_whose_fault_comes_back_is_quarantined_and_not_reset_again(
    recovering: Recovering, hurt: set[str]
) -> None:
    hurt.add(BRIDGED)
    recovering.overrides = {**recovering.overrides, BRIDGED: {"recovery": {"same_part": 2}}}
    strike(recovering.fleet, BRIDGED, "gpu-needs-reset", 1)
    rc, said, log = recovering.run(BRIDGED, "--yes")
    assert rc == 0, log
    first = said["attempts"][BRIDGED]
    assert rungs(first) == [("reset-gpu", "good"), ("accept", "good")]
    strike(recovering.fleet, BRIDGED, "gpu-needs-reset", 1)
    rc, said, log = recovering.run(BRIDGED, "--yes")
    assert rc == 1, log
    again = said["attempts"][BRIDGED]
    assert again["subjects"] == first["subjects"], "the same GPU by its serial number"
    assert again["result"] == "quarantined" and [rung for rung, _ in rungs(again)] == ["quarantine"], log
    assert f"{first['subjects'][0]['serial']}: failure 2 in 7 days" in again["words"]
    assert "reset-gpu" in page_of(again), "what was tried before stands in its packet"


@pytest.mark.slow
def test_a_row_that_could_not_be_remapped_is_quarantined_at_once(recovering: Recovering, hurt: set[str]) -> None:
    hurt.add(BRIDGED)
    strike(recovering.fleet, BRIDGED, "remap-failed", 0)
    rc, said, log = recovering.run(BRIDGED, "--yes")
    assert rc == 1, log
    assert [rung for rung, _ in rungs(said["attempts"][BRIDGED])] == ["quarantine"]
    assert Path(said["attempts"][BRIDGED]["words"].rpartition("packet: ")[2]).is_file()


@pytest.mark.slow
def test_a_host_that_hangs_is_brought_back_by_its_bmc(recovering: Recovering, hurt: set[str]) -> None:
    hurt.add(BRIDGED)
    recovering.fleet.lab.fault(BRIDGED, "host-hang")
    rc, said, log = recovering.run(BRIDGED, "--yes")
    assert rc == 0, log
    attempt = said["attempts"][BRIDGED]
    (made, *rest) = rungs(attempt)
    assert made in (("reboot", "good"), ("power-cycle", "good")) and rest == [("accept", "good")], log
    assert all(recovering.fleet.token(BRIDGED, port) for port in ENGINES[BRIDGED])


@pytest.mark.slow
def test_a_host_without_bmc_that_cannot_be_reached_is_left_with_the_reason(
    recovering: Recovering, hurt: set[str]
) -> None:
    hurt.add(BRIDGED)
    recovering.overrides = {**recovering.overrides, BRIDGED: {"bmc": None}}
    recovering.fleet.lab.fault(BRIDGED, "unreachable")
    rc, said, log = recovering.run(BRIDGED, "--yes")
    assert rc == 1, log
    attempt = said["attempts"][BRIDGED]
    assert attempt["result"] == "stopped" and "there is no BMC that answers" in attempt["words"]
    assert rungs(attempt) == [], "nothing was tried"


@pytest.mark.slow
def test_a_destroyed_file_system_ends_in_quarantine_that_names_the_installation(
    recovering: Recovering, hurt: set[str]
) -> None:
    hurt.add(PCIE)
    deadlines = {"recovery": {"deadlines_s": {"reboot": 90, "power-cycle": 90}}}
    recovering.overrides = {**recovering.overrides, PCIE: deadlines}
    recovering.fleet.lab.fault(PCIE, "filesystem-destroyed")
    rc, said, log = recovering.run(PCIE, "--yes", timeout_s=1800)
    assert rc == 1, log
    attempt = said["attempts"][PCIE]
    assert attempt["result"] == "quarantined" and {"reboot", "power-cycle"} <= {rung for rung, _ in rungs(attempt)}
    assert "re-imaging" in attempt["words"]


@pytest.mark.slow
def test_observing_writes_down_and_touches_nothing(recovering: Recovering, hurt: set[str]) -> None:
    hurt.add(BRIDGED)
    strike(recovering.fleet, BRIDGED, "gpu-needs-reset", 0)
    before = recovering.fleet.lab.ssh(BRIDGED, "docker inspect -f '{{.Id}}' metalserve-vllm-0").stdout
    rc, _, log = recovering.run("--unhealthy", "--observe")
    assert rc == 0, log
    (line,) = (recovering.state / "observed.jsonl").read_text().splitlines()
    assert [each["step"] for each in json.loads(line)["take"]] == ["reset-gpu"]
    assert recovering.attempts(BRIDGED) == []
    assert recovering.fleet.lab.ssh(BRIDGED, "docker inspect -f '{{.Id}}' metalserve-vllm-0").stdout == before


WALKED = [
    # fault, the GPU that a round strikes, the rung that is made, steps: each of them is where the controller is killed
    ("gpu-needs-reset", True, "reset-gpu", 4),  # drain, reset, accept, restore
    ("engine-dead", False, "restart-engine", 3),  # restart, accept, restore
]


@pytest.mark.slow
@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize(("fault", "of_gpu", "rung", "steps"), WALKED)
def test_a_controller_that_is_killed_at_any_step_is_followed_by_one_that_goes_on(
    recovering: Recovering, hurt: set[str], fault: str, of_gpu: bool, rung: str, steps: int, ended: bool
) -> None:
    """Killed when each step has begun, and when each has ended."""
    hurt.add(BRIDGED)
    for number in range(1, steps + 1):
        strike(recovering.fleet, BRIDGED, fault, number % 2 if of_gpu else None)
        known = len(recovering.attempts(BRIDGED)) if recovering.state.exists() else 0
        killed = recovering.killed_when(BRIDGED, number, ended=ended)
        assert killed or number == steps, "only the last step, which takes no time without a router, may be missed"
        if killed:
            rc, _, log = recovering.run(BRIDGED, "--yes")
            assert rc == 0, f"killed at step {number}: {log}"
        attempts = recovering.attempts(BRIDGED)
        assert len(attempts) == known + 1, "it went on with the same attempt"
        assert attempts[0].result == "recovered" and all(s.ended is not None for s in attempts[0].steps)
        made = [s.step.rung for s in attempts[0].steps if s.step.rung not in STAGES]
        assert made == [rung] or (killed and not ended and made == [rung, rung]), made
        assert recovering.fleet.token(BRIDGED, 8000) and recovering.fleet.token(BRIDGED, 8001)
        recovering.fleet.lab.heal(BRIDGED)
        (recovering.state / "recovery.db").rename(recovering.state / f"recovery-{number}-{time.time_ns()}.db")
        for rest in recovering.state.glob("recovery.db-*"):
            rest.unlink()


@pytest.mark.slow
def test_a_controller_that_dies_while_its_host_reboots_is_followed_by_one_that_does_not_reboot_it_again(
    recovering: Recovering, hurt: set[str]
) -> None:
    hurt.add(BRIDGED)
    fleet = recovering.fleet
    strike(fleet, BRIDGED, "gpu-off-bus", 1)
    before = boots_of(fleet, BRIDGED)
    assert recovering.killed_when(BRIDGED, 2, ended=False, also=lambda: fleet.lab.state(BRIDGED) != "up")
    (left,) = recovering.attempts(BRIDGED)
    assert [s.step.rung for s in left.steps] == ["drain", "reboot"] and left.steps[1].ended is None
    rc, _, log = recovering.run(BRIDGED, "--yes")
    assert rc == 0, log
    (attempt,) = recovering.attempts(BRIDGED)
    assert attempt.id == left.id and attempt.result == "recovered"
    made = [(s.step.rung, s.outcome, s.proof) for s in attempt.steps if s.step.rung not in STAGES]
    assert made == [("reboot", "unknown", "good")], "nobody saw it end; what is seen proves it"
    assert boots_of(fleet, BRIDGED) == before + 1, "it was booted once, whoever lived to see it"
    assert all(fleet.token(BRIDGED, port) for port in ENGINES[BRIDGED])
