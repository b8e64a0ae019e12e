"""What the result hangs on: each figure up and down by the same share, the widest swing first. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from metalserve.economics.allocation import unit_cost
from metalserve.economics.assumptions import Assumption
from metalserve.economics.options import Case, Option


@dataclass(frozen=True, slots=True)
class Swing:
    """What one figure does to the cost of a million answer tokens.

    Attributes:
        name: the figure.
        less: the cost with the figure lowered; `more` with it raised.
        moved: how far, in words: `20%`, or `1` of what is counted whole.
        clipped: a limit kept it from moving as far on one side.
    """

    name: str
    label: str
    less: float
    more: float
    moved: str
    clipped: bool

    @property
    def width(self) -> float:
        """How far the two lie apart."""
        return abs(self.more - self.less)


@dataclass(frozen=True, slots=True)
class Turn:
    """A figure that alone makes another option the cheapest: its name, how it was moved (`-20%`), the option."""

    name: str
    moved: str
    option: Option

    @property
    def words(self) -> str:
        """The figure and its move."""
        return f"{self.name} {self.moved}"


def moves(row: Assumption, share: float) -> Iterator[tuple[str, Assumption]]:
    """Return a figure lowered and raised, within its limits, with the move in words; nothing for one that is 0.

    Nodes are whole: they move by one.
    """
    if not row.value:
        return
    for sign, mark in ((-1, "-"), (1, "+")):
        if row.unit == "nodes":
            yield f"{mark}1", row.at(row.value + sign)
        else:
            yield f"{mark}{share:.0%}", row.at(row.value * (1 + sign * share))


def tornado(case: Case, option: Option, share: float) -> list[Swing]:
    """Return the swing of each figure that moves an option's cost, the widest first.

    The load follows the hours of the profile: with another rate of tokens the fleet serves more or fewer of them at the
    same utilisation.

    Args:
        case: the case.
        option: an option with its prices.
        share: how far each figure is moved, as a share of it (0.2: a fifth less, a fifth more).
    """
    base = unit_cost(case, option)
    if base is None:
        return []
    found = []
    for row in case.assumptions.rows:
        pair = list(moves(row, share))
        if not pair:
            continue
        costs = [unit_cost(_with(case, moved), option) for _, moved in pair]
        less, more = (cost.per_output if cost is not None else base.per_output for cost in costs)
        steps = [abs(moved.value - row.value) for _, moved in pair]
        clipped = abs(steps[0] - steps[1]) > 1e-9 * abs(row.value)
        swing = Swing(row.name, row.label, less, more, pair[1][0].removeprefix("+"), clipped)
        if swing.width > 1e-9 * base.per_output:
            found.append(swing)
    return sorted(found, key=lambda s: (-s.width, s.name))


def changes_of_winner(case: Case, options: Sequence[Option], share: float) -> list[Turn]:
    """Return which figures make another option the cheapest."""
    winner = cheapest(case, options)
    found = []
    for row in case.assumptions.rows:
        for words, moved in moves(row, share):
            other = cheapest(_with(case, moved), options)
            if other is not None and other != winner:
                found.append(Turn(row.name, words, other))
    return found


def cheapest(case: Case, options: Sequence[Option]) -> Option | None:
    """Return the option with the least cost; None where none can be computed."""
    costs = [(cost.total, option) for option in options if (cost := unit_cost(case, option)) is not None]
    return min(costs, key=lambda pair: pair[0])[1] if costs else None


def _with(case: Case, row: Assumption) -> Case:
    return replace(case, assumptions=case.assumptions.having(row))
