"""Cost against utilisation: the curves, and where they cross. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Final

from metalserve.economics.load import level_for, most
from metalserve.economics.options import Case, Option, monthly, tokens

GRID: Final = 240
"""Points of the search; two crossings within 1/240 of the utilisation are taken for none."""
LEAST: Final = 0.005
"""Where curves begin: at no load at all a token costs without end."""
_EXACT: Final = 1e-7


@dataclass(frozen=True, slots=True)
class Crossing:
    """A utilisation at which two options cost the same; from there on `cheaper` is the cheaper one."""

    at: float
    cheaper: Option


@dataclass(frozen=True, slots=True)
class BreakEven:
    """Two options over all utilisations that the profile's shape allows.

    Attributes:
        first, second: the options.
        below: the cheaper one at the least load; None where they cost the same there.
        crossings: where that changes, ascending; none: `below` is cheaper throughout.
    """

    first: Option
    second: Option
    below: Option | None
    crossings: tuple[Crossing, ...]


def at_utilisation(case: Case, wanted: float) -> Case:
    """Return the case with the same shape of load at another mean, which `most` of its hours limits."""
    return case.at_level(level_for(case.hours, wanted))


def highest(case: Case) -> float:
    """Return the highest mean load that the shape allows."""
    return most(case.hours)


def curves(case: Case, options: Sequence[Option], points: Sequence[float]) -> dict[Option, list[float]]:
    """Return what a million answer tokens costs in each option at each utilisation, with all cost on them."""
    there = [at_utilisation(case, point) for point in points]
    served = [tokens(one).output for one in there]
    return {
        option: [sum(monthly(one, option).values()) / output for one, output in zip(there, served, strict=True)]
        for option in options
    }


def grid(case: Case, count: int = GRID) -> list[float]:
    """Return utilisations from the least to the highest, evenly."""
    top = highest(case)
    return [LEAST + (top - LEAST) * i / (count - 1) for i in range(count)]


def break_evens(case: Case, options: Sequence[Option]) -> list[BreakEven]:
    """Return for each pair of options where the one becomes cheaper than the other.

    Nodes come and go whole, so curves have steps; a step over the other curve is a crossing too.
    """
    points = grid(case)
    there = [at_utilisation(case, point) for point in points]
    totals = {option: [sum(monthly(one, option).values()) for one in there] for option in options}
    return [_between(case, points, totals, *pair) for pair in combinations(options, 2)]


def _total(case: Case, option: Option, point: float) -> float:
    return sum(monthly(at_utilisation(case, point), option).values())


def _between(
    case: Case, points: Sequence[float], totals: dict[Option, list[float]], first: Option, second: Option
) -> BreakEven:
    def sign(difference: float, size: float) -> int:
        return 0 if abs(difference) <= 1e-9 * size else (1 if difference > 0 else -1)

    signs = [sign(a - b, abs(a) + abs(b)) for a, b in zip(totals[first], totals[second], strict=True)]
    cheaper: dict[int, Option | None] = {1: second, -1: first, 0: None}
    found: list[Crossing] = []
    last = signs[0]
    last_at = points[0]
    for point, now in zip(points[1:], signs[1:], strict=True):
        if now != 0 and last != 0 and now != last:
            winner = cheaper[now]
            assert winner is not None
            found.append(Crossing(_bisected(case, first, second, last_at, point, last), winner))
        if now != 0:
            last, last_at = now, point
    return BreakEven(first, second, cheaper[signs[0]], tuple(found))


def _bisected(case: Case, first: Option, second: Option, low: float, high: float, sign: int) -> float:
    while high - low > _EXACT:
        middle = (low + high) / 2
        difference = _total(case, first, middle) - _total(case, second, middle)
        if difference * sign > 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def rental_worth(case: Case, against: Option) -> float:
    """Return the monthly price of a rented host at which it costs as much as another option does at this load."""
    free = replace(case.assumptions.row("bare_metal.setup"), name="price.bare_metal", value=0.0, least=None)
    rest = sum(monthly(replace(case, assumptions=case.assumptions.having(free)), "bare-metal").values())
    return (sum(monthly(case, against).values()) - rest) / (case.nodes + case.spares)
