"""An upgrade on a host that serves: refused, rolled back, done without a reboot, done already."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.fleet import Fleet
from tests.lab.test_main_job import BRIDGED, ENGINES
from tests.lab.upgrades import NOW, OLD, Upgrades

pytestmark = [pytest.mark.lab, pytest.mark.fleet]


@pytest.fixture(scope="module")
def upgrades(serving: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upgrades]:
    made = Upgrades(serving, tmp_path_factory.mktemp("upgrade"))
    yield made
    serving.lab.heal(BRIDGED)
    back = made.run(BRIDGED, NOW)
    assert back.rc == 0, back.out
    assert serving.run("--limit", BRIDGED).statuses == {BRIDGED: "unchanged"}


@pytest.mark.slow
def test_strangers_on_the_gpus_are_named_and_nothing_is_stopped(upgrades: Upgrades) -> None:
    lab = upgrades.fleet.lab
    lab.ssh(BRIDGED, "systemd-run -q --unit=training sh -c 'exec 3</dev/nvidia0; sleep 300'")
    try:
        run = upgrades.run(BRIDGED, OLD)
    finally:
        lab.ssh(BRIDGED, "systemctl stop training")
    assert run.rc == 1
    assert "the GPUs are in use by process" in run.failure(BRIDGED)
    assert "training.service" in run.failure(BRIDGED)
    assert run.report["hosts"][BRIDGED]["sessions"] == 1
    assert upgrades.fleet.token(BRIDGED)


@pytest.mark.slow
def test_a_driver_that_does_not_load_is_rolled_back(upgrades: Upgrades) -> None:
    lab = upgrades.fleet.lab
    lab.fault(BRIDGED, "driver-fails-to-load")
    upgrades.fleet.wait_until(BRIDGED, "grep -q driver-fails-to-load /opt/metalserve-lab/state/applied.json")
    run = upgrades.run(BRIDGED, OLD)
    lab.heal(BRIDGED)
    assert run.rc == 1
    assert f"the upgrade to {OLD} failed at step reload: " in run.failure(BRIDGED)
    assert "module nvidia of driver 580.159.03 does not load" in run.failure(BRIDGED)
    assert f"; rolled back to {NOW}, which is proved again" in run.failure(BRIDGED)
    assert run.report["hosts"][BRIDGED]["proofs"]["release"] == NOW
    upgrades.is_on(BRIDGED, NOW)
    assert upgrades.record(BRIDGED)["result"] == "rolled back"
    assert upgrades.fleet.token(BRIDGED)


@pytest.mark.slow
def test_a_patch_level_is_exchanged_without_a_reboot_and_only_once(upgrades: Upgrades) -> None:
    fleet = upgrades.fleet
    before = upgrades.boot(BRIDGED)
    run = upgrades.run(BRIDGED, OLD)
    assert run.rc == 0, run.out
    upgrades.is_on(BRIDGED, OLD)
    assert upgrades.boot(BRIDGED) == before
    assert run.report["hosts"][BRIDGED]["proofs"]["upgrade"] == f"{NOW} -> {OLD}"
    record = upgrades.record(BRIDGED)
    assert record["result"] == "done"
    assert all(fleet.token(BRIDGED, port) for port in ENGINES[BRIDGED])
    again = upgrades.run(BRIDGED, OLD)
    assert again.statuses == {BRIDGED: "unchanged"}
    assert again.report["hosts"][BRIDGED]["sessions"] == 1
    assert upgrades.converge(BRIDGED, OLD).statuses == {BRIDGED: "unchanged"}
