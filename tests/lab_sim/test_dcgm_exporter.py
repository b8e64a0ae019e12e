"""The stand-in of NVIDIA's exporter: DCGM's names over the simulated GPUs, and the faults in force."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from metalserve.lab import faults
from metalserve.lab.sim import dcgm_exporter
from metalserve.monitoring.exporters import counters_text
from tests.lab_sim.machine import Machine

Make = Callable[[str], Machine]


def scrape(host: Machine, place: Path) -> dict[tuple[str, str], float]:
    """Return (metric, gpu) -> value."""
    counters = place / "counters.csv"
    counters.write_text(counters_text())
    text = dcgm_exporter.render(host.lab, dcgm_exporter.read_counters(str(counters)))
    assert text.startswith("# SIMULATED")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {(line.split("{")[0], line.split('gpu="')[1].split('"')[0]): float(line.split("} ")[1]) for line in lines}


def test_a_healthy_node(machine: Make, tmp_path: Path) -> None:
    host = machine("h100-sxm-8")
    host.ready()
    told = scrape(host, tmp_path)
    assert told["DCGM_FI_DEV_GPU_TEMP", "0"] == host.lab.profile["gpu"]["temperature"]["idle"]  # type: ignore[index]
    assert told["DCGM_FI_DEV_CLOCKS_EVENT_REASONS", "7"] == 1
    assert told["DCGM_FI_DEV_XID_ERRORS", "3"] == told["DCGM_FI_DEV_ROW_REMAP_PENDING", "3"] == 0
    assert len({name for name, _ in told}) == len(counters_text().splitlines()) - 1, "every field has a value"


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("thermal-throttle", "DCGM_FI_DEV_CLOCKS_EVENT_REASONS", 0x68),
        ("power-brake", "DCGM_FI_DEV_CLOCKS_EVENT_REASONS", 0x88),
        ("hw-slowdown", "DCGM_FI_DEV_CLOCKS_EVENT_REASONS", 0x8),
        ("remap-pending", "DCGM_FI_DEV_ROW_REMAP_PENDING", 1),
        ("remap-failed", "DCGM_FI_DEV_ROW_REMAP_FAILURE", 1),
        ("gpu-off-bus", "DCGM_FI_DEV_GPU_TEMP", None),
    ],
)
def test_a_fault_shows_on_its_gpu_alone(
    machine: Make, tmp_path: Path, kind: str, field: str, value: float | None
) -> None:
    host = machine("h100-sxm-8")
    host.ready()
    before = scrape(host, tmp_path)
    faults.inject(host.directory, kind, gpu=2)
    told = scrape(host, tmp_path)
    assert told.get((field, "2")) == value != before[field, "2"]
    assert {gpu for (name, gpu) in before if name == field and told.get((name, gpu)) != before[name, gpu]} == {"2"}


def test_links_that_are_lost_are_counted_and_more_each_second(machine: Make, tmp_path: Path) -> None:
    host = machine("h100-sxm-8")
    host.ready()
    fault = faults.inject(host.directory, "nvlink-degraded", gpu=1)
    name = "DCGM_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL"
    told = scrape(host, tmp_path)
    assert told[name, "1"] >= 0 and told[name, "0"] == 0
    fault["at"] -= 100
    faults._write(host.directory, [fault])
    assert scrape(host, tmp_path)[name, "1"] >= 500


def test_it_refuses_as_the_real_one_does(machine: Make, tmp_path: Path) -> None:
    host = machine("h100-sxm-8")
    said: list[str] = []
    (host.system / "counters.csv").write_text(counters_text())
    assert dcgm_exporter.main(host.lab, ["-f", "/counters.csv", "-a", "127.0.0.1:1"], said.append, said.append) == 1
    assert "driver does not answer" in said[-1]
    (host.system / "bad.csv").write_text("DCGM_FI_DEV_GPU_TEMP, gauge\n")
    assert dcgm_exporter.main(host.lab, ["-f", "/bad.csv"], said.append, said.append) == 1
    assert "malformed" in said[-1]
    assert dcgm_exporter.main(host.lab, ["--kubernetes"], said.append, said.append) == 1
    assert "not simulated" in said[-1]
