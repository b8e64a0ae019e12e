"""A plan as JSON-ready values: one form (schema 1) that other programs may rely on; docs/driver-plan-schema.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from metalserve.catalogue.models import GpuCatalogue
from metalserve.desired.model import Package
from metalserve.driver.plan import DriverPlan, Machine
from metalserve.driver.steps import Step

SCHEMA: Final = 1
"""Raised when a key changes its meaning or goes away; new keys do not raise it."""


def plan_dict(
    plan: DriverPlan,
    machine: Machine,
    release: str,
    catalogue: GpuCatalogue,
    *,
    steps: Sequence[Step],
    planned_only: str | None,
    host: str | None = None,
    simulated: bool = False,
) -> dict[str, Any]:
    """Return `plan` with the host it is for.

    Args:
        plan: what was chosen.
        machine: for what.
        release: name of the release.
        catalogue: names of the GPUs.
        steps: from what the host has to the plan.
        planned_only: why no role can carry it out yet, or None.
        host: its name in the inventory, or None without one.
        simulated: its GPUs are those of the built-in lab.
    """
    return {
        "schema": SCHEMA,
        "host": host,
        "simulated": simulated,
        "release": release,
        "os": plan.platform.os_id,
        "arch": plan.platform.machine,
        "kernel": machine.kernel or None,
        "secure_boot": machine.secure_boot,
        "gpus": gpu_list(machine, catalogue),
        "source": plan.source,
        "origin": {
            "name": plan.origin.name,
            "url": plan.origin.url or None,
            "components": list(plan.origin.components),
            "needs": plan.origin.needs or None,
        },
        "branch": plan.branch,
        "version": plan.version,
        "modules": plan.modules,
        "build": plan.build,
        "signed": plan.signed,
        "module_file": plan.module_file,
        "packages": [
            *_packages((plan.pinning,) if plan.pinning is not None else (), "pin"),
            *_packages(plan.headers, "headers"),
            *_packages(plan.packages, "driver"),
            *_packages(plan.fabric, "fabric"),
            *_packages(plan.toolkit, "toolkit"),
        ],
        "kept": {"by": plan.kept.by, "what": plan.kept.what or None, "names": list(plan.kept.names)},
        "preferences": [
            {"packages": list(p.packages), "pin": p.pin, "priority": p.priority, "why": p.why} for p in plan.preferences
        ],
        "cuda": {
            "image": plan.cuda.image,
            "brings": plan.cuda.brings,
            "min_driver": plan.cuda.min_driver,
            "met": plan.cuda.met,
            "too_old": list(plan.cuda.too_old),
        },
        "reasons": [{"choice": r.choice, "why": r.why, "source": r.source} for r in plan.reasons],
        "warnings": list(plan.warnings),
        "planned_only": planned_only,
        "steps": [
            {"what": s.what, "why": s.why or None, "command": s.command or None, "stops_gpus": s.stops_gpus}
            for s in steps
        ],
    }


def gpu_list(machine: Machine, catalogue: GpuCatalogue) -> list[dict[str, Any]]:
    """Return each kind of GPU with its count; `id` is the catalogue's, or None when it has none."""
    found = []
    for device_id, count in Counter(g.device_id for g in machine.gpus).items():
        spec = catalogue.by_pci_id(device_id)
        words = next(g.description for g in machine.gpus if g.device_id == device_id)
        found.append(
            {
                "id": spec.id if spec is not None else None,
                "pci_id": device_id,
                "name": spec.names[0] if spec is not None else words or None,
                "count": count,
            }
        )
    return found


def _packages(packages: Sequence[Package], part: str) -> list[dict[str, Any]]:
    return [{"name": p.name, "version": p.version, "part": part} for p in packages]
