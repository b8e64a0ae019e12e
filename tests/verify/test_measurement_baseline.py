"""What got worse since acceptance, and the odd host of a fleet."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from metalserve.errors import MetalserveError
from metalserve.verify.baseline import accept, acceptable, check_fleet, compare, figures, load_baseline, save_baseline
from metalserve.verify.finding import Finding
from metalserve.verify.measurement import Measurement
from metalserve.verify.measurement_rules import inconclusive
from tests.verify.measured import gpu, measurement, nvlink

UUIDS = ("GPU-1", "GPU-2")


def host(busbw: float = 478.0, rate: float = 700.0, heat: float = 60.0, drive: float = 6.7) -> Measurement:
    gpus = [gpu(n, [rate] * 20, heat=[heat] * 20) for n in range(2)]
    return measurement(nvlink=nvlink(8, busbw), soak=gpus, drive=drive)


def test_figures_are_those_of_the_gpus_alone() -> None:
    assert figures(host()) == {
        "busbw": 478, "drive": 6.7, "rate.0": 700, "heat.0": 60, "rate.1": 700, "heat.1": 60,
    }  # fmt: skip
    stopped = measurement(soak=[gpu(0, [1.0])], stopped="SIGTERM", drive=None)
    assert figures(stopped) == {}
    on_cpu = measurement(nvlink=nvlink(2, 1.0, backend="gloo"), drive=None)
    assert figures(on_cpu) == {}


@pytest.mark.parametrize(
    ("today", "status", "words"),
    [
        (host(), "ok", "6 figures are not worse"),
        (host(busbw=470, rate=690, drive=6.5), "ok", "not worse"),
        (host(busbw=600, rate=800, heat=40), "ok", "not worse"),
        (host(busbw=440), "warn", "440 GB/s (-7.9 %)"),
        (host(busbw=400), "fail", "400 GB/s (-16.3 %)"),
        (host(heat=71), "warn", "71 C"),
        (host(drive=1.0), "warn", "1 GB/s"),
    ],
)
def test_worse_than_accepted(today: Measurement, status: str, words: str) -> None:
    findings = compare(today, accept(host(), UUIDS), UUIDS, "reports/baselines/h.json")
    assert {f.status for f in findings} == {status}
    assert words in findings[0].observed
    if status != "ok":
        assert "reports/baselines/h.json" in findings[0].remedy


def test_other_gpus_or_a_simulation_are_not_compared() -> None:
    kept = accept(host(), UUIDS)
    (found,) = compare(host(busbw=100), kept, ("GPU-1", "GPU-9"), "where")
    assert "other GPUs" in found.observed and not found.failing
    simulated = host().model_copy(update={"simulated": True})
    (found,) = compare(simulated, kept, UUIDS, "where")
    assert "simulated" in found.observed


def test_only_a_measurement_without_bad_or_missing_findings_is_accepted() -> None:
    good = Finding("busbw", "ok", "host", "a", "b")
    assert acceptable([good, Finding("soak-margin", "warn", "GPU 1", "a", "b")])
    assert not acceptable([good, Finding("busbw", "fail", "host", "a", "b")])
    assert not acceptable([good, inconclusive("soak", "host", "a", "why", "do")])


def test_a_baseline_is_kept_whole_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "baselines" / "h.json"
    assert load_baseline(path) is None
    kept = accept(host(), UUIDS)
    save_baseline(path, kept)
    assert load_baseline(path) == kept
    assert [p.name for p in path.parent.iterdir()] == ["h.json"] and path.stat().st_mode & 0o077 == 0
    for damage in ("{", json.dumps({"started": 7})):
        path.write_text(damage)
        with pytest.raises(MetalserveError, match=r"h\.json"):
            load_baseline(path)


def test_the_odd_host_of_its_kind_is_named() -> None:
    fleet = {f"h{n}": ("8 x h100-sxm", host(busbw=475.0 + n)) for n in range(5)}
    fleet["slow"] = ("8 x h100-sxm", host(busbw=400.0, heat=85.0))
    fleet["other"] = ("4 x l40s", host(busbw=5.0))
    told = {name: check_fleet(name, fleet) for name in fleet}
    assert {name for name, findings in told.items() if findings} == {"slow"}
    assert [f.status for f in told["slow"]] == ["warn", "warn"]
    assert "400 GB/s" in told["slow"][0].observed and "85 C" in told["slow"][1].observed


def test_three_hosts_are_too_few_to_tell_which_is_odd() -> None:
    fleet = {f"h{n}": ("kind", host(busbw=b)) for n, b in enumerate((478.0, 477.0, 300.0))}
    assert [check_fleet(name, fleet) for name in fleet] == [[], [], []]
