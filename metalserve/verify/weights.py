"""Is the model on a host what was proved, and when was every byte last read? Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from metalserve.verify.finding import Finding
from metalserve.weights.manifest import Manifest
from metalserve.weights.progress import duration
from metalserve.weights.store import StoreState

_PERIODS: Final = {"daily": 86400, "weekly": 7 * 86400, "monthly": 31 * 86400}
_LATE: Final = 3
"""Periods without a full check after which somebody should look why there was none (guessed: hosts are off)."""


@dataclass(frozen=True, slots=True)
class Times:
    """When the bytes of a published model were read; seconds since 1970 by the host's clock, 0: not known.

    Attributes:
        hashed_at: as they came.
        checked_at: all of them again, and found right.
        now: the host's clock.
    """

    hashed_at: float
    checked_at: float
    now: float


def check_weights(
    state: StoreState, manifest: Manifest, published: str, full_check: str, times: Times
) -> tuple[Finding, ...]:
    """Return what is to be said of a model on a host.

    Args:
        state: what lies there.
        manifest: what should.
        published: its directory.
        full_check: how often every byte is to be read: `daily`, `weekly`, `monthly` or `never`.
        times: when its bytes were read.
    """
    subject = f"{manifest.repository}@{manifest.revision[:12]}"
    right = state.state == "published"
    there = Finding(
        check="published",
        status="ok" if right else "fail",
        subject=subject,
        expected=f"{len(manifest.files)} files, {manifest.total} bytes, as they were hashed",
        observed=f"{state.state}: {state.what or f'{state.bytes_there} bytes'}",
        impact="" if right else "no engine may be started on it",
        remedy="" if right else "run the weights role again: it fetches what is wrong",
        source=published,
    )
    return (there, _verified(subject, published, full_check, times)) if right else (there,)


def _verified(subject: str, published: str, full_check: str, times: Times) -> Finding:
    last = max(times.checked_at, times.hashed_at)
    period = _PERIODS.get(full_check)
    age = times.now - last
    late = period is not None and last > 0 and age > _LATE * period
    if not last:
        words = "never since it was published"
    else:
        what = "read and hashed again" if times.checked_at >= times.hashed_at else "hashed while it came"
        words = f"{what} {duration(age)} ago" if age >= 0 else f"{what}, by a clock that was ahead of today's"
    return Finding(
        check="verified",
        status="warn" if late else "ok" if last else "skipped",
        subject=subject,
        expected="every byte read and hashed again" + (f" {full_check}" if period else ", when asked for"),
        observed=words,
        impact="what changed on the drive itself is found by the next full check only" if late or not last else "",
        remedy="metalserve weights verify --full; systemctl list-timers 'metalserve-weights-check@*'"
        if late or not last
        else "",
        source=published,
    )
