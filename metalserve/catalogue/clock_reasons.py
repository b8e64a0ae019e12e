"""Why a GPU's clocks are held down: the bits of `clocks_event_reasons.active` in names and words."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Literal

from pydantic import BaseModel, ConfigDict

from metalserve.yaml_text import read_yaml


class ClockReason(BaseModel):
    """One clocks-event reason; `bad` are those that are not normal under load (mask 0xE8)."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    bit: int
    name: str
    kind: Literal["idle", "normal", "set", "bad"]
    short: str
    words: str
    source: str


@cache
def load_clock_reasons() -> tuple[ClockReason, ...]:
    """Return all reasons, the worst first: what is bad, what somebody has set, what is normal."""
    text = resources.files("metalserve.catalogue").joinpath("clock_reasons.yaml").read_text(encoding="utf-8")
    data = read_yaml(text)
    rows = [ClockReason(**{**row, "source": data["sources"][row["source"]]}) for row in data["reasons"]]
    rank = {"bad": 0, "set": 1, "normal": 2, "idle": 3}
    # of two bad ones the higher bit says more: heat or brake, where hw_slowdown only says that the hardware did it
    return tuple(sorted(rows, key=lambda r: (rank[r.kind], -r.bit)))


def reasons_of(mask: int) -> tuple[ClockReason, ...]:
    """Return the reasons whose bits are in a mask, the worst first."""
    return tuple(reason for reason in load_clock_reasons() if mask & reason.bit)


@cache
def reason_named(name: str) -> ClockReason | None:
    """Return the reason that nvidia-smi calls `name`, or None."""
    return next((reason for reason in load_clock_reasons() if reason.name == name), None)
