"""The figures of `rates.yaml`, typed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, model_validator

from metalserve.catalogue.causes import load_causes

PERSON = ("part", "settings", "itself", "release")
"""What cures and is no rung."""


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Kind(_Row):
    """A kind of fault; `rate` per 1,000 node-days."""

    name: str
    causes: tuple[str, ...]
    cures: dict[str, float]
    source: str
    rate: float = 0.0
    of: str = ""
    share: float = 0.0
    answers: bool = True
    serves: bool = False
    powered: bool = True

    @model_validator(mode="after")
    def _whole(self) -> Kind:
        if abs(sum(self.cures.values()) - 1.0) > 1e-9:
            raise ValueError(f"{self.name}: its cures do not add up to 1")
        rungs = {rung.name for rung in load_causes().rungs}
        if set(self.cures) - rungs - set(PERSON):
            raise ValueError(f"{self.name}: no such cure")
        for cause in self.causes:
            load_causes().cause(cause)
        return self


class Table(_Row):
    """Counts of a training run."""

    days: float
    hosts: int
    counts: dict[str, int]
    left_out: dict[str, int]
    source: str


class Lemons(_Row):
    """Hosts with a GPU that fails again and again; `cures`: cause -> the rung that helps until the next time."""

    share: float
    days_between: float
    cures: dict[str, str]
    source: str


class Rollout(_Row):
    """A bad release."""

    day: float
    hosts: int
    minutes: float
    causes: tuple[str, ...]
    words: str
    source: str


class Switches(_Row):
    """Network switches that fail with all their hosts."""

    per_30_days: float
    hosts: int
    hours: float
    source: str


class Wrong(_Row):
    """How often what is seen is wrong."""

    verdict: float
    proof: float
    unknown_step: float
    unknown_verify: float
    no_return: float
    no_bmc: float


class People(_Row):
    """Those who are on duty."""

    at_once: int
    minutes_day: float
    minutes_night: float
    hands_on_minutes: float
    right: float
    pattern: int
    rollback_minutes: float
    look_at_quarantine_hours: float
    part_days: tuple[float, float]


class Rates(_Row):
    """All of it."""

    sources: dict[str, str]
    table: Table
    faults: tuple[Kind, ...]
    lemons: Lemons
    rollouts: tuple[Rollout, ...]
    switches: Switches
    wrong: Wrong
    seconds: dict[str, float]
    network_hours: float
    people: People
    naive_reboots: int

    @property
    def total(self) -> float:
        """Faults per 1,000 node-days, without lemons, rollouts and switches."""
        return sum(kind.rate for kind in self.faults)


def load_rates() -> Rates:
    """Return the figures, each kind with its rate per 1,000 node-days."""
    data: Any = yaml.safe_load(Path(__file__).with_name("rates.yaml").read_text())
    table = data["table"]
    node_days = table["days"] * table["hosts"] / 1000
    for row in data["faults"]:
        row["source"] = data["sources"][row["source"]]
        if "of" in row:
            row["rate"] = table["counts"][row["of"]] * row["share"] / node_days
    return Rates.model_validate(data)
