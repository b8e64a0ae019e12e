"""What holds for any figures."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metalserve.economics.allocation import unit_cost
from metalserve.economics.breakeven import at_utilisation, break_evens, highest
from metalserve.economics.load import Scaling, clipped, level_for, mean, most, node_hours, nodes_on
from metalserve.economics.options import OPTIONS, PARTS, Case, Option, monthly, tokens
from metalserve.economics.sensitivity import tornado
from tests.economics.cases import case

shares = st.floats(0, 1, allow_subnormal=False).map(lambda x: 0.0 if x < 1e-3 else x)
# A day of six stretches of four hours: as varied as any for what is computed, and quick to make.
profiles = st.lists(shares, min_size=6, max_size=6).filter(any).map(lambda six: tuple(s for s in six for _ in range(4)))
money = st.floats(0.01, 1e5)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    return case(
        hours=draw(profiles),
        nodes=draw(st.integers(1, 20)),
        gpus=draw(st.sampled_from((1, 2, 4, 8))),
        throughput__output_tok_s=draw(st.floats(1, 1e5)),
        throughput__input_per_output=draw(st.floats(0.01, 50)),
        throughput__cached_share=draw(st.floats(0, 1)),
        allocation__prefill_share=draw(st.floats(0, 1)),
        allocation__cached_ratio=draw(st.floats(0.01, 1)),
        redundancy__spare_nodes=float(draw(st.integers(0, 3))),
        scaling__fill=draw(st.floats(0.3, 1)),
        scaling__min_nodes=float(draw(st.integers(0, 2))),
        scaling__boot_minutes=draw(st.floats(0, 60)),
        spot__preemption_loss=draw(st.floats(0, 0.9)),
        on_premises__interest=draw(st.floats(0, 0.3)),
        price__bare_metal=draw(money),
        price__server=draw(money),
        price__on_demand=draw(st.floats(0.01, 20)),
        price__reserved=draw(st.floats(0.01, 20)),
        price__spot=draw(st.floats(0.01, 20)),
    )


@given(profiles, st.floats(0.001, 1))
def test_a_profile_is_brought_to_a_mean(hours: tuple[float, ...], wanted: float) -> None:
    reached = clipped(hours, level_for(hours, wanted))
    assert max(reached) <= 1
    assert mean(reached) == pytest.approx(min(wanted, most(hours)), rel=1e-6)


@given(profiles, st.integers(1, 30), st.floats(0.3, 1), st.integers(0, 3))
def test_nodes_that_are_on_carry_the_load_and_never_exceed_the_fleet(
    hours: tuple[float, ...], nodes: int, fill: float, least: int
) -> None:
    scaling = Scaling(fill, least, 0.0)
    for load, on in zip(hours, nodes_on(hours, nodes, scaling), strict=True):
        assert min(least, nodes) <= on <= nodes
        assert load * nodes <= on + 1e-6
    assert node_hours(hours, nodes, scaling) <= nodes * 730 + 1e-6


@given(cases(), st.sampled_from(OPTIONS))
@settings(max_examples=30, deadline=None)
def test_parts_add_up_and_unit_prices_give_the_total_again(there: Case, option: Option) -> None:
    parts = monthly(there, option)
    cost, served = unit_cost(there, option), tokens(there)
    assert cost is not None
    assert set(parts) <= set(PARTS)
    assert all(value >= 0 for value in parts.values())
    assert cost.total == pytest.approx(sum(parts.values()))
    assert cost.per_output * served.output == pytest.approx(cost.total)
    assert cost.input is not None
    assert cost.cached is not None
    assert cost.output is not None
    again = cost.input * served.input + cost.cached * served.cached + cost.output * served.output
    assert again == pytest.approx(cost.total, rel=1e-6)
    if option != "api":
        assert cost.cached <= cost.input + 1e-12


@given(
    cases(), st.sampled_from(("bare-metal", "reserved", "on-premises", "api")), st.floats(0.02, 1), st.floats(0.02, 1)
)
@settings(max_examples=30, deadline=None)
def test_more_load_never_raises_the_cost_of_a_token(there: Case, option: Option, a: float, b: float) -> None:
    low, high = sorted((a, b))
    less, more = (unit_cost(at_utilisation(there, x * highest(there)), option) for x in (low, high))
    assert less is not None
    assert more is not None
    assert more.per_output <= less.per_output * (1 + 1e-9)


@given(cases(), st.sampled_from(("on-demand", "spot")), st.floats(0.02, 1), st.floats(0.02, 1))
@settings(max_examples=30, deadline=None)
def test_where_nodes_come_whole_it_only_rises_with_a_node_more(there: Case, option: Option, a: float, b: float) -> None:
    low, high = (at_utilisation(there, x * highest(there)) for x in sorted((a, b)))
    less, more = unit_cost(low, option), unit_cost(high, option)
    assert less is not None
    assert more is not None
    paid = [node_hours(c.loads, c.nodes, c.scaling) for c in (low, high)]
    assert more.total >= less.total * (1 - 1e-9)
    if paid[1] <= paid[0] * (1 + 1e-12):
        assert more.per_output <= less.per_output * (1 + 1e-9)


@given(cases())
@settings(max_examples=8, deadline=None)
def test_break_even_is_where_the_curves_cross(there: Case) -> None:
    for found in break_evens(there, ["bare-metal", "on-demand", "on-premises", "reserved"]):
        cheaper = found.below
        for crossing in found.crossings:
            assert crossing.cheaper in (found.first, found.second)
            assert crossing.cheaper != cheaper
            step = 2e-6
            before, after = (
                [sum(monthly(at_utilisation(there, x), option).values()) for option in (found.first, found.second)]
                for x in (crossing.at - step, crossing.at + step)
            )
            assert (before[0] - before[1]) * (after[0] - after[1]) <= 1e-6 * max(before) ** 2
            cheaper = crossing.cheaper


@given(cases())
@settings(max_examples=12, deadline=None)
def test_the_tornado_is_sorted_and_symmetric_for_what_is_linear(there: Case) -> None:
    base = unit_cost(there, "bare-metal")
    assert base is not None
    swings = tornado(there, "bare-metal", 0.2)
    widths = [swing.width for swing in swings]
    assert widths == sorted(widths, reverse=True)
    for name in ("price.bare_metal", "engineering.rate", "engineering.bare_metal", "bare_metal.setup"):
        swing = next((s for s in swings if s.name == name), None)
        if swing is not None:
            assert swing.more - base.per_output == pytest.approx(base.per_output - swing.less, rel=1e-6, abs=1e-12)
    assert not {"price.on_demand", "power.kwh", "price.server"} & {s.name for s in swings}


@given(cases(), st.floats(0.1, 50))
@settings(max_examples=12, deadline=None)
def test_all_money_times_a_rate_is_the_cost_times_it(there: Case, rate: float) -> None:
    moved = [row.at(row.value * rate) for row in there.assumptions.rows if row.unit.startswith("USD")]
    dearer = Case(there.assumptions.having(*moved), there.hours, there.nodes, there.gpus, "EUR")
    for option in OPTIONS:
        before, after = unit_cost(there, option), unit_cost(dearer, option)
        assert before is not None
        assert after is not None
        assert after.total == pytest.approx(before.total * rate, rel=1e-9)
