"""Every price has a day and a source, and belongs to something that exists."""

from __future__ import annotations

import copy
from datetime import UTC, date, datetime
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from metalserve.catalogue.loader import load_gpus, load_prices
from metalserve.catalogue.prices import HardwarePrice, Prices, ProfileRow
from metalserve.paths import CATALOGUE
from metalserve.planning.known import known_models


def test_every_figure_has_a_source_and_a_day() -> None:
    prices = load_prices()
    for row in (*prices.hardware, *prices.api, *prices.assumptions, *prices.profiles):
        assert len(row.source.strip()) > 5, row
        assert date(2024, 1, 1) < row.date <= datetime.now(UTC).date(), row
        assert row.basis in ("listed", "published", "documented", "guessed")


def test_sources_are_used_and_spelled_out() -> None:
    prices = load_prices()
    used = {row.source for row in (*prices.hardware, *prices.api)}
    assert used == set(prices.sources.values())


def test_prices_are_of_gpus_and_models_that_the_catalogue_knows() -> None:
    prices = load_prices()
    assert {gpu for row in prices.hardware for gpu in row.gpu} <= set(load_gpus().ids)
    assert {row.model for row in prices.api} <= set(known_models())


def test_a_hosts_price_is_only_taken_for_hosts_of_its_size() -> None:
    prices = load_prices()
    assert prices.of("h100-sxm", "bare-metal", 8)[0].gpus == 8
    assert prices.of("h100-sxm", "bare-metal", 4) == []
    assert prices.of("h100-sxm", "on-demand", 4) == prices.of("h100-sxm", "on-demand", 8) != []
    assert prices.of("l4", "spot", 1) == []


def test_what_is_lower_in_commitment_is_dearer() -> None:
    # Not a law, but where it fails a row is most likely mistyped.
    prices = load_prices()
    for gpu in ("h100-sxm", "h200-sxm", "b200", "a100-sxm-80"):
        on_demand, reserved, spot = (prices.of(gpu, way, 8)[0].price for way in ("on-demand", "reserved", "spot"))
        assert reserved < on_demand
        assert spot < on_demand
        assert prices.of(gpu, "bare-metal", 8)[0].price / 730 / 8 < on_demand


def test_profiles_are_shares_of_a_day_or_a_week() -> None:
    for row in load_prices().profiles:
        assert len(row.hours) in (24, 168)
        assert 0 < max(row.hours) <= 1
    office = next(p for p in load_prices().profiles if p.name == "office")
    assert max(office.hours[5 * 24 :]) < 0.1 < max(office.hours[: 5 * 24])


@pytest.mark.parametrize(
    ("place", "key", "value"),
    [
        ("hardware", "source", ""),
        ("hardware", "date", None),
        ("hardware", "price", 0),
        ("assumptions", "source", ""),
        ("assumptions", "value", -1e9),
        ("api", "output", 0),
    ],
)
def test_a_damaged_row_is_refused(place: str, key: str, value: Any) -> None:
    data = yaml.safe_load((CATALOGUE / "prices.yaml").read_text())
    broken = copy.deepcopy(data)
    row = next(r for r in broken[place] if place != "assumptions" or r.get("least") is not None)
    row[key] = value
    Prices.model_validate(data)
    with pytest.raises(ValidationError):
        Prices.model_validate(broken)


def test_a_hosts_price_names_its_size_and_a_gpus_does_not() -> None:
    row = {"gpu": ["l4"], "price": 1.0, "basis": "listed", "date": "2026-01-01", "source": "somebody"}
    for way, gpus in (("spot", 8), ("bare-metal", None)):
        with pytest.raises(ValidationError):
            HardwarePrice.model_validate({**row, "way": way, "gpus": gpus})


def test_a_profile_of_another_length_is_refused() -> None:
    row = {"name": "x", "label": "x", "basis": "guessed", "date": "2026-01-01", "source": "somebody"}
    for hours in ([0.5] * 23, [0.0] * 24, [1.1] * 24):
        with pytest.raises(ValidationError):
            ProfileRow.model_validate({**row, "hours": hours})
