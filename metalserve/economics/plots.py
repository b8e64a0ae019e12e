"""What the page draws: curves, stacked bars, tornado, load. Colours are classes of the page's style. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from metalserve.economics import breakeven
from metalserve.economics.breakeven import grid, highest
from metalserve.economics.comparison import Comparison, Row
from metalserve.economics.options import OPTIONS, PARTS, TITLES, Option, Part
from metalserve.economics.sensitivity import Swing
from metalserve.economics.svg import WIDTH, apart, box, dot, drawing, line, log_ticks, path, text, ticks

_LEFT, _RIGHT, _TOP = 62.0, 168.0, 12.0
_POINTS: Final = 300
_BAR: Final = 30
_CUT: Final = 0.06
"""Share of the axis at which the costliest curve is cut off: where nobody is served a token costs without end."""
_MOST_SWINGS: Final = 14


def option_class(option: Option) -> str:
    """Return the class of an option's colour."""
    return f"o{OPTIONS.index(option)}"


def part_class(part: Part) -> str:
    """Return the class of a part's colour."""
    return f"p{PARTS.index(part)}"


@dataclass(frozen=True)
class _Axes:
    """Mean load from left to right, the logarithm of the cost upwards."""

    ceiling: float
    low: float
    high: float
    height: float = 380

    @property
    def tall(self) -> float:
        return self.height - _TOP - 40

    def x(self, load: float) -> float:
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * load / self.ceiling

    def y(self, cost: float) -> float:
        height = (self.high - math.log10(max(cost, 1e-12))) / (self.high - self.low)
        return _TOP + self.tall * min(1.0, height)

    def shows(self, cost: float) -> bool:
        return math.log10(max(cost, 1e-12)) <= self.high


def curves(result: Comparison) -> Markup:
    """Draw the cost of a million answer tokens against the mean load, on a logarithmic scale."""
    case, xs = result.case, grid(result.case, _POINTS)
    drawn = breakeven.curves(case, [row.option for row in result.ranked], xs)
    first = next((i for i, x in enumerate(xs) if x >= highest(case) * _CUT), 0)
    top = max(values[first] for values in drawn.values())
    # What costs nothing has no place on a logarithmic scale: it lies on its lower edge.
    top = top if top > 0 else 1.0
    bottom = max(min(min(values) for values in drawn.values()), top / 1e4)
    axes = _Axes(highest(case), math.log10(bottom) - 0.08, math.log10(top) + 0.02)
    parts = list(_frame(axes, case.utilisation))
    for option, values in drawn.items():
        points = [(axes.x(x), axes.y(v)) for x, v in zip(xs, values, strict=True) if axes.shows(v)]
        parts.append(path(points, f"curve {option_class(option)}"))
    parts += _crossings(result, axes, xs, drawn)
    ends = apart([axes.y(drawn[row.option][-1]) for row in result.ranked], 16)
    for y, row in zip(ends, result.ranked, strict=True):
        parts.append(text(WIDTH - _RIGHT + 8, y + 4, row.title, f"label {option_class(row.option)}"))
    words = "Cost of a million answer tokens against the mean load; the same figures stand in the tables"
    return drawing(axes.height, words, parts)


def _frame(axes: _Axes, here: float) -> Iterator[Markup]:
    right = WIDTH - _RIGHT
    for tick in log_ticks(axes.low, axes.high):
        yield line(_LEFT, axes.y(tick), right, axes.y(tick), "grid")
        yield text(_LEFT - 8, axes.y(tick) + 4, f"{tick:g}" if tick < 1000 else f"{tick:,.0f}", "axis at-end")
    for tick in ticks(axes.ceiling, 10):
        yield text(axes.x(tick), axes.height - 20, f"{tick:.0%}", "axis mid")
    yield text((_LEFT + right) / 2, axes.height - 3, "mean load of the fleet", "axis mid")
    yield line(axes.x(here), _TOP, axes.x(here), _TOP + axes.tall, "here")
    yield text(axes.x(here) + 5, _TOP + 12, f"this load, {here:.0%}", "axis")


def _crossings(
    result: Comparison, axes: _Axes, xs: Sequence[float], drawn: Mapping[Option, Sequence[float]]
) -> Iterator[Markup]:
    for found in result.break_evens:
        for crossing in found.crossings if len(found.crossings) <= 3 else ():
            cost = _at(xs, drawn[found.first], crossing.at)
            if axes.shows(cost):
                title = f"{TITLES[found.first]} / {TITLES[found.second]}: {crossing.at:.1%}"
                yield dot(axes.x(crossing.at), axes.y(cost), title)


def _at(xs: Sequence[float], values: Sequence[float], x: float) -> float:
    place = max(1, next((i for i, known in enumerate(xs) if known >= x), len(xs) - 1))
    share = (x - xs[place - 1]) / (xs[place] - xs[place - 1])
    return values[place - 1] + share * (values[place] - values[place - 1])


def stacks(result: Comparison) -> Markup:
    """Draw what each option costs a month, part by part."""
    rows, left = result.ranked, _LEFT + 90
    height, wide = _TOP + len(rows) * (_BAR + 10) + 24, WIDTH - left - _RIGHT + 60
    top = max(sum(row.parts.values()) for row in rows) or 1.0
    parts: list[Markup] = []
    for tick in ticks(top, 5):
        x = left + wide * tick / top
        parts.append(line(x, _TOP, x, height - 22, "grid"))
        parts.append(text(x, height - 6, f"{tick:,.0f}", "axis mid"))
    for number, row in enumerate(rows):
        y, x = _TOP + number * (_BAR + 10) + 4, left
        parts.append(text(left - 8, y + _BAR / 2 + 4, row.title, "name at-end"))
        for part in PARTS:
            value = row.parts.get(part, 0.0)
            if value <= 0:
                continue
            width = wide * value / top
            parts.append(box(x, y, max(width, 0.5), _BAR, f"part {part_class(part)}", f"{part}: {value:,.0f}"))
            if width > 8.5 * len(part):
                parts.append(text(x + width / 2, y + _BAR / 2 + 4, part, f"in mid {part_class(part)}"))
            x += width
        parts.append(text(x + 6, y + _BAR / 2 + 4, f"{sum(row.parts.values()):,.0f}", "name"))
    return drawing(height, "A month's cost of each option, part by part", parts)


def tornado_plot(row: Row, swings: Sequence[Swing]) -> Markup:
    """Draw how far each figure moves an option's cost of a million answer tokens."""
    assert row.cost is not None
    base, shown, left = row.cost.per_output, list(swings[:_MOST_SWINGS]), 430.0
    height, wide = _TOP + len(shown) * 26 + 26, WIDTH - left - 20
    ends = [v for s in shown for v in (s.less, s.more)] + [base]
    low, span = min(ends), (max(ends) - min(ends)) or 1.0

    def x_of(value: float) -> float:
        return left + 44 + (wide - 88) * (value - low) / span

    parts = [line(x_of(base), _TOP, x_of(base), height - 24, "here")]
    parts.append(text(x_of(base), height - 6, f"{base:,.2f}", "axis mid"))
    for number, swing in enumerate(shown):
        y = _TOP + number * 26 + 3
        note = ", by 1" if swing.moved == "1" else ", to its limit" if swing.clipped else ""
        parts.append(text(left - 8, y + 14, swing.label + note, "name at-end"))
        for value, name in ((swing.less, "less"), (swing.more, "more")):
            x, width = min(x_of(value), x_of(base)), abs(x_of(value) - x_of(base))
            if width < 0.5:
                continue
            parts.append(box(x, y, width, 20, name, f"{name}: {value:,.3f}"))
            down = value < base
            place = x - 5 if down else x + width + 5
            parts.append(text(place, y + 14, f"{value:,.2f}", "axis at-end" if down else "axis"))
    return drawing(height, f"Sensitivity of {row.title}", parts)


def load_plot(loads: Sequence[float]) -> Markup:
    """Draw the load hour by hour."""
    height, left = 120.0, _LEFT
    each, tall = (WIDTH - left - 20) / len(loads), height - _TOP - 22
    parts = []
    for tick in (0.0, 0.5, 1.0):
        y = _TOP + tall * (1 - tick)
        parts += [line(left, y, WIDTH - 20, y, "grid"), text(left - 8, y + 4, f"{tick:.0%}", "axis at-end")]
    for hour, load in enumerate(loads):
        top, title = _TOP + tall * (1 - load), f"hour {hour}: {load:.0%}"
        parts.append(box(left + hour * each, top, max(each - 1, 1), tall * load, "load", title))
    days = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
    week = [(day * 24 + 12.0, name) for day, name in enumerate(days)]
    for place, name in week if len(loads) == 168 else [(hour + 0.5, f"{hour}") for hour in range(0, 24, 3)]:
        parts.append(text(left + place * each, height - 6, name, "axis mid"))
    return drawing(height, "Load hour by hour, of the capacity", parts)
