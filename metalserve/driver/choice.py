"""The driver of one host: which kernel modules, which packages, or why none. Computable before any driver is there."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from metalserve.catalogue.driver_packages import DriverPackages
from metalserve.catalogue.loader import load_driver_packages
from metalserve.catalogue.models import CudaDrivers, GpuCatalogue
from metalserve.desired.model import Package
from metalserve.driver.archive import archive_branch, archive_of, archive_origin, from_archive
from metalserve.driver.modules import check_branch, choose_modules, gpu_kinds
from metalserve.driver.packages import (
    driver_packages,
    fabric_packages,
    header_packages,
    imex_packages,
    pinning_package,
    toolkit_package,
)
from metalserve.driver.plan import (
    CudaNeed,
    DriverPlan,
    DriverRefused,
    Kept,
    Machine,
    Modules,
    Origin,
    Reason,
    Source,
)
from metalserve.releases import Release, version_key

__all__ = ["DriverPlan", "DriverRefused", "Machine", "Reason", "plan_driver"]


def plan_driver(
    machine: Machine,
    release: Release,
    modules: Literal["auto", "open", "proprietary"],
    gpus: GpuCatalogue,
    rules: CudaDrivers,
    *,
    source: Source = "nvidia",
    toolkit: bool = False,
) -> DriverPlan:
    """Choose the driver packages of `machine` for `release`.

    Args:
        machine: the host.
        release: the pinned versions.
        modules: the host's setting `driver.modules`.
        gpus: what is known of GPUs.
        rules: what is known of branches and architectures.
        source: the host's setting `driver.source`.
        toolkit: the host's setting `cuda.toolkit`.

    Raises:
        DriverRefused: there is no GPU, a GPU is unknown, or no driver of this release serves all of them.
    """
    if not machine.gpus:
        raise DriverRefused(
            "no NVIDIA GPU on the PCI bus",
            remedy="take this host out of the group of GPU hosts, or have its GPUs seated and powered",
        )
    names = load_driver_packages()
    if machine.secure_boot:
        raise DriverRefused(
            "Secure Boot is on, and the modules that DKMS builds would be refused by the kernel (unsigned)",
            remedy="turn Secure Boot off in the firmware, or enrol DKMS' key at the console: "
            f"`mokutil --import {names.signing_key(machine.platform.family).path}`, reboot, confirm",
        )
    kinds, warnings = gpu_kinds(machine.gpus, gpus, rules, grace=machine.platform.machine == "aarch64")
    branch, whose = release.driver.branch, "the release"
    if source == "distro":
        if toolkit:
            raise DriverRefused(
                f"cuda.toolkit wants {toolkit_package(release.cuda.toolkit).name} of NVIDIA's repository, and the "
                "driver is the distribution's: the two are never mixed",
                remedy="set cuda.toolkit to false (containers bring their own CUDA) or driver.source to 'nvidia'",
            )
        archive = archive_of(machine.platform)
        branch, told = archive_branch(machine.platform, archive, branch)
        warnings += told
        whose = archive_origin(machine.platform, archive).name
    check_branch(kinds, branch, whose)
    chosen, reason = choose_modules(kinds, branch, modules, names.modules)
    if source == "distro":
        plan = _of_the_archive(machine, release, branch, chosen, rules)
    else:
        plan = _of_nvidia(machine, release, chosen, rules, names, toolkit=toolkit)
    return replace(
        plan,
        reasons=(reason, *plan.reasons),
        warnings=(*warnings, *plan.warnings, *_end_of_life(branch, rules), *_image(plan)),
    )


def _of_nvidia(
    machine: Machine, release: Release, modules: Modules, rules: CudaDrivers, names: DriverPackages, *, toolkit: bool
) -> DriverPlan:
    platform, branch, version = machine.platform, release.driver.branch, release.driver.version
    packages = driver_packages(platform, branch, version, open_modules=modules == "open")
    reasons = [
        Reason(
            " ".join(p.name for p in packages),
            f"compute-only packages of branch {branch} on {platform.os_id}",
            "NVIDIA driver installation guide, compute-only systems",
        )
    ]
    fabric: tuple[Package, ...] = ()
    if machine.needs_imex:
        fabric = imex_packages(branch, version, platform=platform)
        why = (
            "a tray of a rack-scale system: fabric manager runs on the switch trays, IMEX of the driver's version here"
        )
        reasons.append(Reason(" ".join(p.name for p in fabric), why, names.sources["imex"]))
    elif machine.needs_fabric_manager:
        fabric = fabric_packages(branch, version, nvlsm=machine.needs_nvlsm, platform=platform)
        why = "the GPUs reach each other through NVSwitches; fabric manager refuses any driver but its own version"
        reasons.append(Reason(" ".join(p.name for p in fabric), why, "NVIDIA Fabric Manager User Guide"))
    needs = names.repository.needs.get(platform.family)
    return DriverPlan(
        modules=modules,
        branch=branch,
        version=version,
        pinning=pinning_package(version),
        packages=packages,
        fabric=fabric,
        reasons=tuple(reasons),
        warnings=(),
        platform=platform,
        source="nvidia",
        origin=Origin(
            "NVIDIA's CUDA repository", platform.fill(names.repository.url), needs=needs.text if needs else ""
        ),
        build="dkms",
        module_file="nvidia",
        headers=header_packages(platform, machine.kernel),
        kept=Kept("pinning-package", pinning_package(version).name),
        cuda=_cuda(release, branch, version, rules),
        toolkit=(toolkit_package(release.cuda.toolkit),) if toolkit else (),
    )


def _of_the_archive(
    machine: Machine, release: Release, branch: int, modules: Modules, rules: CudaDrivers
) -> DriverPlan:
    archive = archive_of(machine.platform)
    found = from_archive(machine, archive, branch, modules)
    held = tuple(p.name for p in (*found.packages, *found.fabric))
    return DriverPlan(
        modules=modules,
        branch=branch,
        version=None,
        pinning=None,
        packages=found.packages,
        fabric=found.fabric,
        reasons=found.reasons,
        warnings=found.warnings,
        platform=machine.platform,
        source="distro",
        origin=archive_origin(machine.platform, archive),
        build=found.build,
        module_file=found.module_file,
        headers=found.headers,
        kept=Kept("hold", names=held),
        cuda=_cuda(release, branch, None, rules),
        preferences=found.preferences,
    )


def _cuda(release: Release, branch: int, version: str | None, rules: CudaDrivers) -> CudaNeed:
    row, needed = rules.branch(branch), rules.min_driver(release.vllm.cuda)
    met: bool | None = None
    if needed is not None:
        oldest = version_key(needed)
        if version is not None:
            met = version_key(version) >= oldest
        elif branch != oldest[0]:
            met = branch > oldest[0]
    return CudaNeed(release.vllm.cuda, row.cuda if row is not None else None, needed, met)


def _end_of_life(branch: int, rules: CudaDrivers) -> tuple[str, ...]:
    row = rules.branch(branch)
    if row is None or row.status != "eol":
        return ()
    return (f"driver branch {branch} had its end of life {row.eol or ''}: no security fixes any more",)


def _image(plan: DriverPlan) -> tuple[str, ...]:
    if plan.cuda.met is not False:
        return ()
    return (
        f"the release's image has CUDA {plan.cuda.image} and needs driver {plan.cuda.min_driver} or newer; branch "
        f"{plan.branch} does not run it",
    )
