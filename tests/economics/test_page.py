"""The page of any case: every drawing is whole, no number is none."""

from __future__ import annotations

import re
from datetime import date
from xml.etree import ElementTree

import pytest
from hypothesis import Phase, given, settings

from metalserve.economics.build import Built
from metalserve.economics.comparison import Comparison, compare
from metalserve.economics.options import OPTIONS, Case
from metalserve.economics.page import html_page
from metalserve.economics.svg import apart, log_ticks, ticks
from metalserve.economics.throughput import Throughput
from metalserve.economics.verdict import break_even_words, verdict
from tests.economics.cases import case
from tests.economics.test_properties import cases


def result(there: Case, low: float = 0.8) -> Comparison:
    rate = there.assumptions["throughput.output_tok_s"]
    through = Throughput(rate, low * rate, rate / low, 3.0, "planned", "test")
    return compare(Built(there, through, "test", (), "somebody"), OPTIONS, share=0.2, today=date(2026, 11, 25))


def drawings(page: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]


def numbers(page: str) -> list[float]:
    words = re.findall(
        r' (?:x|y|x1|x2|y1|y2|cx|cy|width|height)="([^"]+)"', "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))
    )
    return [float(word) for word in words]


@given(cases())
@settings(max_examples=3, deadline=None, phases=(Phase.explicit, Phase.generate))
def test_every_drawing_is_whole_and_within_its_frame(there: Case) -> None:
    page = html_page(result(there))
    assert len(drawings(page)) == 3 + len(OPTIONS)
    assert all(-50 <= number <= 1100 for number in numbers(page))


@pytest.mark.parametrize(
    "figures",
    [
        {"price__api_input": 0.0, "price__api_output": 0.0, "engineering__api": 0.0},
        {"price__spot": 0.0, "engineering__rate": 0.0},
        {"on_premises__interest": 0.0, "throughput__cached_share": 0.0},
        {"throughput__input_per_output": 0.0, "allocation__prefill_share": 0.0},
    ],
)
def test_what_costs_nothing_is_drawn_too(figures: dict[str, float]) -> None:
    found = result(case(**figures))
    assert all(-50 <= number <= 1100 for number in numbers(html_page(found)))
    assert verdict(found)


def test_options_without_prices_are_told_on_the_page() -> None:
    without = ("price.bare_metal", "price.server", "price.api_output")
    page = html_page(result(case(without=without)))
    assert "not computed: nothing says price.bare_metal" in page
    nothing = html_page(result(case(without=(*without, "price.on_demand", "price.reserved", "price.spot"))))
    assert "Nothing can be compared" in nothing


def test_one_figure_that_would_turn_it_is_named() -> None:
    # Spot 25,590; rental 32,300: at the price of 7,700 rental costs 25,400.
    found = result(case(price__bare_metal=7_900.0))
    assert found.ranked[0].option == "api"
    assert found.own[0].option == "spot"
    assert any("price.bare_metal -20% (bare-metal rental)" in words for words in verdict(found))


def test_the_range_of_the_rate_decides_against_an_api_or_not() -> None:
    dear = result(case(price__api_output=9.0, price__api_input=0.0, price__api_cached=0.0))
    assert any("it is open whether the API is cheaper" in words for words in verdict(dear))
    cheap = result(case())
    assert any("the API stays cheaper" in words for words in verdict(cheap))
    never = result(case(price__api_output=90.0))
    assert any("stays cheaper than the API" in words for words in verdict(never))


def test_break_even_is_put_into_words() -> None:
    words = [break_even_words(found) for found in result(case(nodes=10)).break_evens]
    assert any("no break-even" in w for w in words)
    assert any(re.search(r"from \d+\.\d% on", w) for w in words)


def test_axes_have_round_values() -> None:
    assert ticks(1.0, 10) == pytest.approx([i / 10 for i in range(11)])
    assert ticks(84_995, 5) == [0, 20_000, 40_000, 60_000, 80_000]
    assert log_ticks(-0.5, 1.2) == pytest.approx([0.5, 1, 2, 5, 10])
    assert apart([10.0, 12.0, 40.0, 11.0], 5) == [10.0, 20.0, 40.0, 15.0]
