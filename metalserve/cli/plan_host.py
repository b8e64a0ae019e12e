"""The host that `metalserve plan` plans for: by GPU name, from a report, or observed now."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metalserve.catalogue.models import GpuCatalogue
from metalserve.errors import MetalserveError
from metalserve.hardware.node import NodeHardware
from metalserve.planning import hardware_by_name
from metalserve.planning.allreduce import MeasuredLinks
from metalserve.planning.observed import hardware_from, measured_from, measured_from_figures, read_rate_from

LAST_RUN = "reports/last-run.json"


@dataclass(frozen=True)
class Target:
    """What is planned for.

    Attributes:
        title: what to call it.
        measured: all-reduces that were measured on it.
        read_gb_s: rate of its drive, GB/s.
        settings: the host's engine settings by its inventory, empty without one.
        release: the release that the inventory names, or None.
        simulated: the hardware is a stand-in's.
    """

    title: str
    hardware: NodeHardware
    measured: MeasuredLinks | None = None
    read_gb_s: float | None = None
    settings: Any = None
    release: str | None = None
    simulated: bool = False


def target_of(
    gpu: str | None, host: str | None, inventory: str | None, report: str | None, catalogue: GpuCatalogue
) -> Target:
    """Return the host to plan for.

    Args:
        gpu: `8xH100-SXM`.
        host: a host's name.
        inventory: its inventory: the host is observed now, and its engine settings are taken.
        report: a saved report to take the host from instead.
        catalogue: GPUs.

    Raises:
        MetalserveError: neither or both of `gpu` and `host`, no such host, or it could not be observed.
    """
    if (gpu is None) == (host is None):
        raise MetalserveError("give either --gpu COUNTxGPU or --host NAME", where="metalserve plan")
    if gpu is not None:
        return Target(gpu, hardware_by_name(gpu, catalogue))
    assert host is not None
    if inventory is None:
        return _from_report(host, report or LAST_RUN)
    from metalserve.inventory import check_hosts
    from metalserve.pyinfra_seam.inventory import load_inventory

    settings = check_hosts(load_inventory(inventory), inventory)
    if host not in settings:
        names = ", ".join(list(settings)[:5])
        raise MetalserveError(f"no host {host} in the inventory", where=inventory, remedy=f"it has {names} ...")
    own = settings[host]
    seen = _from_report(host, report) if report else _observed(host, inventory)
    measured = seen.measured or _baseline(host)
    return Target(host, seen.hardware, measured, seen.read_gb_s, own.engine, own.release, seen.simulated)


def _baseline(host: str) -> MeasuredLinks | None:
    """Return what was measured when the host was accepted, or None."""
    from metalserve.pyinfra_seam.measuring import baselines_directory
    from metalserve.verify.baseline import load_baseline

    kept = load_baseline(baselines_directory() / f"{host.replace('/', '_')}.json")
    return measured_from_figures(kept.figures, len(kept.gpus), simulated=kept.simulated) if kept else None


def _from_report(host: str, path: str) -> Target:
    from metalserve.report.reading import read_report

    found = next((h for h in read_report(Path(path)).hosts if h.name == host), None)
    if found is None:
        raise MetalserveError(f"no host {host} in the report", where=path)
    hardware = hardware_from(found.hardware, f"{path}: {host}")
    values = found.measurements
    return Target(host, hardware, measured_from(values), read_rate_from(values), simulated=found.simulated)


def _observed(host: str, inventory: str) -> Target:
    # a dry run of the proofs changes nothing and leaves what it saw in its report
    from metalserve.pyinfra_seam.cli_run import run_pyinfra

    outcome = run_pyinfra(inventory, "deploys/verify.py", [host], dry=True, quiet=True)
    seen = outcome.report.hosts.get(host) if outcome.report else None
    if seen is None or not seen.hardware:
        why = seen.failure.what if seen and seen.failure else "it could not be observed"
        raise MetalserveError(why, where=f"{inventory}: {host}", remedy="metalserve read shows what it answers")
    return Target(host, hardware_from(seen.hardware, f"{inventory}: {host}"), simulated=seen.simulated)
