"""A host's first accepted measurements, kept on the controller, and what got worse since; hosts against each other."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median

from metalserve.errors import MetalserveError
from metalserve.verify.finding import Finding, Status
from metalserve.verify.measurement import Baseline, Measurement, read_value
from metalserve.verify.measurement_rules import (
    BASELINE_FAIL,
    BASELINE_HEAT_C,
    BASELINE_WARN,
    HEAT_FLOOR_C,
    INCONCLUSIVE,
    OUTLIER,
    RATE_FLOOR,
    deviations,
)

FEWEST_HOSTS = 4
"""Hosts of one kind below which the odd one cannot be told (guessed, 2026-11: with three, one odd half is a third)."""

_UNITS = {"busbw": "GB/s", "rate": "TFLOP/s", "heat": "C", "drive": "GB/s"}
_WORDS = {
    "busbw": "all-reduce over all GPUs",
    "rate": "matrix rate under load",
    "heat": "heat under load",
    "drive": "read rate of the drive",
}


def figures(measurement: Measurement) -> dict[str, float]:
    """Return the figures that are compared: `busbw`, `drive`, and `rate.N` and `heat.N` of each GPU."""
    found: dict[str, float] = {}
    largest = measurement.nvlink.largest() if measurement.nvlink and measurement.nvlink.backend == "nccl" else None
    if largest is not None:
        found["busbw"] = largest.busbw_gb_s
    if measurement.storage and measurement.storage.read_gb_s is not None:
        found["drive"] = measurement.storage.read_gb_s
    if measurement.soak and measurement.soak.backend == "cuda" and measurement.soak.stopped is None:
        for gpu in measurement.soak.gpus:
            for name, series in (("rate", gpu.tflops), ("heat", gpu.temperature_c)):
                late = [v for v in series[len(series) // 2 :] if v is not None]
                if late:
                    found[f"{name}.{gpu.index}"] = round(median(late), 3)
    return found


def acceptable(findings: list[Finding]) -> bool:
    """Tell whether measurements with these findings may become a baseline: none failed, none is inconclusive."""
    return all(not f.failing and f.status != INCONCLUSIVE for f in findings)


def accept(measurement: Measurement, gpus: tuple[str, ...]) -> Baseline:
    """Return what is kept of a first accepted measurement; `gpus` are the UUIDs it was made on."""
    return Baseline(
        started=measurement.started, figures=figures(measurement), gpus=gpus, simulated=measurement.simulated
    )


def compare(measurement: Measurement, baseline: Baseline, gpus: tuple[str, ...], where: str) -> list[Finding]:
    """Say what is worse than at acceptance.

    Args:
        measurement: today's.
        baseline: the accepted one.
        gpus: UUIDs of today's GPUs.
        where: the baseline's file, for the remedy.
    """
    since = f"as accepted on {baseline.started[:10]}"
    again = f"when the change is meant, remove {where}: the next measurement is accepted anew"
    if baseline.simulated != measurement.simulated or (baseline.gpus and gpus and set(baseline.gpus) != set(gpus)):
        what = "other GPUs than then" if baseline.simulated == measurement.simulated else "simulated is not as then"
        return [Finding("baseline", INCONCLUSIVE, "host", since, what, "not comparable", again, where)]
    findings = []
    today = figures(measurement)
    for name, then in baseline.figures.items():
        now = today.get(name)
        status = _worse(name, then, now) if now is not None else "ok"
        if now is None or status == "ok":
            continue
        kind, _, gpu = name.partition(".")
        findings.append(
            Finding(
                "baseline",
                status,
                f"GPU {gpu}" if gpu else "host",
                f"{_WORDS[kind]} {since}: {then:.4g} {_UNITS[kind]}",
                f"{now:.4g} {_UNITS[kind]}" + ("" if kind == "heat" else f" ({(now / then - 1) * 100:+.1f} %)"),
                "it got worse since acceptance",
                f"find what changed (heat, links, driver, neighbours); {again}",
                (BASELINE_HEAT_C if kind == "heat" else BASELINE_FAIL if status == "fail" else BASELINE_WARN).in_words,
            )
        )
    compared = sum(name in today for name in baseline.figures)
    return findings or [Finding("baseline", "ok", "host", since, f"{compared} figures are not worse", source=where)]


def _worse(name: str, then: float, now: float) -> Status:
    if name.startswith("heat"):
        return "warn" if now - then >= BASELINE_HEAT_C.value else "ok"
    if then <= 0 or now >= then * (1 - BASELINE_WARN.value):
        return "ok"
    # A drive shares its host with the page cache and the model's own reads: its rate alone condemns nobody.
    return "warn" if now >= then * (1 - BASELINE_FAIL.value) or name == "drive" else "fail"


def check_fleet(name: str, fleet: Mapping[str, tuple[str, Measurement]]) -> list[Finding]:
    """Compare one host with the hosts of its kind that were measured in the same run.

    Args:
        name: the host.
        fleet: host -> (its kind, such as `8 x h100-sxm`; what was measured).
    """
    kind, own = fleet[name]
    peers = {host: _summary(m) for host, (k, m) in fleet.items() if k == kind and m.simulated == own.simulated}
    findings = []
    for figure in ("busbw", "rate", "heat", "drive"):
        told = {host: values[figure] for host, values in peers.items() if figure in values}
        if name not in told or len(told) < FEWEST_HOSTS:
            continue
        middle = median(told.values())
        floor = HEAT_FLOOR_C.value if figure == "heat" else middle * RATE_FLOOR.value
        far = dict(zip(told, deviations(list(told.values()), max(floor, 1e-9)), strict=True))[name]
        if far > OUTLIER.value if figure == "heat" else far < -OUTLIER.value:
            findings.append(
                Finding(
                    "fleet",
                    "warn",
                    "host",
                    f"{_WORDS[figure]} as its {len(told) - 1} peers ({kind}): about {middle:.4g} {_UNITS[figure]}",
                    f"{told[name]:.4g} {_UNITS[figure]}",
                    "it is the odd one of its kind",
                    "compare its rack, air, power, firmware and settings with its peers'",
                    OUTLIER.in_words,
                )
            )
    return findings


def _summary(measurement: Measurement) -> dict[str, float]:
    """Return one figure a host: the slowest GPU's rate, the hottest GPU's heat."""
    found = figures(measurement)
    summary = {key: value for key, value in found.items() if key in ("busbw", "drive")}
    rates = [v for k, v in found.items() if k.startswith("rate.")]
    heats = [v for k, v in found.items() if k.startswith("heat.")]
    return summary | ({"rate": min(rates)} if rates else {}) | ({"heat": max(heats)} if heats else {})


def load_baseline(path: Path) -> Baseline | None:
    """Return the baseline kept at `path`, or None when there is none.

    Raises:
        MetalserveError: the file is damaged.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        return read_value(Baseline, json.loads(text))
    except (ValueError, MetalserveError) as error:
        what = error.what if isinstance(error, MetalserveError) else str(error)
        raise MetalserveError(
            what, where=str(path), remedy="remove it: the next measurement is accepted anew"
        ) from error


def save_baseline(path: Path, baseline: Baseline) -> None:
    """Keep a baseline, whole or not at all; readable by its owner only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".baseline.")
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        json.dump(baseline.model_dump(mode="json"), stream, indent=1)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)
