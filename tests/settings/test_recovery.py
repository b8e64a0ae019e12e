"""Settings of recovery: what is refused, and that the fleet's limits are one value for all hosts."""

from __future__ import annotations

from typing import Any

import pytest

from metalserve.settings import HostSettings, SettingsError
from metalserve.settings.recovery import RecoveryFleetSettings, fleet_rules

from .samples import host_data, problems


def fleet(*given: dict[str, Any]) -> dict[str, HostSettings]:
    return {
        f"gpu-{number:02}": HostSettings.from_data(host_data(**data), host="h", source="prod.py")
        for number, data in enumerate(given, 1)
    }


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ({"recovery": {"rack": "r\n1"}}, "recovery.rack: must be letters, digits, spaces and _ . : / - (at most 100)"),
        ({"recovery": {"same_part": 0}}, "recovery.same_part: must be at least 1"),
        ({"recovery": {"verify": "full"}}, "recovery.verify: must be one of 'quick', 'standard' or 'deep'"),
        ({"recovery_fleet": {"percent": 0}}, "recovery_fleet.percent: must be at least 1"),
        ({"recovery_fleet": {"floor": {"m": -1}}}, "recovery_fleet.floor: must be numbers of replicas, at least 0"),
        ({"recovery_fleet": {"breaker_percent": 101}}, "recovery_fleet.breaker_percent: must be at most 100"),
    ],
)
def test_what_is_wrong_is_named(data: dict[str, Any], line: str) -> None:
    assert problems(host_data(**data)) == (line,)


@pytest.mark.parametrize("key", ["depths", "deadlines_s"])
def test_rungs_are_the_catalogue_s(key: str) -> None:
    value: Any = "deep" if key == "depths" else 60
    assert problems(host_data(recovery={key: {"reboot": value}})) == ()
    (line,) = problems(host_data(recovery={key: {"rebot": value}}))
    assert line.startswith(f"recovery.{key}: may name these rungs: restart-engine, ")


def test_limits_that_all_hosts_share() -> None:
    assert fleet_rules(fleet({}, {}), "prod.py") == RecoveryFleetSettings()
    own = {"recovery_fleet": {"at_once": 2}}
    assert fleet_rules(fleet(own, own), "prod.py").at_once == 2
    assert fleet_rules({}, "prod.py") == RecoveryFleetSettings()


def test_hosts_that_disagree_are_named() -> None:
    odd = {"recovery_fleet": {"at_once": 2, "floor": {"m": 1}}}
    with pytest.raises(SettingsError) as caught:
        fleet_rules(fleet({}, {}, {}, {}, odd), "prod.py")
    assert caught.value.problems == (
        "prod.py: recovery_fleet.at_once: hosts disagree: 2 on gpu-05; 5 on gpu-01, gpu-02, gpu-03 and 1 more"
        " -> give it once, in group_data/all.py",
        "prod.py: recovery_fleet.floor: hosts disagree: {'m': 1} on gpu-05; {} on gpu-01, gpu-02, gpu-03 and 1 more"
        " -> give it once, in group_data/all.py",
    )
