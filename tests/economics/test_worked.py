"""Worked examples: the arithmetic is written out, nothing of it is taken from the code."""

from __future__ import annotations

import pytest

from metalserve.economics.allocation import unit_cost
from metalserve.economics.breakeven import break_evens, rental_worth
from metalserve.economics.load import Scaling, node_hours, nodes_on
from metalserve.economics.options import annuity, kilowatts, monthly, tokens
from metalserve.economics.sensitivity import tornado
from tests.economics.cases import case

# Tokens of a month: 2 nodes x 1,000 tok/s x 0.5 load x 730 h x 3,600 s = 2,628,000,000 answers = 2,628 M.
ANSWERS = 2628.0


def test_tokens_of_a_month() -> None:
    served = tokens(case())
    assert served.output == pytest.approx(ANSWERS)
    # 3 prompt tokens an answer: 7,884 M, half of them cached.
    assert served.input == pytest.approx(3942)
    assert served.cached == pytest.approx(3942)


def test_availability_takes_tokens_and_no_cost() -> None:
    served = tokens(case(availability=0.9))
    assert served.output == pytest.approx(ANSWERS * 0.9)
    assert monthly(case(availability=0.9), "bare-metal") == monthly(case(), "bare-metal")


def test_bare_metal_rental() -> None:
    # A node: 10,000 + 1,200 / 12 = 10,100. Two serve: 20,200; one is spare: 10,100; 20 h x 100 = 2,000. Sum 32,300.
    assert monthly(case(), "bare-metal") == pytest.approx(
        {"hardware": 20_200, "redundancy": 10_100, "engineering": 2_000}
    )
    cost = unit_cost(case(), "bare-metal")
    assert cost is not None
    assert cost.total == pytest.approx(32_300)
    # 32,300 / 2,628 M
    assert cost.per_output == pytest.approx(12.29071, abs=1e-5)


def test_prompts_and_answers_bear_their_time() -> None:
    cost = unit_cost(case(), "bare-metal")
    assert cost is not None
    # Prompts take 0.4 of the time: 12,920. They weigh 3,942 + 0.1 x 3,942 = 4,336.2 M: 2.97957 a million.
    assert cost.input == pytest.approx(2.97957, abs=1e-5)
    assert cost.cached == pytest.approx(0.297957, abs=1e-6)
    # Answers: 0.6 x 32,300 / 2,628 = 7.37443.
    assert cost.output == pytest.approx(7.37443, abs=1e-5)


def test_on_demand_follows_the_load_in_whole_nodes() -> None:
    # 12 hours at 0.9 of two nodes need both, 12 hours at 0.2 (0.4 nodes) need one: 18 node-hours... of 24: mean 1.5.
    hours = (0.9,) * 12 + (0.2,) * 12
    scaling = Scaling(fill=1.0, min_nodes=1, boot_hours=0)
    assert nodes_on(hours, 2, scaling) == (2,) * 12 + (1,) * 12
    assert node_hours(hours, 2, scaling) == pytest.approx(730 * 1.5)
    parts = monthly(case(hours=hours), "on-demand")
    # 730 x 1.5 x 8 GPUs x 3 = 26,280; the spare stays: 730 x 24 = 17,520; extras 0.1 x 43,800; 10 h x 100.
    assert parts == pytest.approx({"hardware": 26_280, "redundancy": 17_520, "extras": 4_380, "engineering": 1_000})


def test_a_started_node_is_paid_before_it_serves() -> None:
    hours = (0.9,) * 12 + (0.2,) * 12
    # One start a day, 30 minutes: half a node-hour of 24 h more; 730 / 24 x (36 + 0.5).
    assert node_hours(hours, 2, Scaling(1.0, 1, 0.5)) == pytest.approx(730 / 24 * 36.5)


def test_reserved_is_paid_always() -> None:
    # Two nodes: 730 x 2 x 8 x 2 = 23,360; spare 11,680; extras 3,504; 1,000.
    assert monthly(case(), "reserved") == pytest.approx(
        {"hardware": 23_360, "redundancy": 11_680, "extras": 3_504, "engineering": 1_000}
    )


def test_spot_pays_what_is_taken_away_again() -> None:
    # Load 0.5 of two nodes is one node: 730 x 8 x 1.5 = 8,760; spare 8,760. A fifth of the paid hours is lost:
    # 17,520 / 0.8 = 21,900, so 4,380 more. Extras 0.1 x 21,900 = 2,190. (10 + 5) h x 100.
    assert monthly(case(), "spot") == pytest.approx(
        {"hardware": 8_760, "redundancy": 8_760, "preemption": 4_380, "extras": 2_190, "engineering": 1_500}
    )


def test_on_premises() -> None:
    parts = monthly(case(), "on-premises")
    # Capital 288,000 x 1.1 = 316,800; residual 63,360; written off 253,440 / 48 = 5,280 a node.
    assert parts["hardware"] == pytest.approx(10_560)
    assert parts["redundancy"] == pytest.approx(5_280)
    assert parts["financing"] == pytest.approx(0)
    # A node at full load: 8 x 1,000 W = 8 kW, idle 2 kW. Three nodes idle 6 kW, two at half load 2 x 6 x 0.5 = 6 kW.
    assert kilowatts(case()) == pytest.approx(12)
    # 12 kW x 1.5 x 730 h x 0.1
    assert parts["power"] == pytest.approx(1_314)
    assert parts["colocation"] == pytest.approx(3_000)
    # 3 x 288,000 x 0.06 / 12
    assert parts["support"] == pytest.approx(4_320)
    # (0.4 + 3 x 0.1) x 120,000 / 12
    assert parts["staff"] == pytest.approx(7_000)
    assert parts["engineering"] == pytest.approx(2_000)


def test_financing_is_an_annuity() -> None:
    # 1,000 over 12 months at 1 % a month: the tables say 88.84879.
    assert annuity(1000, 0, 0.01, 12) == pytest.approx(88.84879, abs=1e-5)
    # With 100 due at the end: 1.01^-12 = 0.8874492; (1,000 - 88.74492) x 0.08884879 = 80.96391.
    assert annuity(1000, 100, 0.01, 12) == pytest.approx(80.96391, abs=1e-5)
    # Of a server at 12 % a year over 4 years: 316,800 and 63,360 left. 1.01^-48 = 0.6202604,
    # (316,800 - 39,299.70) x 0.01 / 0.3797396 = 7,307.65; less 5,280 written off: 2,027.65 a node, three nodes.
    parts = monthly(case(on_premises__interest=0.12), "on-premises")
    assert parts["financing"] == pytest.approx(3 * 2_027.65, abs=0.1)


def test_api() -> None:
    # 3,942 x 0.5 + 3,942 x 0.1 + 2,628 x 2 = 1,971 + 394.2 + 5,256 = 7,621.2, and 2 h x 100.
    assert monthly(case(), "api") == pytest.approx({"tokens": 7_621.2, "engineering": 200})
    assert monthly(case(without=("price.api_cached",)), "api")["tokens"] == pytest.approx(7_884 * 0.5 + 5_256)


def test_break_even_of_rental_and_on_demand() -> None:
    # One node of one GPU, no spare, no people: rental 1,000 a month. On demand 2 an hour, on in whole nodes.
    # Ten nodes, flat: rental 10,000; on demand ceil(10 u) x 730 x 2 = 1,460 a node: 6 nodes 8,760, 7 nodes 10,220.
    # So the cloud is cheaper up to a load of 0.6, rental beyond.
    free = {
        "engineering__rate": 0.0,
        "redundancy__spare_nodes": 0.0,
        "cloud__extras_share": 0.0,
        "bare_metal__setup": 0.0,
    }
    there = case(hours=(0.5,) * 24, nodes=10, gpus=1, price__bare_metal=1000.0, price__on_demand=2.0, **free)
    (found,) = break_evens(there, ["bare-metal", "on-demand"])
    assert found.below == "on-demand"
    assert [c.cheaper for c in found.crossings] == ["bare-metal"]
    assert found.crossings[0].at == pytest.approx(0.6, abs=1e-4)


def test_a_rented_host_is_worth() -> None:
    # Spot costs 8,760 + 8,760 + 4,380 + 2,190 + 1,500 = 25,590. Rental without rent: 3 x 100 + 2,000 = 2,300.
    # (25,590 - 2,300) / 3 nodes.
    assert rental_worth(case(), "spot") == pytest.approx(23_290 / 3)


def test_sensitivity_of_a_linear_figure() -> None:
    # Rent a fifth up: 3 x 2,000 = 6,000 more on 2,628 M: 2.283105.
    swing = next(s for s in tornado(case(), "bare-metal", 0.2) if s.name == "price.bare_metal")
    assert swing.more - 12.29071 == pytest.approx(2.28311, abs=1e-4)
    assert 12.29071 - swing.less == pytest.approx(2.28311, abs=1e-4)
    # The rate a fifth up: 12.29071 / 1.2.
    rate = next(s for s in tornado(case(), "bare-metal", 0.2) if s.name == "throughput.output_tok_s")
    assert rate.more == pytest.approx(12.29071 / 1.2, abs=1e-5)
    assert rate.less == pytest.approx(12.29071 / 0.8, abs=1e-5)


def test_the_planner_researchs_own_figure() -> None:
    # 820 tok/s a GPU at 2.95 an hour and full load: 2.952 M tokens an hour, 1.00 a million; 3.33 at a load of 0.3.
    free = {"engineering__rate": 0.0, "redundancy__spare_nodes": 0.0, "cloud__extras_share": 0.0}
    for load, expected in ((1.0, 0.9993), (0.3, 3.3311)):
        there = case(hours=(load,) * 24, nodes=1, throughput__output_tok_s=8 * 820.0, price__reserved=2.95, **free)
        cost = unit_cost(there, "reserved")
        assert cost is not None
        assert cost.per_output == pytest.approx(expected, abs=1e-4)
