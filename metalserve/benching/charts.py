"""Charts as inline SVG: lines over one axis, with marks and shaded bands. Every label is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from markupsafe import Markup, escape

from metalserve.report.plots import round_ticks

WIDTH: Final = 640
HEIGHT: Final = 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 14, 40


@dataclass(frozen=True)
class Line:
    """One line: its points by x, its name, whether each point is marked."""

    name: str
    points: Sequence[tuple[float, float]]
    marked: bool = True
    labels: Sequence[str] = ()


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
        title: what is shown; x and y: what the axes mean, with units.
        lines: at most five.
        at: x values with a dashed line and words.
        bands: (from, to, words, alarming) on the x axis.
        level: a y value with a dashed line and words.
    """

    title: str
    x: str
    y: str
    lines: Sequence[Line]
    at: Sequence[tuple[float, str]] = ()
    bands: Sequence[tuple[float, float, str, bool]] = field(default=())
    level: tuple[float, str] | None = None
    from_zero: bool = True


def svg(chart: Chart) -> Markup:
    """Return the drawing, or a sentence when there is nothing to draw."""
    points = [point for line in chart.lines for point in line.points]
    if not points:
        return Markup('<p class="none">{}: nothing was measured.</p>').format(chart.title)
    xs, ys = [x for x, _ in points], [y for _, y in points]
    if chart.level is not None:
        ys.append(chart.level[0])
    xticks = round_ticks(min(0.0, *xs) if chart.from_zero else min(xs), max(xs))
    yticks = round_ticks(min(0.0, *ys) if chart.from_zero else min(ys), max(ys))
    frame = _Frame(xticks[0], xticks[-1], yticks[0], yticks[-1])
    parts = [_band(frame, band) for band in chart.bands]
    parts += [_grid(frame, tick, across=True) for tick in yticks] + [_grid(frame, t, across=False) for t in xticks]
    for x, words in chart.at:
        parts.append(_dashed(frame.x(x), _TOP, frame.x(x), HEIGHT - _BOTTOM, words, frame.x(x) + 4, _TOP + 10))
    if chart.level is not None:
        y = frame.y(chart.level[0])
        parts.append(_dashed(_LEFT, y, WIDTH - _RIGHT, y, chart.level[1], _LEFT + 6, y - 4))
    parts += [_line(frame, line, number) for number, line in enumerate(chart.lines, 1)]
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    parts.append(Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(middle, HEIGHT - 6, chart.x))
    legend = Markup(" ").join(
        Markup('<span class="l{}">{}</span>').format(number, line.name) for number, line in enumerate(chart.lines, 1)
    )
    return Markup(
        '<figure class="chart"><figcaption><b>{}</b> <small>{}</small> {}</figcaption>'
        '<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg></figure>'
    ).format(chart.title, chart.y, legend, WIDTH, HEIGHT, chart.title, Markup("").join(parts))


@dataclass(frozen=True)
class _Frame:
    x0: float
    x1: float
    y0: float
    y1: float

    def x(self, value: float) -> float:
        return round(_LEFT + (value - self.x0) / ((self.x1 - self.x0) or 1) * (WIDTH - _LEFT - _RIGHT), 1)

    def y(self, value: float) -> float:
        return round(HEIGHT - _BOTTOM - (value - self.y0) / ((self.y1 - self.y0) or 1) * (HEIGHT - _TOP - _BOTTOM), 1)


def _grid(frame: _Frame, tick: float, *, across: bool) -> Markup:
    label = f"{tick:,.0f}".replace(",", "\u202f") if abs(tick) >= 1000 else f"{tick:g}"
    if across:
        y = frame.y(tick)
        return Markup('<path class="grid" d="M{} {}H{}"/><text x="{}" y="{}" text-anchor="end">{}</text>').format(
            _LEFT, y, WIDTH - _RIGHT, _LEFT - 6, y + 4, label
        )
    return Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(
        frame.x(tick), HEIGHT - _BOTTOM + 16, label
    )


def _dashed(x1: float, y1: float, x2: float, y2: float, words: str, x: float, y: float) -> Markup:
    # words that would run out of the picture stand on the other side of their line
    end = x > 0.7 * WIDTH
    anchor, x = ("end", x - 8) if end else ("start", x)
    return Markup(
        '<path class="mark" d="M{} {}L{} {}"/><text class="said" x="{}" y="{}" text-anchor="{}">{}</text>'
    ).format(x1, y1, x2, y2, x, y, anchor, words)


def _band(frame: _Frame, band: tuple[float, float, str, bool]) -> Markup:
    left, right = frame.x(max(band[0], frame.x0)), frame.x(min(band[1], frame.x1))
    return Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>').format(
        "bad" if band[3] else "band", left, _TOP, round(max(right - left, 0.8), 1), HEIGHT - _TOP - _BOTTOM, band[2]
    )


def _line(frame: _Frame, line: Line, number: int) -> Markup:
    path = "L".join(f"{frame.x(x)} {frame.y(y)}" for x, y in line.points)
    parts = [Markup('<path class="c{}" d="M{}"/>').format(number, path)] if line.points else []
    if line.marked:
        for place, (x, y) in enumerate(line.points):
            label = line.labels[place] if place < len(line.labels) else f"{y:g}"
            parts.append(
                Markup('<circle class="p{}" cx="{}" cy="{}" r="3"><title>{}</title></circle>').format(
                    number, frame.x(x), frame.y(y), label
                )
            )
    for place, label in enumerate(line.labels):
        x, y = line.points[place]
        parts.append(Markup('<text x="{}" y="{}">{}</text>').format(frame.x(x) + 5, frame.y(y) - 5, escape(label)))
    return Markup("").join(parts)
