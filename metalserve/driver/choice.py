"""The driver of one host: which kernel modules, which packages, or why none. Computable before any driver is there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from metalserve.catalogue.loader import load_driver_packages
from metalserve.catalogue.models import CudaDrivers, GpuCatalogue
from metalserve.driver.archive import archive_branch, archive_of, archive_origin, from_archive
from metalserve.driver.modules import GpuKind, check_branch, choose_modules, gpu_kinds
from metalserve.driver.nvidia import from_nvidia
from metalserve.driver.packages import toolkit_package
from metalserve.driver.plan import CudaNeed, DriverPlan, DriverRefused, Machine, Reason, Source
from metalserve.driver.secure_boot import source_under_secure_boot
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
        source: the host's setting `driver.source`; Secure Boot on Ubuntu makes it the distribution's.
        toolkit: the host's setting `cuda.toolkit`.

    Raises:
        DriverRefused: there is no GPU, a GPU is unknown, no driver of this release serves all of them, or the kernel
            would not load it.
    """
    if not machine.gpus:
        raise DriverRefused(
            "no NVIDIA GPU on the PCI bus",
            remedy="take this host out of the group of GPU hosts, or have its GPUs seated and powered",
        )
    kinds, unknown = gpu_kinds(machine.gpus, gpus, rules, grace=machine.platform.machine == "aarch64")
    source, signed, told = source_under_secure_boot(machine, source)
    branch, whose = release.driver.branch, "the release"
    if source == "distro":
        _no_toolkit(release, toolkit)
        archive = archive_of(machine.platform)
        branch, moved = archive_branch(machine.platform, archive, branch)
        told += moved
        whose = archive_origin(machine.platform, archive).name
    check_branch(kinds, branch, whose)
    chosen, reason = choose_modules(kinds, branch, modules, load_driver_packages().modules)
    if source == "distro":
        found = from_archive(machine, archive, branch, chosen)
    else:
        found = from_nvidia(machine, release, chosen, toolkit=toolkit)
    cuda = _cuda(release, branch, found.version, kinds, rules)
    return DriverPlan(
        modules=chosen,
        branch=branch,
        version=found.version,
        pinning=found.pinning,
        packages=found.packages,
        fabric=found.fabric,
        reasons=(reason, *signed, *found.reasons),
        warnings=(*unknown, *told, *found.warnings, *_end_of_life(branch, rules), *_image(cuda, branch)),
        platform=machine.platform,
        source=source,
        origin=found.origin,
        build=found.build,
        module_file=found.module_file,
        headers=found.headers,
        kept=found.kept,
        cuda=cuda,
        preferences=found.preferences,
        toolkit=found.toolkit,
        signed=machine.secure_boot and found.build == "precompiled",
    )


def _no_toolkit(release: Release, wanted: bool) -> None:
    if wanted:
        raise DriverRefused(
            f"cuda.toolkit wants {toolkit_package(release.cuda.toolkit).name} of NVIDIA's repository, and the driver "
            "is the distribution's: the two are never mixed",
            remedy="set cuda.toolkit to false (containers bring their own CUDA) or driver.source to 'nvidia'",
        )


def _cuda(release: Release, branch: int, version: str | None, kinds: Sequence[GpuKind], rules: CudaDrivers) -> CudaNeed:
    row, needed = rules.branch(branch), rules.min_driver(release.vllm.cuda)
    met: bool | None = None
    if needed is not None:
        oldest = version_key(needed)
        if version is not None:
            met = version_key(version) >= oldest
        elif branch != oldest[0]:
            met = branch > oldest[0]
    major = version_key(release.vllm.cuda)[0]
    too_old = tuple(
        k.name for k in kinds if k.architecture.last_cuda and version_key(k.architecture.last_cuda)[0] < major
    )
    brings = row.cuda if row is not None else None
    return CudaNeed(release.vllm.cuda, brings, needed, False if too_old else met, too_old)


def _end_of_life(branch: int, rules: CudaDrivers) -> tuple[str, ...]:
    row = rules.branch(branch)
    if row is None or row.status != "eol":
        return ()
    return (f"driver branch {branch} had its end of life {row.eol or ''}: no security fixes any more",)


def _image(cuda: CudaNeed, branch: int) -> tuple[str, ...]:
    needs = f"the release's image has CUDA {cuda.image} and needs driver {cuda.min_driver} or newer"
    if cuda.too_old:
        return (f"the release's image has CUDA {cuda.image}, which dropped {', '.join(cuda.too_old)}",)
    if cuda.min_driver is None:
        return (f"no driver is known for CUDA {cuda.image} of the release's image",)
    if cuda.met is None:
        return (f"{needs}: whether the archive's {branch} is new enough is checked on the host",)
    return () if cuda.met else (f"{needs}; the driver of branch {branch} does not run it",)
