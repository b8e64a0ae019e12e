"""Cells of the table that a person wrote out (data/plans.yaml): exact packages, or the reason why there are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from metalserve.driver import DriverRefused, plan_driver
from metalserve.driver.named import machine_by_name
from tests.driver.hosts import GPUS, RULES, of_branch

CELLS: list[dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "data" / "plans.yaml").read_text())
KEYS = {
    *("os", "gpu", "arch", "kernel", "branch", "source", "setting", "secure_boot", "refused", "warns", "arch_is"),
    *("modules", "driver", "fabric", "headers", "kept", "what", "origin", "build", "file", "gives"),
}


def name(cell: dict[str, Any]) -> str:
    gpus = cell["gpu"] if isinstance(cell["gpu"], list) else [cell["gpu"]]
    return "-".join([cell["os"], "+".join(gpus).split(" ")[0], str(cell["branch"]), cell.get("source", "nvidia")])


@pytest.mark.parametrize("cell", CELLS, ids=name)
def test_as_written(cell: dict[str, Any]) -> None:
    assert set(cell) <= KEYS
    gpus = cell["gpu"] if isinstance(cell["gpu"], list) else [cell["gpu"]]
    machine, assumed = machine_by_name(
        cell["os"],
        gpus,
        GPUS,
        arch=cell.get("arch"),
        kernel=cell.get("kernel", ""),
        secure_boot=cell.get("secure_boot", False),
    )
    release = of_branch(cell["branch"])

    def choose() -> Any:
        return plan_driver(
            machine, release, cell.get("setting", "auto"), GPUS, RULES, source=cell.get("source", "nvidia")
        )

    if "refused" in cell:
        with pytest.raises(DriverRefused) as error:
            choose()
        assert cell["refused"] in error.value.what
        assert error.value.remedy
        return
    plan = choose()
    assert plan.modules == cell["modules"]
    assert [p.name for p in plan.packages] == cell["driver"]
    assert [p.name for p in plan.fabric] == cell["fabric"]
    version = None if "gives" in cell else release.driver.version
    assert {p.version for p in (*plan.packages, *plan.fabric) if p.name != "nvlsm"} == {version}
    assert plan.branch == cell.get("gives", cell["branch"])
    found = {
        "headers": [p.name for p in plan.headers],
        "kept": plan.kept.by,
        "what": plan.kept.what,
        "build": plan.build,
        "file": plan.module_file,
        "arch_is": machine.platform.machine,
    }
    assert {k: found[k] for k in found if k in cell} == {k: cell[k] for k in found if k in cell}
    if "origin" in cell:
        assert plan.origin.url.endswith(f"/{cell['origin']}")
    if "warns" in cell:
        assert any(cell["warns"] in w for w in (*assumed, *plan.warnings)), plan.warnings


def test_there_are_enough_of_them() -> None:
    assert len(CELLS) >= 60
    assert {c["os"] for c in CELLS} >= {"ubuntu-22.04", "ubuntu-24.04", "ubuntu-26.04", "debian-12", "debian-13"}
