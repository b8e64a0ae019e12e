"""What was measured, as figures with names: for tables, and to be compared between reports."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from metalserve.report.identity import gpu_spec, healthy_busbw, nominal_pair_gb_s, usual
from metalserve.report.links import pair_rates, pairs
from metalserve.report.model import Host
from metalserve.report.soak import Soak, soak_of
from metalserve.report.values import flag, items, line, mapping, mappings, number, whole

Kind = Literal["bandwidth", "storage", "throughput", "temperature", "seconds"]

HIGHER_IS_BETTER: Final[Mapping[Kind, bool]] = {
    "bandwidth": True,
    "storage": True,
    "throughput": True,
    "temperature": False,
    "seconds": False,
}


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure.

    Attributes:
        name: stable, the same in every report ("all-reduce, 8 GPUs").
        unit: of `value`.
        kind: decides which way is better, and the tolerance of a comparison.
        expected: what it is held against, in words; "" where nothing is known.
        low: whether it is below what the catalogue calls an alarm.
        source: where the expectation comes from.
    """

    name: str
    value: float
    unit: str
    kind: Kind
    expected: str = ""
    low: bool = False
    source: str = ""
    group: str = ""


def figures(host: Host, soak: Soak | None = None) -> list[Figure]:
    """Return everything that was measured on a host, in the order of a table.

    Args:
        host: of a report.
        soak: its soak, where the caller has read it already.
    """
    nvlink = mapping(host.measurements.get("nvlink"))
    found = _all_reduce(host, nvlink)
    found += _pairs(host)
    control = number(mapping(nvlink.get("control")).get("p2p_off_busbw_gb_s"))
    if control is not None:
        found.append(
            Figure("all-reduce with P2P off (control)", control, "GB/s", "bandwidth", "well below the figure above")
        )
    found += _soak(soak or soak_of(host))
    storage = mapping(host.measurements.get("storage"))
    for key, name, unit, kind in _STORAGE:
        value = number(storage.get(key))
        if value is not None:
            found.append(Figure(name, value, unit, kind))
    return found


_STORAGE: Final[tuple[tuple[str, str, str, Kind], ...]] = (
    ("read_gb_s", "drive, sequential read", "GB/s", "storage"),
    ("model_load_s", "loading the model from it", "s", "seconds"),
    ("temperature_end_c", "drive, temperature at the end", "°C", "temperature"),
)


def sweep(host: Host) -> list[tuple[int, float, float]]:
    """Return the all-reduce over most GPUs by size: (GPUs, bytes, GB/s bus bandwidth), by size."""
    rows = _rows(mapping(host.measurements.get("nvlink")))
    most = max((gpus for gpus, _, _ in rows), default=0)
    return sorted((row for row in rows if row[0] == most), key=lambda row: row[1])


def backend(host: Host) -> str:
    """Return how the NVLink probe ran, in words; "" where it did not."""
    nvlink = mapping(host.measurements.get("nvlink"))
    name = line(nvlink.get("backend"))
    if not name:
        return ""
    nvls = flag(nvlink.get("nvls"))
    return name if nvls is None else f"{name}, NVLS {'on' if nvls else 'off'}"


def troubles(host: Host) -> list[str]:
    """Return what the probes say went wrong while they measured."""
    why = line(host.measurements.get("skipped"))
    said = [f"nothing was measured: {why}"] if why else []
    for name in ("nvlink", "soak", "storage"):
        part = mapping(host.measurements.get(name))
        said += [f"{name}: {words}" for words in (line(part.get("error")), line(part.get("note"))) if words]
        if part.get("backend") == "cpu":
            said.append(f"{name}: the load ran on the CPU: it says nothing about GPUs")
        wrong = number(part.get("wrong"))
        if wrong:
            said.append(f"{name}: {wrong:g} wrong results: data was damaged on its way between GPUs")
    stopped = line(mapping(host.measurements.get("soak")).get("stopped"))
    return said + ([f"soak: stopped early: {stopped}"] if stopped else [])


def _rows(nvlink: Mapping[str, Any]) -> list[tuple[int, float, float]]:
    found = []
    for row in mappings(nvlink.get("all_reduce")):
        size, rate = number(row.get("size_bytes")), number(row.get("busbw_gb_s"))
        gpus = len(items(row.get("gpus"))) or whole(row.get("gpus")) or 0
        if gpus and rate is not None:
            found.append((gpus, size or 0.0, rate))
    return found


def _all_reduce(host: Host, nvlink: Mapping[str, Any]) -> list[Figure]:
    spec = gpu_spec(host)
    largest: dict[int, tuple[float, float]] = {}
    for gpus, size, rate in _rows(nvlink):
        largest[gpus] = max(largest.get(gpus, (size, rate)), (size, rate))
    found = []
    for gpus, (_, rate) in sorted(largest.items(), reverse=True):
        row = healthy_busbw(spec, gpus) if spec and nvlink.get("backend") != "gloo" else None
        words, floor = "", None
        if row is not None:
            floor = row.floor
            healthy = row.measured_ring if nvlink.get("nvls") is False and row.measured_ring else row.measured
            if healthy == row.measured_ring and healthy and floor and floor > healthy:
                floor = None  # the alarm figure is of NVLS; with NVLS off no healthy node reaches it
            parts = [f"about {healthy:g} when healthy" if healthy else "", f"alarm below {floor:g}" if floor else ""]
            words = ", ".join(p for p in parts if p)
        source = row.source if row else ""
        low = floor is not None and rate < floor
        name = f"all-reduce, {gpus} GPUs, bus bandwidth"
        found.append(Figure(name, rate, "GB/s", "bandwidth", words, low, source))
    return found


def _pairs(host: Host) -> list[Figure]:
    rates = pair_rates(host)
    if not rates:
        return []
    spec, kinds = gpu_spec(host), pairs(host.hardware)
    found = []
    slow = min(rates, key=lambda pair: (rates[pair], pair))

    def nominal(kind: str) -> str:
        rate = nominal_pair_gb_s(spec, kind) if spec else None
        return f"{kind}: {rate:g} nominal each way" if rate else ""

    most = usual(Counter(kinds[pair] for pair in rates if pair in kinds))
    if len(rates) > 2:
        median = statistics.median(rates.values())
        found.append(Figure("pairs, median, one way", median, "GB/s", "bandwidth", nominal(most)))
    # A pair that lost links is held against its peers' class, not against what it has left.
    kind = most if kinds.get(slow, "").startswith("NV") else kinds.get(slow, "")
    name = f"slowest pair (GPU {slow[0]} to {slow[1]}), one way"
    found.append(Figure(name, rates[slow], "GB/s", "bandwidth", nominal(kind), group="slowest pair"))
    return found


def _soak(soak: Soak | None) -> list[Figure]:
    if soak is None:
        return []
    found = []
    for gpu in soak.gpus:
        if gpu.end_tflops is not None:
            name = f"GPU {gpu.index}, throughput at the end of the soak"
            found.append(
                Figure(name, gpu.end_tflops, "TFLOPS", "throughput", group="throughput at the end of the soak")
            )
    for gpu in soak.gpus:
        if gpu.temperature_max_c is not None:
            name = f"GPU {gpu.index}, hottest in the soak"
            found.append(Figure(name, gpu.temperature_max_c, "°C", "temperature", group="hottest in the soak"))
    return found


def soak_seconds(host: Host) -> float | None:
    """Return how long the soak of a host was, s, or None."""
    return number(mapping(host.measurements.get("soak")).get("seconds"))


def pair_figures(host: Host) -> dict[str, float]:
    """Return the GB/s of each pair by name ("GPU 0 to 3")."""
    return {f"GPU {a} to {b}": rate for (a, b), rate in sorted(pair_rates(host).items())}


def gpu_count(host: Host) -> int | None:
    """Return how many GPUs a host has, or None where they were not read."""
    rows = mappings(host.hardware.get("gpus")) or mappings(host.hardware.get("pci_gpus"))
    return len(rows) or None
