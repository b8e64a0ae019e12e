"""The simulated fleet: its figures are its sources', it is the same twice, and it says what it is."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench.recovery import simulate
from bench.recovery.events import Events
from bench.recovery.fleet import Fleet, Host
from bench.recovery.hands import SimulatedHands
from bench.recovery.policies import AlwaysReboot, Ladder, PageAHuman
from bench.recovery.rates import load_rates
from bench.recovery.simulate import START, run
from metalserve.recovery.values import Attempt

RATES = load_rates()
ALONE = RATES.model_copy(
    update={
        "rollouts": (),
        "faults": tuple(kind.model_copy(update={"rate": 0.0}) for kind in RATES.faults),
        "switches": RATES.switches.model_copy(update={"per_30_days": 0.0}),
        "lemons": RATES.lemons.model_copy(update={"share": 0.0}),
    }
)
"""A fleet that nothing strikes but what a test brings."""


def test_all_of_the_training_runs_interruptions_are_there() -> None:
    table = RATES.table
    assert sum(table.counts.values()) + sum(table.left_out.values()) == 419
    shares = {part: sum(kind.share for kind in RATES.faults if kind.of == part) for part in table.counts}
    assert shares == pytest.approx(dict.fromkeys(table.counts, 1.0))
    of_table = sum(kind.rate for kind in RATES.faults if kind.of)
    assert of_table == pytest.approx(1000 * (419 - sum(table.left_out.values())) / (54 * 2048))
    assert 2.34 < of_table < 6.50, "Meta's two research clusters"


@pytest.mark.parametrize("policy", [Ladder, AlwaysReboot, PageAHuman])
def test_the_same_seed_is_the_same_fleet(policy: type) -> None:
    first, second = (run(policy, 3, 96, 3.0, RATES).figures for _ in range(2))
    assert first == second
    assert first["faults"] > 0 and 50 < first["availability"] < 100


def test_all_time_without_service_is_counted_once() -> None:
    events = Events(START)
    fleet = Fleet.of(events, ALONE, 1, 1, 1.0)
    (host,) = fleet.hosts.values()
    kind = RATES.faults[0]
    events.after(100.0, lambda: fleet.strike(host, kind, "reboot", kind.causes))
    events.after(300.0, lambda: fleet.put(host, away=True))
    events.after(500.0, lambda: fleet.cure(host))
    events.after(700.0, lambda: fleet.put(host, away=False))
    events.run(START + 1000.0)
    host.settle(events.now())
    assert host.out_s == 600.0
    assert fleet.count.cured_s == [600.0]


@pytest.mark.parametrize("cure", ["reset-gpu", "part"])
def test_the_real_ladder_runs_in_it(cure: str) -> None:
    events = Events(START)
    fleet = Fleet.of(events, ALONE, 1, 8, 10.0)
    policy = Ladder(fleet)
    (kind,) = (kind for kind in RATES.faults if kind.name == "GPU fault")
    host = fleet.hosts["h0003"]
    host.has_bmc = True
    events.after(60.0, lambda: fleet.strike(host, kind, cure, kind.causes))
    events.run(START + 86400.0)
    attempts = policy.store.attempts("h0003")
    assert attempts[-1].steps[1].step.rung == "reset-gpu"
    if cure == "part":
        assert attempts[-1].result == "quarantined" and fleet.count.quarantined_right == 1
        assert not host.serves and host.waits_for_part
        events.run(START + 6 * 86400.0)
        assert host.serves and host.parts == 1
    else:
        assert attempts[-1].result == "recovered" or len(attempts[-1].steps) > 3
        assert host.serves


def test_never_more_hosts_in_recovery_than_the_limits_let(monkeypatch: pytest.MonkeyPatch) -> None:
    most = 0
    real = SimulatedHands.act

    def act(self: SimulatedHands, host: str, step: object) -> object:
        nonlocal most
        most = max(most, sum(bool(attempt) for attempt in policy.store.open_attempts()))
        return real(self, host, step)  # type: ignore[arg-type]

    monkeypatch.setattr(SimulatedHands, "act", act)
    events = Events(START)
    fleet = Fleet.of(events, ALONE, 1, 200, 2.0)
    policy = Ladder(fleet)
    (kind,) = (kind for kind in RATES.faults if kind.name == "stuck kernel")
    for number in range(40):  # too slowly for the breaker, too fast for the hands
        host = fleet.hosts[f"h{37 * number % 200:04d}"]  # they have nothing in common
        events.after(60.0 * number, lambda host=host: fleet.strike(host, kind, "reboot", kind.causes))
    events.run(fleet.end)
    assert fleet.count.breaker == []
    assert most == policy.limits.at_once
    assert all(host.serves for host in fleet.hosts.values())


def test_a_bad_release_opens_the_breaker_and_costs_few_hosts() -> None:
    events = Events(START)
    rollout = RATES.rollouts[0].model_copy(update={"day": 0.1, "hosts": 100, "minutes": 20.0})
    fleet = Fleet.of(events, ALONE.model_copy(update={"rollouts": (rollout,)}), 1, 200, 2.0)
    policy = Ladder(fleet)
    fleet.schedule(1)
    events.run(fleet.end)
    assert len(fleet.count.breaker) == 1 and "release bad0" in fleet.count.breaker[0][1]
    assert len(fleet.count.lost_to_rollout) <= policy.limits.at_once
    assert all(host.release == "r1" for host in fleet.hosts.values())


def test_it_says_that_it_is_simulated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    svg = tmp_path / "plot.svg"
    monkeypatch.setattr("sys.argv", ["simulate.py", "--hosts", "64", "--days", "2", "--seed", "2", "--svg", str(svg)])
    assert simulate.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("simulated: 64 hosts, 2 days, seed 2")
    said = json.loads(lines[-1])
    assert said["simulated"] is True and set(said) > {"metalserve", "always reboot", "page a human"}
    root = ElementTree.fromstring(svg.read_text())
    words = [node.text or "" for node in root.iter() if node.tag.endswith("text")]
    assert any(word.startswith("Simulated") for word in words)
    assert sum(node.tag.endswith("path") for node in root.iter()) == 3


def test_people_bring_back_a_host_that_healed_in_quarantine() -> None:
    events = Events(START)
    fleet = Fleet.of(events, ALONE, 1, 8, 30.0)
    policy = Ladder(fleet)
    host: Host = fleet.hosts["h0001"]
    fleet.put(host, away=True)
    policy._ended(host, Attempt(1, host.name, "g", "me", (), (), "reboot", "", 0.0, 1.0, "quarantined"))
    assert fleet.count.quarantined_wrong == 1
    events.run(fleet.end)
    assert host.serves
