"""A recovery behind a real router, under load: the host is drained before it is disturbed, restored when accepted."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metalserve.yaml_text import merged
from tests.lab.fleet import Fleet
from tests.lab.load import Door, Load
from tests.lab.recovering import OVERRIDES, Recovering, mend, strike
from tests.lab.test_main_job import BRIDGED, ENGINES, PCIE
from tests.lab.test_router_live import CLIENT_KEY, MODEL, SECRETS, SETTINGS, Routed

pytestmark = [pytest.mark.lab, pytest.mark.fleet, pytest.mark.slow]

REPLICAS = [f"{PCIE}:{port}" for port in ENGINES[PCIE]]
LINE = re.compile(r"^(\d+\.\d+) .*replica=(\S+) .*path=/v1/completions status=(\d+)", re.MULTILINE)


@pytest.fixture
def routed(serving: Fleet) -> Iterator[Routed]:
    """The router on BRIDGED, in front of its two replicas and the four of PCIE."""
    routed = Routed(serving, Door(serving.lab.address(BRIDGED), SETTINGS["port"], MODEL, CLIENT_KEY))
    try:
        run = routed.run()
        assert run.rc == 0, run.out
        assert "6 of 6 up" in run.report["hosts"][BRIDGED]["proofs"]["routes"]
        yield routed
    finally:
        mend(serving, [PCIE])
        gone = serving.run(deploy="deploys/router.py")
    assert gone.rc == 0, gone.out


class Watched:
    """The states that the router gives the replicas of PCIE, looked at again and again, each with its time."""

    def __init__(self, routed: Routed) -> None:
        self.seen: list[tuple[float, set[str]]] = []
        self._routed, self._stop = routed, threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watched:
        self._thread.start()
        return self

    def __exit__(self, *stop: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.5):
            states = self._routed.states()
            self.seen.append((time.time(), {states.get(replica, "gone").split(" ")[0] for replica in REPLICAS}))

    def between(self, begin: float, end: float) -> set[str]:
        """Return all states that were seen in a span of time."""
        return {state for at, states in self.seen if begin < at < end for state in states}


def test_a_gpu_is_reset_behind_the_router_and_no_request_is_lost(routed: Routed, tmp_path: Path) -> None:
    fleet = routed.fleet
    overrides: dict[str, Any] = merged(dict(OVERRIDES), {BRIDGED: {"router": SETTINGS}})
    recovering = Recovering(fleet, tmp_path / "state", overrides, dict(SECRETS))
    with Load(routed.door, plain=2, streams=1, tokens=40) as load, Watched(routed) as watched:
        strike(fleet, PCIE, "gpu-needs-reset", 2)
        rc, said, log = recovering.run("--unhealthy", "--yes")
        time.sleep(5)  # requests reach it again
    assert rc == 0, log
    attempt = said["attempts"][PCIE]
    assert [s["step"]["rung"] for s in attempt["steps"]] == ["drain", "reset-gpu", "accept", "restore"], log
    drain, reset, accept, restore = attempt["steps"]
    assert f"{BRIDGED}: drained in " in drain["words"] and drain["outcome"] == restore["outcome"] == "done"
    assert drain["ended"] <= reset["begun"] < reset["ended"] <= accept["begun"] < accept["ended"] <= restore["begun"]

    assert load.lost(streams=False) == [] and load.lost(streams=True) == [], load.told()
    assert len(load.got) > 50

    assert "UP" in watched.between(0, drain["begun"]), "it was in the router before"
    away = watched.between(drain["ended"], restore["begun"])
    assert away and "UP" not in away, f"out of the router while it is disturbed, and until it is accepted: {away}"
    assert watched.seen[-1][1] == {"UP"}

    journal = fleet.lab.ssh(BRIDGED, "journalctl -q -o short-unix -u metalserve-router -n 20000").stdout
    asked = [(float(at), replica) for at, replica, _ in LINE.findall(journal)]
    assert {replica for at, replica in asked if at > restore["ended"]} & set(REPLICAS), "it is given requests again"
    # the router writes a line when an answer has ended: none of PCIE's after the drain, and none of them failed
    assert not [each for each in asked if drain["ended"] + 0.5 < each[0] < restore["begun"] and each[1] in REPLICAS]
    assert {replica.partition(":")[0] for at, replica in asked if reset["begun"] < at < reset["ended"]} == {BRIDGED}
