"""Settings of recovery: what may be done to a host, and how much of the fleet at once.

Numbers that peers have are theirs: NVSentinel (breaker: 50 % in 5 minutes; five remediations in seven days are given
up), gpud (gives up after the same Xid came back through two reboots), medik8s NodeHealthCheck (a node counts after 300
seconds; 51 % of the nodes stay healthy). The others are our own choice and say so. How often hosts fail by chance: the
report on the training of Llama 3 counts 466 interruptions in 54 days on 2,048 hosts, that is 8.6 a day.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from metalserve.settings.common import AbsolutePath, Positive, Section, problem
from metalserve.settings.errors import SettingsError

if TYPE_CHECKING:
    from metalserve.settings.host import HostSettings

Depth = Literal["quick", "standard", "deep"]


class RecoverySettings(Section):
    """Where a host stands, and what its recovery may do."""

    rack: str | None = Field(None, description="rack; hosts that fail together are compared by it")
    switch: str | None = Field(None, description="network switch the host hangs on; compared like the rack")
    automatic: bool = Field(
        True, description="`recover --unhealthy` takes this host; False: only when somebody names it"
    )
    template: str | None = Field(
        None, description="OS template that re-imaging writes; None: this host is never re-imaged"
    )
    disk_serial: str | None = Field(
        None, description="serial number of the system's drive, the only one that re-imaging writes"
    )
    build: str = Field(
        "stable", description="build of the template that re-imaging writes: `stable`, `candidate` or its name"
    )
    template_keys: list[AbsolutePath] = Field(
        default_factory=list,
        description="public keys, one of which must have signed the build; none: those of files/templates/keys",
    )
    boot_server: str | None = Field(
        None,
        description="URL of the `metalserve template serve` that the host boots from, as the controller reaches it; it "
        "must serve this controller's own shelf and orders; None: this host is never re-imaged",
    )
    boot_device: Literal["auto", "pxe", "uefi-http", "cd"] = Field(
        "auto", description="what its BMC boots for re-imaging; auto: the first of these that the BMC offers"
    )
    unhealthy_s: int = Field(
        0, ge=0, description="seconds of being seen unhealthy before it is taken; evidence counts at once"
    )
    unreachable_s: int = Field(300, ge=0, description="seconds without any evidence before it is taken (medik8s: 300)")
    same_part: int = Field(
        3,
        ge=1,
        description="attempt of this number that blames the same serial number is a quarantine (gpud: 2 reboots)",
    )
    same_host: int = Field(
        5, ge=1, description="the same for parts without serial number, by host (NVSentinel: 5 in 7 days)"
    )
    window_h: Positive = Field(168, description="hours that attempts count for that (NVSentinel: 7 days)")
    drain_s: int = Field(300, ge=0, description="seconds that requests in flight are waited for")
    verify: Depth = Field(
        "quick", description="least depth of the verify that accepts the host; a rung of the ladder may ask for more"
    )
    depths: dict[str, Depth] = Field(
        default_factory=dict, description="rung -> depth of its verify, where it is not the catalogue's (ladder.yaml)"
    )
    deadlines_s: dict[str, Positive] = Field(
        default_factory=dict, description="rung -> seconds, where they are not the catalogue's (ladder.yaml)"
    )

    only: str | None = Field(
        None, description="deploys/recover.py makes this rung and no other; short form: --data recover_rung=RUNG"
    )

    @field_validator("only")
    @classmethod
    def _rung(cls, value: str | None) -> str | None:
        from metalserve.catalogue.causes import load_causes

        known = [rung.name for rung in load_causes().rungs if rung.name not in ("nothing", "quarantine")]
        if value is not None and value not in known:
            raise problem(f"must be one of: {', '.join(known)}")
        return value

    @field_validator("rack", "switch", "template", "disk_serial")
    @classmethod
    def _plain(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.:/ -]{0,99}", value):
            raise problem("must be letters, digits, spaces and _ . : / - (at most 100)")
        return value

    @field_validator("build")
    @classmethod
    def _build(cls, value: str) -> str:
        if not re.fullmatch(r"stable|candidate|[0-9]{8}T[0-9]{6}Z-[0-9a-f]{12}", value):
            raise problem("must be stable, candidate or the name of a build")
        return value

    @field_validator("boot_server")
    @classmethod
    def _url(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"https?://[A-Za-z0-9.:\[\]-]+/?", value):
            raise problem("must be a URL without a path, as in http://10.0.0.1:8088")
        return value.rstrip("/") if value else None

    @field_validator("depths", "deadlines_s")
    @classmethod
    def _rungs(cls, value: dict[str, object]) -> dict[str, object]:
        from metalserve.catalogue.causes import load_causes

        known = [rung.name for rung in load_causes().rungs if rung.name not in ("nothing", "quarantine")]
        if set(value) - set(known):
            raise problem(f"may name these rungs: {', '.join(known)}")
        return value


def with_recovery(data: Any) -> Any:
    """Return host data with `recover_rung` moved into `recovery.only`, where it wins."""
    if not isinstance(data, Mapping) or "recover_rung" not in data or not isinstance(data.get("recovery", {}), Mapping):
        return data
    rest = {key: value for key, value in data.items() if key != "recover_rung"}
    return {**rest, "recovery": {**data.get("recovery", {}), "only": data["recover_rung"]}}


class RecoveryFleetSettings(Section):
    """How much of the fleet may be in recovery: the same for all hosts, so it belongs into group_data/all.py."""

    percent: int = Field(10, ge=1, le=100, description="% of a group in recovery at once, at least one host (our own)")
    at_once: Positive = Field(5, description="hosts of the whole fleet in recovery at once (our own)")
    floor_percent: int = Field(
        50, ge=0, le=100,
        description="% of a model's replicas that go on serving (medik8s: 51; of two replicas that would be both)",
    )  # fmt: skip
    floor: dict[str, int] = Field(
        default_factory=dict, description="served model -> replicas that go on serving, instead of floor_percent"
    )
    pause_s: int = Field(0, ge=0, description="seconds after the end of a recovery before a group's next one begins")
    breaker_window_s: Positive = Field(
        300, description="seconds; hosts that turned unhealthy within them open the breaker (NVSentinel: 5 minutes)"
    )
    breaker_percent: int = Field(50, ge=1, le=100, description="% of the fleet that opens the breaker (NVSentinel: 50)")
    breaker_hosts: Positive = Field(
        10, description="hosts that open the breaker, however large the fleet (our own; 2,000 hosts lose about 8 a day)"
    )
    breaker_least: Positive = Field(
        3, description="fewer hosts never open the breaker (our own: of two hosts one is 50 %)"
    )
    breaker_slow_window_h: Positive = Field(
        24, description="hours; hosts that turned unhealthy within them open the breaker if they share what others lack"
    )
    breaker_slow_hosts: Positive = Field(
        5, description="hosts with the same release, driver, rack ... that open it so (our own)"
    )

    @field_validator("floor")
    @classmethod
    def _floor(cls, value: dict[str, int]) -> dict[str, int]:
        if any(number < 0 for number in value.values()):
            raise problem("must be numbers of replicas, at least 0")
        return value


def fleet_rules(settings: Mapping[str, HostSettings], source: str) -> RecoveryFleetSettings:
    """Return the fleet's rules, which all hosts must agree on.

    Args:
        settings: the settings of each host by name.
        source: the inventory file, for messages.

    Raises:
        SettingsError: hosts disagree; a line for each setting, with the hosts.
    """
    problems = []
    for name in RecoveryFleetSettings.model_fields:
        hosts: dict[str, list[str]] = {}
        for host, each in settings.items():
            hosts.setdefault(str(getattr(each.recovery_fleet, name)), []).append(host)
        if len(hosts) > 1:
            said = "; ".join(
                f"{value} on {_some(hosts[value])}" for value in sorted(hosts, key=lambda v: len(hosts[v]))
            )
            problems.append(
                f"{source}: recovery_fleet.{name}: hosts disagree: {said} -> give it once, in group_data/all.py"
            )
    if problems:
        raise SettingsError(problems)
    return next((each.recovery_fleet for each in settings.values()), RecoveryFleetSettings())


def _some(hosts: list[str]) -> str:
    return ", ".join(hosts[:3]) + (f" and {len(hosts) - 3} more" if len(hosts) > 3 else "")
