"""The thermal soak of a host: what each GPU did, from its samples."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

from metalserve.report.model import Host
from metalserve.report.values import items, known, line, mapping, mappings, number, numbers, whole
from metalserve.verify.health import BAD_REASONS

POWER_CAP: Final = "sw_power_cap"
"""Mask 0x4: the GPU runs at its power limit, which is normal under load."""
_ENDS: Final = 0.1
"""Share of the samples that make "at the start" and "at the end"; guessed: 90 s of the default 15 minutes."""

Series = Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Slowdown:
    """A stretch of time in which a GPU was slowed down by heat or power brake.

    Attributes:
        start: s from the start of the soak.
        end: likewise.
        reasons: clocks-event reasons, as NVML names them.
    """

    start: float
    end: float
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GpuSoak:
    """One GPU in a soak; a figure is None where it was not measured.

    Attributes:
        seconds: time of each sample, s.
        series: `tflops`, `temperature_c`, `power_w`, `sm_mhz` -> values, as long as `seconds`; missing where empty.
        slowdowns: stretches with a reason of mask 0xE8.
        capped: share of the samples at the power cap, 0 to 1, or None.
        drift_percent: as the measurement says it.
    """

    index: int
    seconds: list[float]
    series: Mapping[str, Series]
    slowdowns: tuple[Slowdown, ...] = ()
    capped: float | None = None
    margin_min_c: float | None = None
    drift_percent: float | None = None
    start_tflops: float | None = None
    end_tflops: float | None = None
    temperature_max_c: float | None = None
    power_mean_w: float | None = None
    clock_min_mhz: float | None = None

    @property
    def slowed_s(self) -> float:
        """Seconds slowed down by heat or power brake."""
        return sum(s.end - s.start for s in self.slowdowns)

    @property
    def reasons(self) -> str:
        """The bad reasons that were seen."""
        return ", ".join(dict.fromkeys(r for s in self.slowdowns for r in s.reasons))


@dataclass(frozen=True, slots=True)
class Soak:
    """A soak with at least one sample."""

    gpus: tuple[GpuSoak, ...]
    seconds: float | None
    interval_s: float | None
    stopped: str
    samples: int
    span: tuple[float, float] = field(default=(0.0, 0.0))


def soak_of(host: Host) -> Soak | None:
    """Return the soak of a host, or None where there is none, or none with a sample."""
    found = mapping(host.measurements.get("soak"))
    gpus = [g for row in mappings(found.get("gpus")) if (g := _gpu(row)) is not None]
    if not gpus:
        return None
    return Soak(
        tuple(sorted(gpus, key=lambda g: g.index)),
        number(found.get("seconds")),
        number(found.get("interval_s")),
        line(found.get("stopped")),
        max(len(g.seconds) for g in gpus),
        (min(g.seconds[0] for g in gpus), max(g.seconds[-1] for g in gpus)),
    )


def _gpu(row: Mapping[str, Any]) -> GpuSoak | None:
    index, times = whole(row.get("index")), _series(row.get("t_s"))
    if index is None or not times:
        return None
    order: list[int] | None = None
    seconds = list(complete(times))
    if len(seconds) != len(times) or not all(map(operator.le, seconds, seconds[1:])):
        order = sorted((i for i, t in enumerate(times) if t is not None), key=lambda i: times[i] or 0)
        seconds = [t for i in order if (t := times[i]) is not None]
    if not seconds:
        return None
    series = {}
    for key in ("tflops", "temperature_c", "power_w", "sm_mhz"):
        values = _aligned(_series(row.get(key)), len(times), order)
        if values:
            series[key] = values
    reasons = items(row.get("reasons"))
    slowdowns, capped = _reasons(seconds, _aligned(reasons, len(times), order) if reasons else [])
    start, end = _ends(series.get("tflops", []))
    margins = complete(_series(row.get("tlimit_margin_c")))
    temperatures, powers = (complete(series.get(key, [])) for key in ("temperature_c", "power_w"))
    clocks = complete(series.get("sm_mhz", [])[int(len(seconds) * _ENDS) :])  # the first samples are the ramp up
    return GpuSoak(
        index,
        seconds,
        series,
        slowdowns,
        capped,
        margin_min_c=min(margins, default=None),
        drift_percent=number(row.get("drift_percent")),
        start_tflops=start,
        end_tflops=end,
        temperature_max_c=max(temperatures, default=None),
        power_mean_w=sum(powers) / len(powers) if powers else None,
        clock_min_mhz=min(clocks, default=None),
    )


def complete(values: Series) -> Sequence[float]:
    """Return the numbers that were measured; the series itself where none is missing."""
    return known(values) if None in values else cast("Sequence[float]", values)


def _series(value: Any) -> Series:
    # Nearly all lists hold numbers alone, and a fleet's report has millions of them: hypot looks at a whole list at
    # once, refuses what is no number, and is no smaller than the largest.
    if isinstance(value, list):
        try:
            if math.hypot(*value) < 1e15:
                return value
        except (TypeError, OverflowError):
            pass
    return [v if v is not None and abs(v) < 1e15 else None for v in numbers(value)]


def _aligned(values: Sequence[Any], length: int, order: list[int] | None) -> Sequence[Any]:
    """Return `values` in the order of time, cut or filled with None to the number of samples; [] where all are None."""
    if not values or (values[0] is None and all(v is None for v in values)):
        return []
    if len(values) == length and order is None:
        return values
    cut = [*values[:length], *[None] * (length - len(values))]
    return cut if order is None else [cut[i] for i in order]


def _ends(values: Series) -> tuple[float | None, float | None]:
    """Return the mean of the first and of the last tenth."""
    count = max(1, int(len(values) * _ENDS))
    first, last = known(values[:count]), known(values[-count:])
    return (sum(first) / len(first) if first else None), (sum(last) / len(last) if last else None)


def _reasons(seconds: list[float], samples: Sequence[Any]) -> tuple[tuple[Slowdown, ...], float | None]:
    if not samples:
        return (), None
    found: list[Slowdown] = []
    before: tuple[str, ...] = ()
    start, told, capped, at_cap, last = 0.0, 0, 0, False, object()
    for at, sample in zip(seconds, samples, strict=True):
        if sample != last:  # nearly all samples are as the one before
            last = sample
            names = [line(name) for name in items(sample)]
            at_cap, bad = POWER_CAP in names, tuple(name for name in names if name in BAD_REASONS)
            if bad != before:
                if before:
                    found.append(Slowdown(start, at, before))
                before, start = bad, at
        capped += at_cap
        told += sample is not None
    if before:
        found.append(Slowdown(start, seconds[-1], before))
    return tuple(found), capped / max(told, 1)
