"""cost.yaml: what a user knows better than the catalogue. Strict; every problem at once, one a line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator

from metalserve.catalogue.loader import load_prices
from metalserve.economics.options import OPTIONS, Option
from metalserve.settings import SettingsError
from metalserve.settings.common import Section, problem
from metalserve.settings.reading import problems_of

Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$")]


class GivenFigure(Section):
    """A figure of the user's with where it is from."""

    value: float
    source: str = Field(min_length=1)


class CostConfig(Section):
    """The file cost.yaml.

    Attributes:
        gpu: the hosts, `8xH100-SXM`.
        model: the model that they serve, a catalogue name or a config.json.
        bench: file of `metalserve bench`; before a plan.
        plan: file of `metalserve plan --json`.
        nodes: nodes that serve; redundancy comes on top.
        utilisation: a built-in profile's name, or 24 or 168 shares of the capacity.
        currency: of all figures in this file and of the result.
        exchange: units of `currency` for one US dollar, the catalogue's money; needed for another currency.
        options: which to compare; all when empty.
        sensitivity_percent: how far each figure is moved.
        assumptions: figures by name, as `metalserve cost --list-prices` lists them.
    """

    gpu: str | None = None
    model: str | None = None
    bench: str | None = None
    plan: str | None = None
    nodes: int = Field(1, ge=1, le=10_000)
    utilisation: str | list[float] = "consumer"
    currency: Currency = "USD"
    exchange: float | None = Field(None, gt=0)
    options: list[Option] = Field(default_factory=list)
    sensitivity_percent: float = Field(20, gt=0, le=90)
    assumptions: dict[str, float | GivenFigure] = Field(default_factory=dict)

    @field_validator("utilisation")
    @classmethod
    def _a_profile(cls, value: str | list[float]) -> str | list[float]:
        if isinstance(value, str):
            if value not in load_prices().profile_names:
                raise problem(f"is none of {', '.join(load_prices().profile_names)}, and no list")
            return value
        if len(value) not in (24, 168):
            raise problem(f"has {len(value)} values; a day has 24 and a week 168")
        if not all(0 <= share <= 1 for share in value):
            raise problem("has a value outside 0 to 1: shares of the capacity, which load cannot exceed")
        if not any(value):
            raise problem("has no load at all, so there is nothing to divide the cost by")
        return value

    def hours(self) -> tuple[str, tuple[float, ...]]:
        """Return the profile: what it is called, and its shares."""
        if isinstance(self.utilisation, str):
            row = next(p for p in load_prices().profiles if p.name == self.utilisation)
            return f"{row.name}: {row.label} ({row.basis})", row.hours
        return f"given, {len(self.utilisation)} hours", tuple(self.utilisation)

    def chosen(self) -> tuple[Option, ...]:
        """Return the options to compare, in their usual order."""
        return tuple(option for option in OPTIONS if not self.options or option in self.options)


def read_config(data: Any, *, source: str) -> CostConfig:
    """Return the configuration that a YAML file holds.

    Args:
        data: as parsed; None for an empty file.
        source: the file, for messages.

    Raises:
        SettingsError: every problem, one a line: `source: key: what`.
    """
    if data is None:
        data = {}
    if not isinstance(data, Mapping):
        raise SettingsError([f"{source}: is not a mapping of settings"])
    try:
        config = CostConfig.model_validate(dict(data))
    except ValidationError as error:
        raise SettingsError(f"{source}: {key}: {what}" for key, what in _plain(error)) from None
    if config.currency != "USD" and config.exchange is None:
        raise SettingsError([f"{source}: exchange: is needed: how many {config.currency} one US dollar is"])
    if config.currency == "USD" and config.exchange not in (None, 1):
        raise SettingsError([f"{source}: exchange: is for another currency than US dollars"])
    return config


def _plain(error: ValidationError) -> list[tuple[str, str]]:
    # A union tells a problem once for each of its types, under a name of pydantic's own: the type's is cut off.
    found: list[tuple[str, str]] = []
    for key, what in problems_of(error.errors(), CostConfig):
        parts = [part for part in key.split(".") if part not in ("float", "str", "GivenFigure", "list[float]")]
        if not any(known == ".".join(parts) for known, _ in found):
            found.append((".".join(parts), what))
    return found
