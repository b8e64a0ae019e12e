"""Pieces of SVG: lines, texts, boxes, ticks. Everything that comes from outside is escaped. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from markupsafe import Markup

WIDTH: Final = 1000
"""Units that a drawing is wide."""
_STEPS: Final = (1.0, 2.0, 5.0)


def drawing(height: float, words: str, parts: Sequence[Markup]) -> Markup:
    """Return a whole drawing, with words for those who cannot see it."""
    head = Markup('<svg viewBox="0 0 {} {:.0f}" role="img" aria-label="{}">').format(WIDTH, height, words)
    return head + Markup("").join(parts) + Markup("</svg>")


def line(x1: float, y1: float, x2: float, y2: float, name: str) -> Markup:
    """Return a line of class `name`."""
    return Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(name, x1, y1, x2, y2)


def text(x: float, y: float, words: str, name: str) -> Markup:
    """Return words of class `name`."""
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(name, x, y, words)


def box(x: float, y: float, width: float, height: float, name: str, title: str) -> Markup:
    """Return a filled box of class `name`; the title is shown when the pointer rests on it."""
    shape = Markup('<rect class="{}" x="{:.2f}" y="{:.1f}" width="{:.2f}" height="{:.1f}"><title>{}</title></rect>')
    return shape.format(name, x, y, width, height, title)


def dot(x: float, y: float, title: str) -> Markup:
    """Return a circle with a title."""
    return Markup('<circle class="dot" cx="{:.1f}" cy="{:.1f}" r="4"><title>{}</title></circle>').format(x, y, title)


def path(points: Sequence[tuple[float, float]], name: str) -> Markup:
    """Return a line through points."""
    return Markup('<path class="{}" d="M{}"/>').format(name, " ".join(f"{x:.1f} {y:.1f}" for x, y in points))


def ticks(top: float, count: int) -> list[float]:
    """Return some `count` round values from 0 to at most `top`."""
    raw = top / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))
    return [i * step for i in range(int(top / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return round values between two powers of ten."""
    values = [step * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for step in _STEPS]
    return [v for v in values if low <= math.log10(v) <= high]


def apart(places: Sequence[float], least: float) -> list[float]:
    """Return places moved down so far that each is `least` from the one above, in the order given."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    found = list(places)
    before = -math.inf
    for i in order:
        found[i] = before = max(places[i], before + least)
    return found
