"""Types of what things cost: hardware, tokens, assumptions, hourly profiles. Each says its source and its day."""

from __future__ import annotations

import datetime
from functools import cached_property
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Way = Literal["bare-metal", "on-demand", "reserved", "spot", "server"]
PriceBasis = Literal["listed", "published", "documented", "guessed"]

CURRENCY = "USD"
"""What every price of the catalogue is in."""

PRICE_UNITS: dict[Way, str] = {
    "bare-metal": f"{CURRENCY}/node-month",
    "on-demand": f"{CURRENCY}/GPU-h",
    "reserved": f"{CURRENCY}/GPU-h",
    "spot": f"{CURRENCY}/GPU-h",
    "server": f"{CURRENCY}/node",
}
"""Unit of a price of hardware; a node is the whole host."""


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    date: datetime.date = Field(description="when it was read or published")
    source: str = Field(min_length=3)


class HardwarePrice(_Row):
    """What a GPU, or a host of them, costs in one way of having it."""

    gpu: tuple[str, ...] = Field(description="catalogue ids of GPUs")
    way: Way
    gpus: int | None = Field(None, description="GPUs of the host, where the price is a host's")
    price: float = Field(gt=0, description="in PRICE_UNITS")
    basis: PriceBasis
    note: str = ""

    @model_validator(mode="after")
    def _a_host_has_a_size(self) -> HardwarePrice:
        if (self.gpus is not None) != (self.way in ("bare-metal", "server")):
            raise ValueError("a host's price names its GPUs, a GPU's price does not")
        return self


class ApiPrice(_Row):
    """What a model's tokens cost where others serve it, US dollars a million; `cached` None: as input."""

    model: str
    provider: str
    input: float = Field(ge=0)
    output: float = Field(gt=0)
    cached: float | None = Field(None, ge=0)
    basis: PriceBasis = "listed"


class AssumptionRow(_Row):
    """A figure of the calculation that users may replace by their own."""

    name: str
    label: str
    value: float
    unit: str
    least: float | None = None
    most: float | None = None
    basis: PriceBasis

    @model_validator(mode="after")
    def _within(self) -> AssumptionRow:
        if (self.least is not None and self.value < self.least) or (self.most is not None and self.value > self.most):
            raise ValueError(f"{self.name} lies outside its own limits")
        return self


class ProfileRow(_Row):
    """Load hour by hour, shares of the capacity: 24 values of a day, or 168 of a week from Monday on."""

    name: str
    label: str
    hours: tuple[float, ...]
    basis: PriceBasis

    @model_validator(mode="before")
    @classmethod
    def _spelled_out(cls, data: Any) -> Any:
        # A week is written as its weekday and its weekend, the same load at all hours as one value.
        if isinstance(data, dict) and "weekday" in data:
            row = dict(data)
            days = row.pop("weekday"), row.pop("weekend")
            return {**row, "hours": [*days[0] * 5, *days[1] * 2]}
        if isinstance(data, dict) and len(data.get("hours", ())) == 1:
            return {**data, "hours": list(data["hours"]) * 24}
        return data

    @model_validator(mode="after")
    def _whole(self) -> ProfileRow:
        if len(self.hours) not in (24, 168) or not all(0 <= share <= 1 for share in self.hours) or not any(self.hours):
            raise ValueError("a profile has 24 or 168 shares between 0 and 1, not all of them 0")
        return self


class Prices(BaseModel):
    """The file prices.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    sources: dict[str, str]
    hardware: tuple[HardwarePrice, ...]
    api: tuple[ApiPrice, ...]
    assumptions: tuple[AssumptionRow, ...]
    profiles: tuple[ProfileRow, ...]

    def of(self, gpu: str, way: Way, gpus: int) -> list[HardwarePrice]:
        """Return the prices of a GPU in one way; those of hosts only where they have `gpus` GPUs."""
        return [p for p in self.hardware if gpu in p.gpu and p.way == way and p.gpus in (None, gpus)]

    def api_of(self, model: str) -> list[ApiPrice]:
        """Return what others ask for a model's tokens, by its repository id or the end of it."""
        wanted = model.lower().rpartition("/")[2]
        return [p for p in self.api if p.model.lower().rpartition("/")[2] == wanted]

    @cached_property
    def profile_names(self) -> tuple[str, ...]:
        """The built-in profiles."""
        return tuple(p.name for p in self.profiles)
