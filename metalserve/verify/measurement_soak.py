"""Judges a soak: does a GPU lose speed under load, do heat or the power brake slow it, is one unlike the rest?

Pure. The power cap (0x4) is what a healthy GPU at full load shows, and never counts by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import median

from metalserve.verify.finding import Finding, Status
from metalserve.verify.health import BAD_REASONS
from metalserve.verify.measurement import Soak, SoakGpu
from metalserve.verify.measurement_rules import (
    BOOST_S,
    DRIFT_FAIL_PERCENT,
    DRIFT_WARN_PERCENT,
    HEAT_FLOOR_C,
    MARGIN_C,
    NVML,
    OUTLIER,
    RATE_FLOOR,
    WARM_UP_S,
    deviations,
    inconclusive,
)

FEWEST = 4
"""Points after warm-up below which nothing is said about drift."""

_HEAT = "fans, blanking panels, air path and room; the GPU's seating and thermal paste when its peers are cool"
_OUTSIDE = ("SIGTERM", "SIGINT", "it was stopped")


def drift_percent(gpu: SoakGpu) -> float | None:
    """Return the rate at the end against the start in percent, negative when it fell; None when too short to tell.

    Medians of the first and the last tenth after warm-up, so that no single second decides.
    """
    rates = _steady(gpu, gpu.tflops)
    if len(rates) < FEWEST:
        return None
    window = max(2, len(rates) // 10)
    first, last = median(rates[:window]), median(rates[-window:])
    return round((last - first) / first * 100, 2) if first > 0 else None


def _steady(gpu: SoakGpu, values: Sequence[float | None]) -> list[float]:
    """Return the values after warm-up, those that were read."""
    if not gpu.t_s:
        return []
    whole = gpu.t_s[-1]
    begin = min(WARM_UP_S.value, max(whole / 5, BOOST_S.value if whole >= 2.5 * BOOST_S.value else 0.0))
    return [value for t, value in zip(gpu.t_s, values, strict=True) if t > begin and value is not None]


def with_drift(soak: Soak) -> Soak:
    """Return the soak with each GPU's drift filled in."""
    return soak.model_copy(
        update={"gpus": tuple(g.model_copy(update={"drift_percent": drift_percent(g)}) for g in soak.gpus)}
    )


def check_soak(soak: Soak, *, slowdown_c: float | None = None) -> list[Finding]:
    """Judge a soak.

    Args:
        soak: what the probe said.
        slowdown_c: temperature at which this GPU slows down, degrees C, from the catalogue.
    """
    if soak.error:
        return [inconclusive("soak", "host", "sustained load", f"the probe failed: {soak.error}", "see the error")]
    if soak.backend == "cpu":
        return [
            inconclusive("soak", "host", "load on the GPUs", "it ran on the CPU", "see that PyTorch finds the GPUs")
        ]
    findings = [_whole(soak)]
    for gpu in soak.gpus:
        findings += [_drift(gpu), *_reasons(gpu, soak), *_margin(gpu, slowdown_c)]
    findings += _peers(soak, "soak-rate", lambda g: _late(g, g.tflops), "TFLOP/s", slower=True)
    findings += _peers(soak, "soak-heat", lambda g: _late(g, g.temperature_c), "C", slower=False)
    return findings


def _subject(gpu: SoakGpu) -> str:
    return f"GPU {gpu.index}"


def _whole(soak: Soak) -> Finding:
    wanted = f"load on all GPUs for {soak.asked_seconds or soak.seconds:g} s"
    told = f"{soak.seconds:g} s on {len(soak.gpus)} GPU(s)"
    if soak.stopped is None:
        return Finding("soak", "ok", "host", wanted, told, source="probe soak.py")
    if soak.stopped.startswith(_OUTSIDE):
        return inconclusive(
            "soak", "host", wanted, f"stopped from outside after {told}: {soak.stopped}", "measure again"
        )
    if soak.stopped.startswith("error: PyTorch"):
        return inconclusive("soak", "host", wanted, soak.stopped, "see that the container finds the GPUs")
    return Finding(
        "soak",
        "fail",
        "host",
        wanted,
        f"ended after {told}: {soak.stopped}",
        "a GPU that fails under load fails while it serves",
        "read `dmesg | grep -e NVRM -e Xid`; take the GPU that is named out of service, then its maker",
        "probe soak.py",
    )


def _drift(gpu: SoakGpu) -> Finding:
    drift = drift_percent(gpu)
    wanted = f"no more than {-DRIFT_FAIL_PERCENT.value:g} % slower at the end than at the start"
    if drift is None:
        why = f"{len(gpu.t_s)} points are too few to tell the end from the start"
        return inconclusive("soak-drift", _subject(gpu), wanted, why, "let the soak last longer (soak_seconds)")
    status: Status = "ok"
    if drift < DRIFT_WARN_PERCENT.value:
        status = "warn"
    if drift < DRIFT_FAIL_PERCENT.value:
        status = "fail"
    rates = _steady(gpu, gpu.tflops)
    return Finding(
        "soak-drift",
        status,
        _subject(gpu),
        wanted,
        f"{drift:+.1f} % ({median(rates):.4g} TFLOP/s in the middle)",
        "" if status == "ok" else "it serves slower after minutes of load than a short test shows",
        "" if status == "ok" else f"cooling: {_HEAT}",
        (DRIFT_WARN_PERCENT if status == "warn" else DRIFT_FAIL_PERCENT).in_words,
    )


def _reasons(gpu: SoakGpu, soak: Soak) -> Iterator[Finding]:
    wanted = "under load no slowdown by heat or power brake; the power cap is normal"
    seen = [names for names in gpu.reasons if names is not None]
    if not seen:
        why = f"clocks-event reasons were not read ({soak.telemetry})"
        yield inconclusive(
            "soak-throttle", _subject(gpu), wanted, why, "see that nvidia-smi works in the container", NVML
        )
        return
    bad = {name: sum(name in names for names in seen) for name in BAD_REASONS}
    if not any(bad.values()):
        capped = sum("sw_power_cap" in names for names in seen)
        told = f"none in {len(seen)} points" + (f" (power cap in {capped})" if capped else "")
        yield Finding("soak-throttle", "ok", _subject(gpu), wanted, told, source=NVML)
        return
    told = ", ".join(f"{name} in {n} of {len(seen)} points" for name, n in bad.items() if n)
    heat = [t for t in gpu.temperature_c if t is not None]
    brake = bad["hw_power_brake_slowdown"] and not bad["hw_thermal_slowdown"]
    yield Finding(
        "soak-throttle",
        "fail",
        _subject(gpu),
        wanted,
        told + (f"; up to {max(heat):g} C" if heat else ""),
        "its clocks fall, and with them every engine that it is a part of",
        "power supplies, their cables and the rack's power limit" if brake else f"cooling: {_HEAT}",
        NVML,
    )


def _margin(gpu: SoakGpu, slowdown_c: float | None) -> Iterator[Finding]:
    margins = [m for m in gpu.tlimit_margin_c if m is not None]
    heat = [t for t in gpu.temperature_c if t is not None]
    if margins:
        least, how = min(margins), "T.Limit margin"
    elif heat and slowdown_c is not None:
        least, how = slowdown_c - max(heat), f"to its slowdown at {slowdown_c:g} C"
    else:
        return  # old drivers and cards print neither; the reasons above still tell
    hot = least < MARGIN_C.value
    yield Finding(
        "soak-margin",
        "warn" if hot else "ok",
        _subject(gpu),
        f"at least {MARGIN_C.value:g} C left under load",
        f"{least:g} C left ({how})" + (f", up to {max(heat):g} C" if heat else ""),
        "a warmer day slows it down" if hot else "",
        f"cooling: {_HEAT}" if hot else "",
        MARGIN_C.in_words,
    )


def _late(gpu: SoakGpu, values: Sequence[float | None]) -> float | None:
    """Return the median of the second half: what the GPU does once it is warm."""
    rest = _steady(gpu, values)
    return median(rest[len(rest) // 2 :]) if rest else None


def _peers(
    soak: Soak, check: str, figure: Callable[[SoakGpu], float | None], unit: str, *, slower: bool
) -> Iterator[Finding]:
    """Compare the GPUs of the node with each other: the hot slot, the bad fan, the slow card."""
    told = [(gpu, value) for gpu in soak.gpus if (value := figure(gpu)) is not None]
    if len(told) < 3:  # of two that differ nobody can say which one is odd
        return
    values = [value for _, value in told]
    middle = median(values)
    floor = middle * RATE_FLOOR.value if slower else HEAT_FLOOR_C.value
    odd = [
        (gpu, value)
        for (gpu, value), far in zip(told, deviations(values, max(floor, 1e-9)), strict=True)
        if (far < -OUTLIER.value if slower else far > OUTLIER.value)
    ]
    for gpu, value in odd:
        yield Finding(
            check,
            "warn",
            _subject(gpu),
            f"as its peers, about {middle:.4g} {unit}",
            f"{value:.4g} {unit}",
            "an engine over several GPUs waits for its slowest"
            if slower
            else "its slot or cooler is worse than the rest",
            f"cooling and power of this slot: {_HEAT}",
            OUTLIER.in_words,
        )
    if not odd:
        low, high = min(values), max(values)
        yield Finding(
            check, "ok", "host", "GPUs like each other", f"{low:.4g} to {high:.4g} {unit}", source=OUTLIER.in_words
        )
