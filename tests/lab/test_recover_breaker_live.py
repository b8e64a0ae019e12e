"""The fleet's breaker on the lab: hosts that turn bad together are left alone until a person has looked."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metalserve.yaml_text import merged
from tests.lab.fleet import Fleet
from tests.lab.recovering import OVERRIDES, Recovering, mend, rungs, strike
from tests.lab.test_main_job import BRIDGED, ENGINES, PCIE, SWITCHED

pytestmark = [pytest.mark.lab, pytest.mark.fleet, pytest.mark.slow]

TWO = {"breaker_least": 2, "breaker_percent": 50, "breaker_window_s": 1800}
"""Two of three hosts open it, within a window that no slow machine runs out of."""


@pytest.fixture
def recovering(serving: Fleet, tmp_path: Path) -> Iterator[Recovering]:
    overrides: dict[str, Any] = merged(
        dict(OVERRIDES),
        {
            "all": {"recovery_fleet": TWO},
            BRIDGED: {"recovery": {"rack": "r1"}},
            PCIE: {"recovery": {"rack": "r7"}},
            SWITCHED: {"recovery": {"rack": "r2"}},
        },
    )
    yield Recovering(serving, tmp_path / "state", overrides)
    mend(serving, [BRIDGED, PCIE, SWITCHED])


def in_reset(recovering: Recovering, host: str, timeout_s: float = 300) -> bool:
    """Wait until the reset of a host's GPU has begun."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        if (recovering.state / "recovery.db").exists():
            steps = [s for a in recovering.attempts(host) for s in a.steps if s.step.rung == "reset-gpu"]
            if steps:
                return True
        time.sleep(0.1)
    return False


def test_it_opens_names_what_is_common_lets_who_is_in_flight_finish_and_is_closed_by_a_person(
    recovering: Recovering,
) -> None:
    fleet = recovering.fleet
    strike(fleet, BRIDGED, "gpu-needs-reset", 1)
    first = recovering.begin(BRIDGED, "--yes")
    try:
        assert in_reset(recovering, BRIDGED)
        assert recovering.remembered("breaker", "show")[0] == 0, "one host does not open it"
        strike(fleet, PCIE, "gpu-needs-reset", 0)

        rc, _, log = recovering.run("--unhealthy", "--yes")
        assert rc == 2, log
        assert first.poll() is None, "BRIDGED is still in recovery, and is not disturbed"
        assert recovering.attempts(PCIE) == [], "the next one is not begun with"
        rc, plan, _ = recovering.run("--unhealthy")
        assert rc == 2 and plan["take"] == []
        assert plan["wait"][PCIE].startswith("the breaker is open: 2 of 3 hosts turned unhealthy")
        why = plan["breaker"]
        assert f"(limit 2): {BRIDGED}, {PCIE}" in why
        # with three hosts chance alone explains everything, and it says so; the Xid is what both show
        assert "nothing in common that sets them apart" in why and "xid 95 (2 of 2 bad hosts" in why

        out, log = first.communicate(timeout=900)
        assert first.returncode == 0, log
        assert '"result": "recovered"' in out, "who is in flight finishes although it is open"
    finally:
        if first.poll() is None:
            first.kill()
            first.wait()

    rc, said = recovering.remembered("breaker", "show", "--json")
    state = json.loads(said)["breaker"]
    assert rc == 1 and state["open"] and set(state["hosts"]) == {BRIDGED, PCIE}, "it is open in every later process"
    assert recovering.run(PCIE, "--yes")[0] == 2, "a host that a person names waits as well"
    assert recovering.attempts(PCIE) == []

    rc, said = recovering.remembered("breaker", "close", "--why", "both boards had the same memory errors: known")
    assert rc == 0 and "2 host(s) had opened it" in said
    rc, done, log = recovering.run("--unhealthy", "--yes")
    assert rc == 0, log
    assert rungs(done["attempts"][PCIE]) == [("reset-gpu", "good"), ("accept", "good")], log
    assert recovering.remembered("breaker", "show")[0] == 0, "what the person knew of does not open it again"
    assert all(fleet.token(host, port) for host in (BRIDGED, PCIE) for port in ENGINES[host])
    journal = json.loads(recovering.remembered("history", "--json")[1])["journal"]
    told = [each for each in journal if each["what"].startswith("breaker-")]
    assert [each["what"] for each in told] == ["breaker-open", "breaker-close"]
    assert "the same memory errors: known" in told[1]["words"]
