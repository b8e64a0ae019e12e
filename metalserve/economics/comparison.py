"""All options side by side, with what the result rests on and what would change it. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from metalserve.economics.allocation import UnitCost, unit_cost
from metalserve.economics.breakeven import BreakEven, break_evens, rental_worth
from metalserve.economics.build import Built
from metalserve.economics.options import TITLES, Case, Option, Part, monthly, tokens
from metalserve.economics.sensitivity import Swing, Turn, changes_of_winner, tornado

SCHEMA: Final = 1
"""Raised when a key of the JSON changes its meaning or goes away; new keys do not raise it."""


@dataclass(frozen=True)
class Row:
    """One option.

    Attributes:
        cost: what tokens cost; None where `missing` says what is not known.
        low, high: the cost of a million answer tokens at the upper and the lower end of the throughput's range.
        parts: a month's cost, part by part.
        missing: figures that nobody gave.
    """

    option: Option
    cost: UnitCost | None
    low: float | None
    high: float | None
    parts: Mapping[Part, float]
    missing: tuple[str, ...]

    @property
    def title(self) -> str:
        """What the option is called."""
        return TITLES[self.option]


@dataclass(frozen=True)
class Comparison:
    """The whole answer.

    Attributes:
        turning: figures that alone make another option the cheapest; `turning_own`: of the ways to serve it yourself.
        rental_worth: the monthly price below which a rented host is the cheapest way to serve it yourself, and against
            what.
        share: how far figures were moved.
    """

    built: Built
    rows: tuple[Row, ...]
    break_evens: tuple[BreakEven, ...]
    tornadoes: Mapping[Option, Sequence[Swing]]
    turning: tuple[Turn, ...]
    turning_own: tuple[Turn, ...]
    rental_worth: tuple[Option, float] | None
    share: float
    today: datetime.date

    @property
    def case(self) -> Case:
        """What was priced."""
        return self.built.case

    @property
    def ranked(self) -> list[Row]:
        """The options that could be computed, the cheapest first."""
        return sorted((r for r in self.rows if r.cost is not None), key=lambda r: r.cost.total if r.cost else 0.0)

    @property
    def own(self) -> list[Row]:
        """The ways to serve it yourself that could be computed, the cheapest first."""
        return [row for row in self.ranked if row.option != "api"]

    @property
    def old(self) -> list[tuple[str, datetime.date, int]]:
        """Prices that are old: (name, day, age in days), the oldest first."""
        rows = [r for r in self.case.assumptions.rows if r.date is not None and r.old(self.today)]
        found = [(r.name, r.date, (self.today - r.date).days) for r in rows if r.date is not None]
        return sorted(found, key=lambda entry: entry[1])

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        case, served = self.case, tokens(self.case)
        return {
            "schema": SCHEMA,
            "date": self.today.isoformat(),
            "simulated": self.built.throughput.simulated,
            "currency": case.currency,
            "nodes": case.nodes,
            "gpus_per_node": case.gpus,
            "profile": self.built.profile,
            "hours": list(case.loads),
            "utilisation": case.utilisation,
            "tokens_per_month_m": asdict(served),
            "throughput": {
                key: getattr(self.built.throughput, key) for key in ("output", "low", "high", "basis", "source")
            },
            "api": self.built.api or None,
            "cheapest": self.ranked[0].option if self.ranked else None,
            "options": [_row_dict(row) for row in self.rows],
            "break_even": [
                {
                    "options": [b.first, b.second],
                    "cheaper_at_least_load": b.below,
                    "crossings": [{"utilisation": round(c.at, 5), "cheaper_from_here": c.cheaper} for c in b.crossings],
                }
                for b in self.break_evens
            ],
            "rental_worth": dict(zip(("against", "per_node_month"), self.rental_worth, strict=True))
            if self.rental_worth
            else None,
            "sensitivity": {
                "share": self.share,
                "options": {o: [asdict(s) for s in swings] for o, swings in self.tornadoes.items()},
                "changes_cheapest": [asdict(turn) for turn in self.turning],
                "changes_cheapest_without_api": [asdict(turn) for turn in self.turning_own],
            },
            "assumptions": [row.as_dict() for row in case.assumptions.rows],
            "old_prices": [{"name": n, "date": d.isoformat(), "days": age} for n, d, age in self.old],
            "other_prices": list(self.built.others),
        }


def compare(built: Built, options: Sequence[Option], *, share: float, today: datetime.date) -> Comparison:
    """Return the comparison.

    Args:
        built: the case.
        options: which to compare.
        share: how far each figure is moved for the sensitivity, as a share of it.
        today: for the age of prices.
    """
    case = built.case
    rows = tuple(_row(built, option) for option in options)
    there = [row.option for row in rows if row.cost is not None]
    others = [row for row in rows if row.cost is not None and row.option not in ("bare-metal", "api")]
    best = min(others, key=lambda row: row.cost.total if row.cost else 0.0, default=None)
    worth = None
    if best is not None and "bare-metal" in options:
        worth = best.option, rental_worth(case, best.option)
    return Comparison(
        built,
        rows,
        tuple(break_evens(case, there)),
        {option: tornado(case, option, share) for option in there},
        tuple(changes_of_winner(case, there, share)),
        tuple(changes_of_winner(case, [option for option in there if option != "api"], share)),
        worth,
        share,
        today,
    )


def _row(built: Built, option: Option) -> Row:
    case, through = built.case, built.throughput
    cost = unit_cost(case, option)
    if cost is None:
        return Row(option, None, None, None, {}, case.missing(option))

    def at(rate: float) -> float:
        row = case.assumptions.row("throughput.output_tok_s").at(rate)
        there = unit_cost(replace(case, assumptions=case.assumptions.having(row)), option)
        assert there is not None
        return there.per_output

    return Row(option, cost, at(through.high), at(through.low), monthly(case, option), ())


def _row_dict(row: Row) -> dict[str, Any]:
    cost = row.cost
    return {
        "option": row.option,
        "title": row.title,
        "missing": list(row.missing),
        "per_month": cost.total if cost else None,
        "per_m_output_all_cost": cost.per_output if cost else None,
        "range": [row.low, row.high] if cost else None,
        "per_m_input": cost.input if cost else None,
        "per_m_cached_input": cost.cached if cost else None,
        "per_m_output": cost.output if cost else None,
        "parts_per_month": dict(row.parts),
    }
