"""cost.yaml: strict, every problem at once, one a line."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
import yaml

from metalserve.catalogue.loader import load_gpus, load_prices
from metalserve.economics.assumptions import given
from metalserve.economics.build import Built, build, known_figures
from metalserve.economics.config import CostConfig, read_config
from metalserve.economics.options import OPTIONS, PRICES
from metalserve.errors import MetalserveError
from metalserve.paths import FILES
from metalserve.settings import SettingsError

RATE = {"throughput.output_tok_s": 1000.0, "throughput.input_per_output": 2.0}


def problems(data: Any) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        read_config(data, source="cost.yaml")
    return str(caught.value).splitlines()


def built(config: CostConfig, gpu: str = "h100-sxm", gpus: int = 8, **flags: float) -> Built:
    return build(
        config, spec=load_gpus().by_id(gpu), gpus=gpus, throughput=None, flags={**RATE, **flags}, source="cost.yaml"
    )


def test_the_example_is_read() -> None:
    config = read_config(yaml.safe_load((FILES / "cost" / "example.yaml").read_text()), source="example")
    assert config.nodes == 4
    case = built(config).case
    assert case.assumptions["price.bare_metal"] == 14500
    assert case.assumptions.row("price.bare_metal").source == "offer of 2026-11-20"
    assert case.assumptions.row("power.kwh").source == "cost.yaml"


def test_every_problem_is_told_at_once() -> None:
    found = problems(
        {"nods": 3, "nodes": 0, "utilisation": [0.5] * 25, "currency": "euro", "assumptions": {"pue": "x"}}
    )
    assert len(found) == 5
    assert all(line.startswith("cost.yaml: ") for line in found)
    assert any("nods" in line and "nodes" in line for line in found)
    assert any("utilisation" in line and "25 values" in line for line in found)


@pytest.mark.parametrize(
    ("hours", "word"),
    [
        ([0.5] * 23 + [1.2], "outside 0 to 1"),
        ([0] * 24, "no load"),
        ("weekdays", "none of flat"),
        ([0.5] * 3, "3 values"),
    ],
)
def test_a_profile_keeps_to_the_capacity(hours: Any, word: str) -> None:
    (line,) = problems({"utilisation": hours})
    assert word in line


def test_figures_that_do_not_exist_are_all_told_with_the_nearest() -> None:
    config = read_config({"assumptions": {"power.khw": 0.2, "pue": 9, "spot": 1.0, "power.pue": 0.5}}, source="c.yaml")
    with pytest.raises(SettingsError) as caught:
        built(config)
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert "power.kwh" in lines[0]
    assert "power.pue cannot be 0.5" in lines[2]


def test_every_figure_can_be_given_and_says_so() -> None:
    known = known_figures()
    assert {name for names in PRICES.values() for name in names} <= set(known)
    assert {row.name for row in load_prices().assumptions} <= set(known)
    for name, row in known.items():
        value = row.most if row.most is not None else (row.least or 0) + 7
        found = given(known, name.replace("_", "-"), value, "me")
        assert (found.name, found.value, found.basis, found.source, found.date) == (name, value, "given", "me", None)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_a_figure_that_makes_no_sense_is_refused(value: float) -> None:
    with pytest.raises(MetalserveError, match="cannot be"):
        given(known_figures(), "power.kwh", value, "me")


def test_another_currency_needs_a_rate_and_turns_money_only() -> None:
    assert problems({"currency": "EUR"}) == ["cost.yaml: exchange: is needed: how many EUR one US dollar is"]
    assert "another currency" in problems({"exchange": 0.9})[0]
    config = read_config({"currency": "EUR", "exchange": 0.5, "assumptions": {"power.kwh": 0.3}}, source="c.yaml")
    rows = built(config).case.assumptions
    listed = load_prices().of("h100-sxm", "on-demand", 8)[0].price
    assert rows["price.on_demand"] == listed / 2
    assert rows.row("price.on_demand").unit == "EUR/GPU-h"
    assert f"({listed:g} USD/GPU-h at 0.5 EUR/USD)" in rows.row("price.on_demand").source
    # The user's own figure is in the user's currency already.
    assert rows["power.kwh"] == 0.3
    assert rows.row("power.kwh").unit == "EUR/kWh"
    assert rows["power.pue"] == next(a.value for a in load_prices().assumptions if a.name == "power.pue")


def test_flags_go_before_the_file() -> None:
    config = read_config({"assumptions": {"price.spot": 1.0}}, source="c.yaml")
    assert built(config).case.assumptions["price.spot"] == 1.0
    assert built(config, spot=0.5).case.assumptions["price.spot"] == 0.5


def test_a_price_that_nobody_has_is_missing_and_not_guessed() -> None:
    case = built(CostConfig(), gpu="l4", gpus=1).case
    assert case.missing("bare-metal") == ("price.bare_metal",)
    assert case.missing("on-premises") == ("price.server",)
    assert set(case.missing("api")) == {"price.api_input", "price.api_output"}
    assert not set(OPTIONS) - {"bare-metal", "on-demand", "reserved", "spot", "on-premises", "api"}


def test_without_a_rate_it_is_told_what_to_do() -> None:
    with pytest.raises(MetalserveError, match="--bench FILE"):
        build(CostConfig(), spec=load_gpus().by_id("l4"), gpus=1, throughput=None, flags={}, source="x")


def test_no_load_is_refused() -> None:
    with pytest.raises(MetalserveError, match="no load"):
        built(CostConfig(), **{"utilisation.level": 0.0})


def test_old_prices_are_old_after_90_days_and_only_prices() -> None:
    rows = built(read_config({"model": "Llama-3.3-70B-Instruct"}, source="x")).case.assumptions
    listed = rows.row("price.on_demand")
    assert listed.date is not None
    assert not listed.old(listed.date + datetime.timedelta(days=90))
    assert listed.old(listed.date + datetime.timedelta(days=91))
    assert not rows.row("power.pue").old(datetime.date(2030, 1, 1))
    assert not rows.row("bare_metal.setup").old(datetime.date(2030, 1, 1)), "a guess does not get old"
