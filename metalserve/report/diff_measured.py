"""Measurements of two reports of one host: which fell further than measuring twice would let them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, Literal

from metalserve.report.figures import HIGHER_IS_BETTER, Figure, backend, figures, pair_figures, soak_seconds
from metalserve.report.model import Host

Found = tuple[Literal["worse", "better", "other"], str, str, str, str]
"""Way, what, before, after, tolerance in words."""

TOLERANCES: Final[Mapping[str, float]] = {
    "bandwidth": 5.0,
    "storage": 10.0,
    "throughput": 3.0,
    "seconds": 10.0,
    "temperature": 5.0,
}
"""By kind, in percent; temperature in degrees C. Bandwidth: the warning band of Azure/azurehpc-health-checks
(threshold x 1.05, read 2026-11). The others are guessed (2026-11) and wait for measured spread."""

_SOAKS_ALIKE: Final = 2.0
"""A soak more than twice as long heats further: temperatures of such two are not compared (guessed)."""


def measured_changes(
    was: Host, now: Host, tolerances: Mapping[str, float], notes: list[tuple[str, str]]
) -> Iterator[Found]:
    """Return the measurements that moved beyond their tolerance; why some are not compared goes to `notes`."""
    if not was.measurements:
        return
    before, after = figures(was), figures(now)
    if before and not after:
        yield "other", "measurements", f"{len(before)} figures", "not measured", ""
        return
    skipped = _not_comparable(was, now, notes)
    by_name = {_key(f): f for f in after}
    gone = []
    for figure in before:
        later = by_name.get(_key(figure))
        if figure.kind in skipped or ("soak" in skipped and figure.group.endswith("soak")):
            continue
        if later is None:
            gone.append(figure.name)
        else:
            yield from _moved(figure.name if figure.name == later.name else figure.group, figure, later, tolerances)
    if gone:
        names = ", ".join(gone[:4]) + (f" and {len(gone) - 4} more" if len(gone) > 4 else "")
        yield "other", names, "measured", "not measured", ""
    if "bandwidth" not in skipped:
        yield from _slower_pairs(was, now, tolerances["bandwidth"])


def _key(figure: Figure) -> str:
    # The slowest pair is compared with the slowest pair, whichever it is.
    return "slowest pair" if figure.group == "slowest pair" else figure.name


def _not_comparable(was: Host, now: Host, notes: list[tuple[str, str]]) -> set[str]:
    """Return the parts whose figures are not compared: `bandwidth`, `soak`."""
    skipped: set[str] = set()
    old, new = backend(was), backend(now)
    if old and new and old != new:
        notes.append((now.name, f"bandwidth was measured with {old} and then with {new}: not compared"))
        skipped.add("bandwidth")
    a, b = soak_seconds(was), soak_seconds(now)
    if a and b and max(a, b) > _SOAKS_ALIKE * min(a, b):
        words = f"the soaks took {a:.0f} s and {b:.0f} s: temperatures and throughput are not compared"
        notes.append((now.name, words))
        skipped.add("soak")
    return skipped


def _moved(name: str, before: Figure, after: Figure, tolerances: Mapping[str, float]) -> Iterator[Found]:
    tolerance = tolerances[before.kind]
    gain = after.value - before.value if HIGHER_IS_BETTER[before.kind] else before.value - after.value
    if before.kind == "temperature":
        allowed, words = tolerance, f"tolerance {tolerance:g} °C"
    else:
        allowed, words = abs(before.value) * tolerance / 100, f"tolerance {tolerance:g} %"
    if abs(gain) > allowed:
        if before.kind != "temperature" and before.value:
            words = f"{100 * (after.value - before.value) / abs(before.value):+.1f} %, {words}"
        yield ("better" if gain > 0 else "worse"), name, _value(before), _value(after), words


def _slower_pairs(was: Host, now: Host, tolerance: float) -> Iterator[Found]:
    before, after = pair_figures(was), pair_figures(now)
    fell = {n: after[n] / a for n, a in before.items() if a > 0 and n in after and after[n] < a * (1 - tolerance / 100)}
    if not fell:
        return
    worst = min(fell, key=lambda n: fell[n])
    others = f", and {len(fell) - 1} more of {len(before)} pairs" if len(fell) > 1 else ""
    note = f"{100 * (fell[worst] - 1):+.1f} %, tolerance {tolerance:g} %"
    yield "worse", f"pair {worst}{others}", f"{before[worst]:.1f} GB/s", f"{after[worst]:.1f} GB/s", note


def _value(figure: Figure) -> str:
    return f"{figure.value:.4g} {figure.unit}"
