"""What hosts have in common: only what sets them apart from the fleet is named, and with its numbers."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metalserve.recovery.factors import common, in_common, tail


def fleet(size: int = 200) -> dict[str, dict[str, str]]:
    return {
        f"h{n:04}": {"release": "2026.11", "driver": "580.95" if n % 10 else "570.1", "rack": f"r{n // 20}"}
        for n in range(size)
    }


def test_what_everybody_has_explains_nothing() -> None:
    every = fleet()
    bad = {host: every[host] for host in list(every)[::25]}
    assert not any(factor.explains for factor in common(bad, {h: {"release": "2026.11"} for h in every}))
    only = {host: {"release": "2026.11"} for host in every}
    said = in_common(common({host: only[host] for host in bad}, only))
    assert said == (
        "nothing in common that sets them apart; the nearest: release 2026.11 (8 of 8 bad hosts, 200 of 200 of the"
        " fleet: that explains nothing)"
    )


def test_the_rack_that_failed_is_named_with_its_numbers() -> None:
    every = fleet()
    bad = {f"h{n:04}": every[f"h{n:04}"] for n in range(40, 52)}  # 12 of the 20 hosts of r2
    first = common(bad, every)[0]
    assert (first.kind, first.value, first.explains) == ("rack", "r2", True)
    assert (first.bad, first.bad_known, first.fleet, first.fleet_known) == (12, 12, 20, 200)
    said = in_common(common(bad, every))
    assert said.startswith(
        "in common: rack r2 (12 of 12 bad hosts, 20 of 200 of the fleet; by chance: less than 1 in a million)"
    )
    assert "release" not in said


def test_factors_of_the_same_hosts_cannot_be_told_apart() -> None:
    every = {f"h{n}": {"rack": "r1", "switch": "s1"} if n < 10 else {"rack": "r2", "switch": "s2"} for n in range(40)}
    first = common({f"h{n}": every[f"h{n}"] for n in range(9)}, every)[0]
    assert first.in_words().startswith("rack r1 = switch s1 (9 of 9 bad hosts, 10 of 40 of the fleet;")


def test_on_a_fleet_of_four_the_tie_is_decided_by_what_is_rarer() -> None:
    """The model, which comes first in the alphabet, all have; the rack only the bad ones. Both chances are 1."""
    every = {f"h{n}": {"model": "m", "rack": "r1" if n < 3 else "r2", "switch": f"s{n}"} for n in range(4)}
    bad = {f"h{n}": every[f"h{n}"] for n in range(3)}
    listed = common(bad, every)
    assert {factor.chance for factor in listed} == {1.0}
    assert (listed[0].kind, listed[0].p) == ("rack", pytest.approx(1 / 4))
    assert "the nearest: rack r1 (3 of 3 bad hosts, 3 of 4 of the fleet; chance alone does that" in in_common(listed)


@pytest.mark.parametrize(
    ("first", "second"), [("release", "driver"), ("driver", "rack"), ("rack", "switch"), ("switch", "model")]
)
def test_what_the_numbers_cannot_tell_apart_is_in_the_order_of_the_kinds(first: str, second: str) -> None:
    """Two factors of as many hosts each, but not of the same ones: people's changes are named before hardware."""
    every: dict[str, dict[str, str]] = {f"h{n}": {first: "new" if n in (0, 1) else "old"} for n in range(5)}
    for n, factors in enumerate(every.values()):
        factors[second] = "new" if n in (1, 2) else "old"
    listed = common({f"h{n}": every[f"h{n}"] for n in range(3)}, every)
    assert [(f.kind, f.value) for f in listed if f.value == "new"] == [(first, "new"), (second, "new")]
    assert in_common(listed).startswith(f"nothing in common that sets them apart; the nearest: {first} new (2 of 3")
    same = {f"h{n}": {second: "x", first: "y"} if n < 3 else {second: "a", first: "b"} for n in range(5)}
    (only,) = common({f"h{n}": same[f"h{n}"] for n in range(3)}, same)
    assert only.in_words().startswith(f"{first} y = {second} x (3 of 3 bad hosts")


def test_a_symptom_is_compared_with_what_failed_before() -> None:
    every = fleet()
    bad = {f"h{n:04}": {**every[f"h{n:04}"], "xid": "79"} for n in range(0, 200, 20)}
    assert not any(f.explains for f in common(bad, every) if f.kind == "xid")
    alone = "; most show xid 79 (10 of 10 bad hosts, 10 of 10 of the hosts seen unhealthy before: nothing earlier to"
    assert alone in in_common(common(bad, every))
    before = {f"h{n:04}": {"xid": "31"} for n in range(1, 200, 4)}
    (xid,) = [f for f in common(bad, every, before) if f.kind == "xid"]
    assert xid.explains
    assert xid.in_words().startswith(
        "xid 79 (10 of 10 bad hosts, 10 of 60 of the hosts seen unhealthy before; by chance"
    )


def test_one_host_or_nothing_known() -> None:
    assert in_common(common({"a": {}}, {"a": {}})) == "nothing is known that they could have in common"
    every = {f"h{n}": {"rack": f"r{n}"} for n in range(5000)}
    assert not any(f.explains for f in common({"h1": every["h1"], "h2": every["h2"]}, every))


def test_what_was_seen_of_a_bad_host_is_believed() -> None:
    every = {f"h{n}": {"driver": "580"} for n in range(100)}
    bad = {f"h{n}": {"driver": "590"} for n in range(8)}
    first = common(bad, every)[0]
    assert (first.value, first.bad, first.fleet, first.fleet_known, first.explains) == ("590", 8, 8, 100, True)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 60), st.data())
def test_the_tail_is_the_sum_of_the_exact_terms(total: int, data: st.DataObject) -> None:
    marked, draws = data.draw(st.integers(0, total)), data.draw(st.integers(0, total))
    drawn = data.draw(st.integers(0, min(draws, marked)))
    exact = sum(
        math.comb(marked, k) * math.comb(total - marked, draws - k)
        for k in range(max(drawn, draws - (total - marked)), min(draws, marked) + 1)
    ) / math.comb(total, draws)
    assert tail(drawn, draws, marked, total) == pytest.approx(exact, rel=1e-9)


def test_chance_alone_is_seldom_blamed() -> None:
    """Hosts that fail at random: something is named in at most about one of a hundred."""
    every = fleet(400)
    source = random.Random(7)
    named = 0
    for _ in range(150):
        bad = {host: every[host] for host in source.sample(sorted(every), 12)}
        named += any(factor.explains for factor in common(bad, every))
    assert named <= 5
