"""Draws what became of the fleet: hosts that did not serve, and what each policy did wrong. SVG, no library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from metalserve.economics.svg import WIDTH, apart, box, drawing, line, path, text

if TYPE_CHECKING:
    from bench.recovery.simulate import Result

_LEFT, _RIGHT, _TOP, _TALL = 62.0, 138.0, 92.0, 290.0
_BARS = _TOP + _TALL + 92.0
_ROW = 21.0
_STYLE = """<style>
text{font:14px system-ui,sans-serif;fill:#222} .title{font-size:18px;font-weight:600} .small{font-size:12px;fill:#555}
.grid{stroke:#ddd} .axis{stroke:#555} .mark{stroke:#8a6d00;stroke-dasharray:3 3} .curve{fill:none;stroke-width:1.8}
.c0{stroke:#0b6bb8} .c1{stroke:#c2452d} .c2{stroke:#6b6b6b} rect.c0{fill:#0b6bb8} rect.c1{fill:#c2452d}
rect.c2{fill:#6b6b6b} text.c0{fill:#0b6bb8;stroke:none} text.c1{fill:#c2452d;stroke:none} text.c2{fill:#555;stroke:none}
</style>"""
_WRONG = (
    ("wrong", "steps that destroy and were not needed"),
    ("quarantined_wrong", "hosts put into quarantine wrongly"),
    ("lost_to_rollout", "hosts lost to a bad release"),
    ("serving_touched", "hosts that served and were disturbed"),
    ("pages", "people called"),
)


def plot(results: Sequence[Result]) -> str:
    """Return the drawing as a file of its own."""
    days = results[0].days
    most = max(number for result in results for _, number in result.away)
    top = math.log10(max(10.0, most * 1.2))

    def x(day: float) -> float:
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * day / days

    def y(number: float) -> float:  # from 1 upwards; nobody missing lies on the axis
        return _TOP + _TALL * (1 - math.log10(max(1.0, number)) / top)

    first = results[0]
    parts = [
        text(_LEFT, 26, f"Simulated: {first.hosts} hosts, {days:g} days, seed {first.seed}", "title"),
        text(_LEFT, 48, "Hosts that do not serve, mean of 6 hours (logarithmic scale)", "small"),
    ]
    for number in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000):
        if math.log10(number) <= top:
            parts += [line(_LEFT, y(number), x(days), y(number), "grid"), text(24, y(number) + 5, f"{number}", "small")]
    for day in range(0, int(days) + 1, 5 if days >= 10 else 1):
        parts += [line(x(day), y(1), x(day), y(1) + 5, "axis"), text(x(day) - 4, y(1) + 20, f"{day}", "small")]
    parts += [line(_LEFT, y(1), x(days), y(1), "axis"), text(x(days) + 16, y(1) + 20, "days", "small")]
    for day, _ in first.breaker:
        parts.append(line(x(day), _TOP, x(day), y(1), "mark"))
        parts.append(text(x(day) - 60, _TOP - 8, "metalserve's breaker opens", "small"))
    ends = []
    for number, result in reversed(list(enumerate(results))):
        points = _means(result.away, 0.25)
        parts.append(path([(x(day), y(value)) for day, value in points], f"curve c{number}"))
    for result in results:
        ends.append(y(_means(result.away, 0.25)[-1][1]))
    for number, (place, result) in enumerate(zip(apart(ends, 17), results, strict=True)):
        parts.append(text(x(days) + 8, place + 5, result.policy, f"c{number}"))
    return _whole(parts + _bars(results))


def _means(away: Sequence[tuple[float, int]], width: float) -> list[tuple[float, float]]:
    sums: dict[int, list[int]] = {}
    for day, number in away:
        sums.setdefault(int(day / width), []).append(number)
    return [((index + 0.5) * width, sum(values) / len(values)) for index, values in sorted(sums.items())]


def _bars(results: Sequence[Result]) -> list[Markup]:
    parts = [text(_LEFT, _BARS - 22, "What was done wrong, and who was called (each group has its own scale)", "small")]
    place, left = _BARS, 350.0
    for key, words in _WRONG:
        most = max(result.figures[key] for result in results) or 1.0
        parts.append(text(_LEFT, place + 14, words, ""))
        for number, result in enumerate(results):
            value = result.figures[key]
            width = (WIDTH - left - 190) * value / most
            parts.append(box(left, place, width, 15, f"c{number}", f"{result.policy}: {value:.0f}"))
            parts.append(text(left + width + 6, place + 12, f"{value:.0f}  {result.policy}", f"c{number}"))
            place += _ROW
        place += 12
    return parts


def _whole(parts: Sequence[Markup]) -> str:
    height = _BARS + len(_WRONG) * (3 * _ROW + 12) + 8
    words = "Hosts that do not serve under three policies, and what each did wrong; the table has the figures"
    svg = drawing(height, words, [Markup(_STYLE), Markup('<rect width="100%" height="100%" fill="#fff"/>'), *parts])
    return str(svg).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1) + "\n"
