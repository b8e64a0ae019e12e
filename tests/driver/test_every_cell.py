"""Every (system, architecture, GPU, branch, source, Secure Boot): a whole plan, or the one reason why there is none.

What is expected is said here a second time, in other words than the code's, from the catalogue's GPUs and branches.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

import pytest

from metalserve.catalogue.loader import load_driver_packages
from metalserve.catalogue.models import GpuSpec
from metalserve.driver import DriverPlan, DriverRefused, Machine, plan_driver, platform_of
from metalserve.driver.export import plan_dict
from metalserve.driver.named import machine_by_name
from metalserve.driver.plan import Source
from metalserve.driver.steps import steps_to
from tests.driver.hosts import GPUS, RULES, of_branch

SYSTEMS = load_driver_packages().os_ids
BRANCHES = [row.branch for row in RULES.branches]
UBUNTU_HAS = {580: 580, 595: 595, 610: 610, 615: 615, 535: 580, 550: 580, 565: 580, 570: 580, 590: 595}
DEBIAN_HAS = {"debian-12": 535, "debian-13": 550}
KERNELS = {
    "ubuntu-22.04": "5.15.0-203-generic",
    "ubuntu-24.04": "6.8.0-90-generic",
    "ubuntu-26.04": "7.0.0-30-generic",
    "debian-12": "6.1.0-44-{dpkg}",
    "debian-13": "6.12.94+deb13-{dpkg}",
}


@dataclass(frozen=True)
class Cell:
    os_id: str
    arch: str
    gpu: GpuSpec
    branch: int
    source: Source
    secure_boot: bool


def kernel_of(os_id: str, arch: str) -> str:
    text = KERNELS.get(os_id, f"5.14.0-503.el{os_id[-2:].strip('-')}.{arch}")
    return text.format(dpkg="amd64" if arch == "x86_64" else "arm64")


def host(cell: Cell) -> Machine:
    """Eight of the GPU, as the command line would make it."""
    kernel = kernel_of(cell.os_id, cell.arch)
    return machine_by_name(
        cell.os_id, [f"8x{cell.gpu.id}"], GPUS, arch=cell.arch, kernel=kernel, secure_boot=cell.secure_boot
    )[0]


def why_not(cell: Cell) -> str | None:
    """Return a part of the reason for which this cell has no driver, or None when it has one."""
    family = cell.os_id.partition("-")[0]
    limits = RULES.architecture(cell.gpu.architecture)
    assert limits is not None
    source = cell.source
    if cell.secure_boot:
        if family != "ubuntu":
            return "Secure Boot is on"
        if cell.arch != "x86_64":
            return "Ubuntu signs its modules on x86_64"
        source = "distro"
    branch = cell.branch
    if source == "distro":
        if family not in ("ubuntu", "debian"):
            return "no NVIDIA driver in an archive of its own"
        if family == "ubuntu" and branch not in UBUNTU_HAS:
            return f"no driver branch {branch}"
        branch = UBUNTU_HAS[branch] if family == "ubuntu" else DEBIAN_HAS[cell.os_id]
    if limits.last_branch is not None and branch > limits.last_branch:
        return "was the last with support"
    if limits.min_branch is not None and branch < limits.min_branch:
        return "was the first with support"
    if source == "distro" and cell.gpu.fabric in ("nvswitch", "nvlink5", "mixed", "imex"):
        if family == "debian":
            return "has no IMEX" if cell.gpu.fabric == "imex" else "has no fabric manager"
        if cell.gpu.fabric == "nvlink5":
            return "need nvlsm"
    return None


def check_plan(cell: Cell, plan: DriverPlan) -> None:
    """What holds of every plan, whatever the cell."""
    names = [p.name for p in plan.every_package]
    assert len(names) == len(set(names))
    driver = (*plan.packages, *plan.fabric)
    # One version for driver and fabric manager; an archive decides it, a release pins it.
    versions = {p.version for p in driver if p.name != "nvlsm"}
    assert versions == {None if plan.source == "distro" else of_branch(cell.branch).driver.version}
    # Open where needed.
    assert not (plan.modules == "proprietary" and cell.gpu.kernel_modules == "open-required")
    assert not (plan.modules == "open" and cell.gpu.kernel_modules == "proprietary-only")
    assert not (plan.modules == "proprietary" and plan.branch >= 615)
    one_repository(plan, names)
    no_suffix_past_the_cliff(plan)
    fabric = {"nvswitch": 2, "mixed": 2, "nvlink5": 3, "imex": 1}.get(cell.gpu.fabric, 0)
    assert len(plan.fabric) == fabric
    assert ("nvlsm" in names) == (cell.gpu.fabric == "nvlink5")
    assert all(r.choice and r.why and " " in r.why and r.source for r in plan.reasons)
    kept = {"rhel-9": "module-stream", "rhel-10": "versionlock"}.get(
        cell.os_id.replace("rocky", "rhel").replace("almalinux", "rhel")
    )
    assert plan.kept.by == (kept or ("hold" if plan.source == "distro" or plan.branch < 570 else "pinning-package"))
    assert (plan.pinning is not None) == (plan.kept.by == "pinning-package")
    row = RULES.branch(plan.branch)
    told = any("end of life" in w for w in plan.warnings)
    assert row is not None and told == (row.status == "eol")
    assert not row.eol or not told or any(row.eol in w for w in plan.warnings)
    assert plan.build == ("precompiled" if plan.source == "distro" and cell.os_id.startswith("ubuntu") else "dkms")
    assert bool(plan.headers) == (plan.build == "dkms")
    assert plan.signed == cell.secure_boot
    steps = [s.what for s in steps_to(plan, None)]
    assert steps and steps.index("install the driver") < next(
        i for i, s in enumerate(steps) if s.startswith("load the")
    )


def one_repository(plan: DriverPlan, names: list[str]) -> None:
    """Refuse names that only the other repository has."""
    ubuntu_archive = [n for n in names if re.search(r"-server(-open)?(-|$)|nvidia-headless|linux-modules-nvidia", n)]
    debian_archive = [n for n in names if n in ("libcuda1", "nvidia-smi", "nvidia-open-kernel-dkms")]
    cuda = [n for n in names if n in ("nvidia-driver-cuda", "nvidia-kernel-open-dkms", "nvidia-dkms-open", "nvlsm")]
    cuda += [n for n in names if n.startswith(("nvidia-driver-pinning", "kmod-nvidia"))]
    if plan.source == "nvidia":
        assert not ubuntu_archive and not debian_archive
        assert plan.origin.url.startswith("https://") and not plan.origin.components and not plan.preferences
    else:
        assert not cuda and bool(ubuntu_archive) != bool(debian_archive)
        assert not plan.origin.url and plan.origin.components
        assert any(p.packages == ("*",) and p.priority < 0 for p in plan.preferences)
    directory = {"rocky": "rhel", "almalinux": "rhel"}
    if plan.origin.url:
        system, _, version = plan.platform.os_id.partition("-")
        arch = "x86_64" if plan.platform.machine == "x86_64" else "sbsa"
        assert plan.origin.url.endswith(f"/{directory.get(system, system)}{version.replace('.', '')}/{arch}")


def no_suffix_past_the_cliff(plan: DriverPlan) -> None:
    if plan.source == "distro":
        return
    for packages, last in ((plan.packages, 580), (plan.fabric, 575)):
        for package in packages:
            suffix = re.search(r"-(\d{3})(-open)?$", package.name)
            assert suffix is None or int(suffix.group(1)) == plan.branch <= last, package.name
            ubuntu = plan.platform.family == "ubuntu" and packages is plan.packages
            assert suffix is not None or not (ubuntu and plan.branch <= last), package.name


@pytest.mark.parametrize("os_id", SYSTEMS)
def test_every_cell_of(os_id: str) -> None:
    outcomes: Counter[str] = Counter()
    for arch in ("x86_64", "aarch64"):
        for gpu in GPUS.gpus:
            for source in ("nvidia", "distro"):
                for secure_boot in (False, True):
                    machine = host(Cell(os_id, arch, gpu, 580, source, secure_boot))  # type: ignore[arg-type]
                    for branch in BRANCHES:
                        cell = Cell(os_id, arch, gpu, branch, source, secure_boot)  # type: ignore[arg-type]
                        reason = why_not(cell)
                        try:
                            plan = plan_driver(machine, of_branch(branch), "auto", GPUS, RULES, source=cell.source)
                        except DriverRefused as error:
                            assert reason is not None and reason in error.what, (cell, error.what)
                            assert error.remedy
                            outcomes["refused"] += 1
                            continue
                        assert reason is None, (cell, reason)
                        check_plan(cell, plan)
                        outcomes[plan.source] += 1
    assert sum(outcomes.values()) == 2 * len(GPUS.gpus) * 2 * 2 * len(BRANCHES)
    assert outcomes["nvidia"] and outcomes["refused"]
    assert bool(outcomes["distro"]) == os_id.startswith(("ubuntu", "debian"))


def test_the_table_names_every_system_that_is_supported() -> None:
    assert {platform_of(s).family for s in SYSTEMS} == {"ubuntu", "debian", "rhel"}
    assert {"rocky-9", "almalinux-9", "rhel-9", "rocky-10", "almalinux-10", "rhel-10"} <= set(SYSTEMS)


def test_a_plan_is_json_with_everything_in_it() -> None:
    cell = Cell("ubuntu-24.04", "x86_64", GPUS.by_id("b200"), 595, "nvidia", False)
    machine = host(cell)
    plan = plan_driver(machine, of_branch(595), "auto", GPUS, RULES, toolkit=True)
    data = plan_dict(plan, machine, "test-595", GPUS, steps=steps_to(plan, None), planned_only=None)
    assert data["gpus"] == [{"id": "b200", "pci_id": "2901", "name": "NVIDIA B200", "count": 8}]
    assert [p["part"] for p in data["packages"]] == ["pin", "headers", *["driver"] * 3, *["fabric"] * 3, "toolkit"]
    assert data["packages"][-1]["name"] == "cuda-toolkit-13-0"
