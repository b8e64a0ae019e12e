"""Soaks: a healthy one never fails, a falling one always does, and the power cap alone never counts."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metalserve.verify.finding import Finding
from metalserve.verify.measurement import Soak, SoakGpu
from metalserve.verify.measurement_soak import check_soak, drift_percent
from tests.verify.measured import gpu


def judged(*gpus: SoakGpu, stopped: str | None = None, backend: str = "cuda") -> list[Finding]:
    soak = Soak(backend=backend, seconds=600.0, asked_seconds=600.0, stopped=stopped, gpus=gpus)  # type: ignore[arg-type]
    return check_soak(soak, slowdown_c=89.0)


def statuses(findings: list[Finding], check: str) -> dict[str, str]:
    return {f.subject: f.status for f in findings if f.check == check}


def noisy(rate: float, points: int, noise: float, seed: int, fall: float = 0.0) -> list[float]:
    dice = random.Random(seed)
    return [rate * (1 - fall * k / max(points - 1, 1)) * (1 + dice.uniform(-noise, noise)) for k in range(points)]


@given(
    rate=st.floats(1, 2000),
    points=st.integers(5, 300),
    noise=st.floats(0, 0.02),
    seed=st.integers(0, 1000),
    count=st.integers(1, 8),
)
def test_a_healthy_series_never_fails(rate: float, points: int, noise: float, seed: int, count: int) -> None:
    gpus = [gpu(n, noisy(rate, points, noise, seed + n)) for n in range(count)]
    assert [str(f) for f in judged(*gpus) if f.failing] == []


@given(
    rate=st.floats(1, 2000),
    points=st.integers(6, 300),
    fall=st.floats(0.12, 0.9),
    noise=st.floats(0, 0.005),
    seed=st.integers(0, 1000),
)
def test_a_falling_series_always_fails(rate: float, points: int, fall: float, noise: float, seed: int) -> None:
    findings = judged(gpu(0, noisy(rate, points, noise, seed, fall)))
    assert statuses(findings, "soak-drift") == {"GPU 0": "fail"}


@given(
    points=st.integers(5, 60),
    extra=st.sets(st.sampled_from(["sw_power_cap", "gpu_idle", "applications_clocks_setting", "sync_boost"])),
)
def test_the_power_cap_alone_never_fails(points: int, extra: set[str]) -> None:
    findings = judged(gpu(0, [700.0] * points, reasons=["sw_power_cap", *extra]))
    assert [f for f in findings if f.status not in ("ok", "skipped")] == []


@pytest.mark.parametrize(
    "reason", ["hw_slowdown", "sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown"]
)
def test_heat_and_power_brake_fail_even_where_speed_holds(reason: str) -> None:
    findings = judged(gpu(0, [700.0] * 20), gpu(1, [700.0] * 20, reasons=["sw_power_cap", reason]))
    assert statuses(findings, "soak-throttle") == {"GPU 0": "ok", "GPU 1": "fail"}
    (bad,) = [f for f in findings if f.failing]
    assert reason in bad.observed and ("power supplies" in bad.remedy) == (reason == "hw_power_brake_slowdown")


def test_what_was_not_read_is_not_taken_for_good() -> None:
    findings = judged(gpu(0, [700.0] * 20, reasons=None, margin=None, heat=[60.0] * 20))
    (throttle,) = [f for f in findings if f.check == "soak-throttle"]
    assert throttle.status != "ok" and throttle.status == "inconclusive"
    (margin,) = [f for f in findings if f.check == "soak-margin"]
    assert "29 C left (to its slowdown at 89 C)" in margin.observed


def test_two_real_h100_at_their_power_cap_are_healthy() -> None:
    # medians of ten seconds, from the second on; read on 2026-11-25 at 699 W, 39 C at the start, 77 and 67 C at most
    first = [712, 682, 679, 678, 676, 673, 673, 673, 673, 674, 674, 675, 676, 676, 676, 677, 677, 677, 678, 678]
    second = [713, 682, 686, 686, 684, 684, 683, 683, 685, 684, 685, 685, 686, 686, 686, 689, 687, 686, 686, 688]
    margins = (7.0, 16.0)
    gpus = [gpu(n, rates, margin=margins[n], heat=[(77.0, 67.0)[n]] * 20) for n, rates in enumerate((first, second))]
    findings = judged(*gpus)
    assert {f.status for f in findings} == {"ok"}, [str(f) for f in findings]
    # a cold start of that shape, a point a second: it begins 6 % faster, and that is no drift
    cold = [725, 718, 712, 700, 690, 684, 683, 682, 682, 682, *[681] * 5, *[679] * 5, *[678] * 5]
    assert statuses(judged(gpu(0, cold, step=1.0)), "soak-drift") == {"GPU 0": "ok"}


def test_a_boost_in_the_first_minute_is_no_drift() -> None:
    boosted = [760.0] * 5 + [700.0] * 55
    assert drift_percent(gpu(0, boosted)) == 0


@pytest.mark.parametrize(("points", "known"), [(0, False), (1, False), (3, False), (4, True)])
def test_a_soak_too_short_to_tell_is_inconclusive(points: int, known: bool) -> None:
    series = gpu(0, [700.0] * points, step=1.0)
    assert (drift_percent(series) is not None) == known
    (drift,) = [f for f in judged(series) if f.check == "soak-drift"]
    assert (drift.status == "ok") == known and not drift.failing


@pytest.mark.parametrize(
    ("stopped", "fails"),
    [
        ("heat: GPU 3 at 90 C, limit 89 C, for 10 s", True),
        ("Xid: NVRM: Xid (PCI:0000:1b:00): 79", True),
        ("nvidia-smi: Unable to determine the device handle", True),
        ("error: GPU 2: a product differs from the first one of the same matrices", True),
        ("SIGTERM", False),
        ("error: PyTorch cannot be imported: No module named 'torch'", False),
    ],
)
def test_only_what_the_hardware_did_fails_a_soak_that_ended_early(stopped: str, fails: bool) -> None:
    (whole,) = [f for f in judged(gpu(0, [700.0] * 20), stopped=stopped) if f.check == "soak"]
    assert (whole.status == "fail") == fails
    assert stopped in whole.observed


def test_a_soak_on_the_cpu_proves_nothing() -> None:
    (only,) = judged(gpu(0, [0.1] * 20), backend="cpu")
    assert only.status == "inconclusive" and not only.failing


def test_the_hot_slot_and_the_slow_card_are_named() -> None:
    gpus = [gpu(n, [700.0 + n] * 20, heat=[60.0 + n % 3] * 20) for n in range(7)]
    gpus.append(gpu(7, [640.0] * 20, heat=[80.0] * 20))
    findings = judged(*gpus)
    assert statuses(findings, "soak-rate") == {"GPU 7": "warn"}
    assert statuses(findings, "soak-heat") == {"GPU 7": "warn"}


def test_gpus_that_are_nearly_alike_alarm_nobody() -> None:
    gpus = [gpu(n, [700.0] * 20) for n in range(7)] + [gpu(7, [699.0] * 20, heat=[61.0] * 20)]
    findings = judged(*gpus)
    assert statuses(findings, "soak-rate") == {"host": "ok"}
    assert statuses(findings, "soak-heat") == {"host": "ok"}
    # measured on healthy H100 hosts: 8 to 12 C between the GPUs at 699 W
    spread = [gpu(n, [700.0] * 20, heat=[55.0 + h] * 20) for n, h in enumerate((0, 2, 5, 6, 7, 9, 10, 12))]
    assert statuses(judged(*spread), "soak-heat") == {"host": "ok"}


def test_of_two_gpus_that_differ_nobody_can_say_which_is_odd() -> None:
    findings = judged(gpu(0, [700.0] * 20), gpu(1, [600.0] * 20))
    assert statuses(findings, "soak-rate") == {}
