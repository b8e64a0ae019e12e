"""The result in sentences: who wins, from where on not, and what it hangs on. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from metalserve.economics.breakeven import BreakEven
from metalserve.economics.comparison import Comparison, Row
from metalserve.economics.options import TITLES, Option

HOSTS: frozenset[Option] = frozenset({"bare-metal", "on-premises"})
"""Options in which whole machines are one's own for the time; the others of serving it yourself are clouds."""


def verdict(result: Comparison) -> list[str]:
    """Return who wins and what that hangs on, the answer first."""
    return list(_verdict(result))


def _verdict(result: Comparison) -> Iterator[str]:
    ranked = result.ranked
    if not ranked:
        yield "Nothing can be compared: no option has all its prices."
        return
    best, own = ranked[0], result.own
    yield _winner(result, best)
    if best.option == "api" and own:
        way, cost = own[0].title, _money(own[0], result)
        yield f"The cheapest way to serve it yourself is {way}: {cost}, {_times(own[0], best)} as much."
    hosts = next((row for row in own if row.option in HOSTS), None)
    if hosts is not None and best.option not in HOSTS and hosts is not own[0]:
        yield f"The cheapest with whole hosts: {hosts.title}, {_money(hosts, result)}, {_times(hosts, best)} as much."
    yield from _range(result)
    pairs = [{best.option, own[0].option} if own else set(), {row.option for row in own[:2]}]
    for pair in pairs if pairs[0] != pairs[1] else pairs[:1]:
        found = next((b for b in result.break_evens if {b.first, b.second} == pair), None)
        if found is not None:
            yield f"{break_even_words(found)}."
    yield from _turning(result, best)
    if result.rental_worth is not None:
        against, price = result.rental_worth
        there = f"below {price:,.0f} {result.case.currency} a node and month" if price > 0 else "at no price"
        yield (
            f"Of the ways to serve it yourself bare-metal rental is the cheapest {there} (against {TITLES[against]} "
            "at this load)."
        )


def _turning(result: Comparison, best: Row) -> Iterator[str]:
    sets = [("Of all options: ", result.turning, len(result.ranked))]
    if best.option == "api":
        sets.append(("Of the ways to serve it yourself: ", result.turning_own, len(result.own)))
    for words, turning, count in sets:
        if count < 2:
            continue
        if turning:
            named = dict.fromkeys(f"{turn.words} ({TITLES[turn.option]})" for turn in turning)
            yield f"{words}one figure alone makes another option the cheapest: {', '.join(named)}."
        else:
            yield f"{words}no single figure, moved by {result.share:.0%}, makes another option the cheapest."


def _winner(result: Comparison, best: Row) -> str:
    fleet = f"{result.case.nodes} node{'s' if result.case.nodes > 1 else ''}"
    at = f"at a mean load of {result.case.utilisation:.0%} on {fleet}"
    who = {"bare-metal": "Bare metal wins", "on-premises": "Own hardware wins", "api": "The API wins"}.get(
        best.option, "The cloud wins"
    )
    alone = "" if len(result.ranked) > 1 else " (nothing else has all its prices)"
    return f"{who} {at}{alone}: {best.title}, {_money(best, result)} a million answer tokens with all cost on them."


def _range(result: Comparison) -> Iterator[str]:
    """The rate of the engines is the same for all who serve themselves; against an API it decides."""
    api = next((row for row in result.ranked if row.option == "api"), None)
    self_served = next(iter(result.own), None)
    through = result.built.throughput
    if api is None or self_served is None or api.low is None or api.high is None or through.low == through.high:
        return
    if self_served.low is None or self_served.high is None:
        return
    words = f"Over the whole range of the rate ({through.low:,.0f} to {through.high:,.0f} answer tokens/s a node)"
    if self_served.low > api.low and self_served.high > api.high:
        yield f"{words} the API stays cheaper."
    elif self_served.low < api.low and self_served.high < api.high:
        yield f"{words} serving it yourself stays cheaper than the API."
    else:
        yield f"{words} it is open whether the API is cheaper: measure the node (metalserve bench)."


def break_even_words(found: BreakEven) -> str:
    """Return a pair's break-even in words; that there is none, where there is none."""
    first, second = TITLES[found.first], TITLES[found.second]
    if not found.crossings:
        if found.below is None:
            return f"{first} and {second} cost the same at any load"
        other = second if found.below == found.first else first
        return f"{first} / {second}: no break-even, {TITLES[found.below]} is cheaper than {other} at any load"
    if len(found.crossings) > 3:
        low, high = found.crossings[0], found.crossings[-1]
        return (
            f"{first} / {second}: they cross {len(found.crossings)} times between {low.at:.1%} and {high.at:.1%} "
            f"(nodes come whole), from there on {TITLES[high.cheaper]} is cheaper"
        )
    steps = [f"from {crossing.at:.1%} on {TITLES[crossing.cheaper]} is cheaper" for crossing in found.crossings]
    return f"{first} / {second}: {', '.join(steps)}"


def warnings(result: Comparison) -> list[str]:
    """Return what a reader has to know before relying on it."""
    found = []
    if result.built.throughput.simulated:
        found.append("simulated: the rate is a stand-in's; these costs say nothing of real GPUs")
    if result.old:
        label = {row.name: row.label for row in result.case.assumptions.rows}
        listed = "; ".join(f"{label[name]}, {name} ({day}, {age} days)" for name, day, age in result.old)
        found.append(f"old prices, more than 90 days: {listed}. Give your own with --price NAME=VALUE")
    for row in result.rows:
        if row.missing:
            found.append(f"{row.title}: not computed, nothing says {', '.join(row.missing)}; give --price NAME=VALUE")
    figures = result.case.assumptions.rows
    guessed = sum(r.basis == "guessed" for r in figures)
    if guessed:
        found.append(f"{guessed} of {len(figures)} figures are guessed; the table of assumptions says which")
    if result.built.throughput.basis == "planned":
        found.append("the rate is planned, not measured: metalserve bench measures it")
    if any(row.cost is not None and row.cost.output is None for row in result.rows):
        found.append("cost is not divided between prompts and answers: nothing says allocation.prefill_share")
    if "throughput.cached_share" not in result.case.assumptions:
        found.append("no share of cached prompt tokens was measured: none are counted")
    return found


def _money(row: Row, result: Comparison) -> str:
    assert row.cost is not None
    return f"{row.cost.per_output:,.2f} {result.case.currency}"


def _times(row: Row, other: Row) -> str:
    assert row.cost is not None
    assert other.cost is not None
    return f"{row.cost.total / other.cost.total:.1f} times" if other.cost.total else "without end"
