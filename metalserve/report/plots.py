"""Soak plots as SVG paths on one time axis: drawn in a field of 1000 by 200, stretched by the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, cast

from metalserve.catalogue.models import GpuSpec
from metalserve.report.model import ABOVE_OK, Host
from metalserve.report.soak import GpuSoak, Series, Soak
from metalserve.report.values import gpu_index, known

WIDTH: Final = 1000
HEIGHT: Final = 200
POINTS: Final = 800_000
"""Points in one page, over all of its curves; with 8 bytes a point a page stays below 20 MB at 200 nodes."""
MOST: Final = 240
"""Points of one curve, at most: more cannot be told apart on a screen."""
LEAST: Final = 40
_LEAST_SPAN: Final = 0.2
"""An axis spans at least this share of its highest value."""
_ACCENTS: Final = 4
"""Colours for curves that stand out; the rest is grey, or nothing would."""

Aggregate = Callable[[Sequence[float]], float]


@dataclass(frozen=True, slots=True)
class Curve:
    """One GPU's line. `accent` is 1 to 4 where it stands out, else 0; `end` is where it ends, % from the top."""

    gpu: int
    path: str
    accent: int
    end: float


@dataclass(frozen=True, slots=True)
class Tick:
    """A value on an axis; `at` in % from the top, or from the left."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One quantity over time. Without curves it was not measured."""

    title: str
    unit: str
    said: str
    curves: tuple[Curve, ...] = ()
    ticks: tuple[Tick, ...] = ()
    limit: Tick | None = None


@dataclass(frozen=True, slots=True)
class Lane:
    """Stretches in which one GPU was slowed down: (from %, width %, reasons)."""

    gpu: int
    stretches: tuple[tuple[float, float, str], ...]


@dataclass(frozen=True, slots=True)
class Plot:
    """Everything drawn of one soak."""

    panels: tuple[Panel, ...]
    times: tuple[Tick, ...]
    lanes: tuple[Lane, ...]
    accents: tuple[tuple[int, int], ...]
    samples: int
    points: int


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


_PANELS: Final[tuple[tuple[str, str, str, str, Aggregate], ...]] = (
    ("temperature_c", "Temperature", "°C", "highest", max),
    ("power_w", "Power", "W", "mean", _mean),
    ("sm_mhz", "SM clock", "MHz", "lowest", min),
    ("tflops", "Throughput", "TFLOPS", "mean", _mean),
)


def points_each(curves: int) -> int:
    """Return how many points each curve of a page may have, so that the page keeps to `POINTS`."""
    return max(LEAST, min(MOST, POINTS // max(curves, 1)))


def plot(soak: Soak, host: Host, spec: GpuSpec | None, points: int) -> Plot:
    """Return the drawing of a soak.

    Args:
        soak: the samples.
        host: whose findings say which GPUs stand out.
        spec: the catalogue's row, for the lines of slowdown temperature and power limit.
        points: how many a curve may have.
    """
    accents = _accents(soak, host)
    start, span = soak.span[0], (soak.span[1] - soak.span[0]) or 1.0
    limits = {
        "temperature_c": (spec.temperature_c.slowdown, "slows down at") if spec and spec.temperature_c else None,
        "power_w": (spec.power.default_w, "limit") if spec else None,
    }
    panels = []
    size = max(1, math.ceil(soak.samples / points))
    xs = {g.index: _xs(g, size, start, WIDTH / span) for g in soak.gpus}
    for key, title, unit, said, aggregate in _PANELS:
        drawn = [(g.index, xs[g.index], _buckets(g.series[key], size, aggregate)) for g in soak.gpus if key in g.series]
        panels.append(_panel(title, unit, said, drawn, limits.get(key), accents))
    return Plot(
        tuple(panels),
        _times(start, span),
        tuple(_lane(g, start, span) for g in soak.gpus if g.slowdowns),
        tuple(sorted(accents.items())),
        soak.samples,
        points,
    )


def _accents(soak: Soak, host: Host) -> dict[int, int]:
    accused = {gpu_index(s) for e in host.entries if e.status in ABOVE_OK for s in e.subjects}
    chosen = [g.index for g in soak.gpus if g.slowdowns] + [g.index for g in soak.gpus if g.index in accused]
    return {index: 1 + i % _ACCENTS for i, index in enumerate(dict.fromkeys(chosen))}


def _xs(gpu: GpuSoak, size: int, start: float, scale: float) -> list[int]:
    """Return where each bucket of `size` samples lies, of 1000."""
    seconds, last = gpu.seconds, len(gpu.seconds) - 1
    return [round((seconds[min(i + size // 2, last)] - start) * scale) for i in range(0, last + 1, size)]


def _buckets(values: Series, size: int, aggregate: Aggregate) -> list[float | None]:
    """Return one value for every `size` samples; None where none of them was measured."""
    if None not in values:
        numbers = cast("Sequence[float]", values)
        rest = len(numbers) % size
        whole = zip(*[iter(numbers)] * size, strict=False)  # size at a time, from one iterator
        return [*map(aggregate, whole), *([aggregate(numbers[-rest:])] if rest else [])]
    parts = [known(values[i : i + size]) for i in range(0, len(values), size)]
    return [aggregate(part) if part else None for part in parts]


def _panel(
    title: str,
    unit: str,
    said: str,
    drawn: Sequence[tuple[int, list[int], list[float | None]]],
    limit: tuple[float | None, str] | None,
    accents: dict[int, int],
) -> Panel:
    values = [v for _, _, line in drawn for v in line if v is not None]
    if not values:
        return Panel(title, unit, said)
    low, high = min(values), max(values)
    edge = limit[0] if limit else None
    # The limit is drawn where the curves come near it: further off it would only flatten them.
    near = edge is not None and low - (high - low) <= edge <= high + max(high - low, 0.25 * abs(high))
    if edge is not None and near:
        low, high = min(low, edge), max(high, edge)
    wanted = _LEAST_SPAN * max(abs(low), abs(high))
    if high - low < wanted:  # jitter of one clock step is not to look like a collapse
        middle = (low + high) / 2
        low, high = middle - wanted / 2, middle + wanted / 2
    ticks = round_ticks(low, high)
    bottom, top = min(low, ticks[0]), max(high, ticks[-1])
    scale = HEIGHT / (top - bottom)

    def percent(value: float) -> float:
        return round(100 * (top - value) / (top - bottom), 1)

    curves = []
    for gpu, xs, line in drawn:
        path = _path(xs, [round((top - v) * scale) if v is not None else None for v in line])
        last = next((v for v in reversed(line) if v is not None), None)
        if path and last is not None:
            curves.append(Curve(gpu, path, accents.get(gpu, 0), percent(last)))
    curves.sort(key=lambda c: c.accent > 0)  # what stands out is drawn last, above the others
    return Panel(
        title,
        unit,
        said,
        tuple(curves),
        tuple(Tick(percent(t), f"{t:g}") for t in ticks),
        Tick(percent(edge), f"{limit[1]} {edge:g} {unit}") if limit and edge is not None and near else None,
    )


def _path(xs: Sequence[int], ys: Sequence[int | None]) -> str:
    """Return SVG path data; what was not measured breaks the line."""
    if None not in ys:
        return "M" + " ".join(map("%d %d".__mod__, zip(xs, ys, strict=True)))
    parts: list[str] = []
    before: int | None = None
    for x, y in zip(xs, ys, strict=True):
        if y is not None:
            parts.append(f"{'M' if before is None else ' '}{x} {y}")
        before = y
    return "".join(parts)


def round_ticks(low: float, high: float) -> list[float]:
    """Return two to five round values that enclose low and high."""
    if high - low < 1e-6 * max(abs(high), 1.0):
        low, high = low - max(1.0, 0.05 * abs(low)), high + max(1.0, 0.05 * abs(high))
    raw = (high - low) / 3
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def _times(start: float, span: float) -> tuple[Tick, ...]:
    minutes = span / 60
    unit, length = (60.0, "min") if minutes >= 3 else (1.0, "s")
    total = span / unit
    raw = total / 4
    step = next((s for s in (1, 2, 5, 10, 15, 20, 30, 60, 120, 240, 600, 1440) if s >= raw), 0) or math.ceil(raw)
    count = int(min(total // step, 12))
    marks = [Tick(round(100 * i * step / total, 1), f"{i * step:g}") for i in range(count + 1)]
    if marks[-1].at > 96:
        marks[-1] = Tick(marks[-1].at, f"{marks[-1].label} {length}")
    else:
        marks.append(Tick(100.0, f"{total:.0f} {length}"))
    return tuple(m for i, m in enumerate(marks) if i == len(marks) - 1 or m.at < 90)


def _lane(gpu: GpuSoak, start: float, span: float) -> Lane:
    found = []
    for part in gpu.slowdowns[:200]:
        left = 100 * (part.start - start) / span
        width = max(100 * (part.end - part.start) / span, 0.3)
        found.append((round(left, 2), round(min(width, 100 - left), 2), ", ".join(part.reasons)))
    return Lane(gpu.index, tuple(found))
