"""The driver of one host: which kernel modules, which packages, or why none. Computable before any driver is there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from metalserve.catalogue.models import Architecture, CudaDrivers, GpuCatalogue, KernelModules
from metalserve.desired.model import Package
from metalserve.driver.packages import driver_packages, fabric_packages, pinning_package
from metalserve.driver.platform import Platform
from metalserve.errors import MetalserveError
from metalserve.hardware.node import PciDevice
from metalserve.releases import Release

Modules = Literal["open", "proprietary"]

OPEN_BY_DEFAULT = 560
"""First branch for which NVIDIA prefers the open modules where both work. Source: NVIDIA/gpu-driver-container."""

OPEN_ONLY = 615
"""From this branch on there are open modules only. Source: Ubuntu's packaging of branch 615 (2026-11)."""

_CHIPS = {
    "GK": "Kepler",
    "GM": "Maxwell",
    "GP": "Pascal",
    "GV": "Volta",
    "TU": "Turing",
    "GA": "Ampere",
    "AD": "Ada",
    "GH": "Hopper",
    "GB": "Blackwell",
}
"""First letters of a chip's name, as lspci prints it (`GH100 [H100 SXM5 80GB]`) -> architecture. Source: pciids."""


class DriverRefused(MetalserveError):
    """No driver of this release can serve this host; it is told before anything is touched."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One choice and why it was made."""

    choice: str
    why: str
    source: str


@dataclass(frozen=True)
class Machine:
    """What the choice depends on, as far as a host without a driver can tell it.

    Attributes:
        platform: operating system and architecture.
        gpus: its GPUs on the PCI bus.
        secure_boot: the firmware loads signed kernel code only.
        needs_fabric_manager: its GPUs reach each other through NVSwitches.
        needs_nvlsm: they are of the NVLink5 kind.
        needs_imex: it is a tray of a rack-scale system (GB200, GB300 NVL72).
    """

    platform: Platform
    gpus: tuple[PciDevice, ...]
    secure_boot: bool = False
    needs_fabric_manager: bool = False
    needs_nvlsm: bool = False
    needs_imex: bool = False


@dataclass(frozen=True)
class DriverPlan:
    """What is installed on a host.

    Attributes:
        modules: kind of kernel modules.
        pinning: package that must be installed before the others are resolved.
        packages: the driver, each package at its exact version.
        fabric: fabric manager's family at the same version; empty where no GPU needs it.
        reasons: why.
        warnings: what should be known, each one line.
    """

    modules: Modules
    branch: int
    version: str
    pinning: Package
    packages: tuple[Package, ...]
    fabric: tuple[Package, ...]
    reasons: tuple[Reason, ...]
    warnings: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class _Kind:
    """One kind of GPU on the host: what is known of its needs."""

    name: str
    rule: KernelModules
    architecture: Architecture
    source: str


def plan_driver(
    machine: Machine,
    release: Release,
    modules: Literal["auto", "open", "proprietary"],
    gpus: GpuCatalogue,
    rules: CudaDrivers,
) -> DriverPlan:
    """Choose the driver packages of `machine` for `release`.

    Args:
        machine: the host.
        release: the pinned versions.
        modules: the host's setting `driver.modules`.
        gpus: what is known of GPUs.
        rules: what is known of branches and architectures.

    Raises:
        DriverRefused: there is no GPU, a GPU is unknown, or no driver of this release serves all of them.
    """
    if not machine.gpus:
        raise DriverRefused(
            "no NVIDIA GPU on the PCI bus",
            remedy="take this host out of the group of GPU hosts, or have its GPUs seated and powered",
        )
    if machine.needs_imex:
        raise DriverRefused(
            "rack-scale systems (GB200, GB300 NVL72) need IMEX, which is not supported yet", remedy="use HGX hosts"
        )
    if machine.secure_boot:
        raise DriverRefused(
            "Secure Boot is on, and the modules that DKMS builds would be refused by the kernel (unsigned)",
            remedy="turn Secure Boot off in the firmware, or enrol DKMS' key at the console: "
            "`mokutil --import /var/lib/dkms/mok.pub`, reboot, confirm",
        )
    branch, version = release.driver.branch, release.driver.version
    kinds, warnings = _kinds(machine.gpus, modules, gpus, rules)
    _check_branch(kinds, branch)
    chosen, reason = _modules(kinds, branch, modules)
    reasons = [reason]
    row = rules.branch(branch)
    if row is not None and row.status == "eol":
        warnings.append(f"driver branch {branch} had its end of life {row.eol or ''}: no security fixes any more")
    packages = driver_packages(machine.platform, branch, version, open_modules=chosen == "open")
    reasons.append(
        Reason(
            " ".join(p.name for p in packages),
            f"compute-only packages of branch {branch} on {machine.platform.os_id}",
            "NVIDIA driver installation guide, compute-only systems",
        )
    )
    fabric: tuple[Package, ...] = ()
    if machine.needs_fabric_manager:
        fabric = fabric_packages(branch, version, nvlsm=machine.needs_nvlsm)
        reasons.append(
            Reason(
                " ".join(p.name for p in fabric),
                "the GPUs reach each other through NVSwitches; fabric manager refuses any driver but its own version",
                "NVIDIA Fabric Manager User Guide",
            )
        )
    return DriverPlan(
        chosen, branch, version, pinning_package(version), packages, fabric, tuple(reasons), tuple(warnings)
    )


def _kinds(
    devices: Sequence[PciDevice], modules: str, gpus: GpuCatalogue, rules: CudaDrivers
) -> tuple[list[_Kind], list[str]]:
    kinds: list[_Kind] = []
    warnings: list[str] = []
    for device in {d.device_id: d for d in devices}.values():
        spec = gpus.by_pci_id(device.device_id)
        architecture = rules.architecture(spec.architecture if spec is not None else _architecture(device))
        if architecture is None:
            raise DriverRefused(
                f"GPU {device.vendor_id}:{device.device_id} at {device.address} is not in the catalogue, and its "
                "name tells no architecture, so which kernel modules it needs is not known",
                remedy="update metalserve, or add the GPU to metalserve/catalogue/gpus.yaml",
            )
        if spec is not None:
            kinds.append(_Kind(spec.id, spec.kernel_modules, architecture, spec.source))
            continue
        warnings.append(
            f"GPU {device.device_id} ({device.description}) is not in the catalogue: treated as {architecture.name}"
        )
        rule = architecture.kernel_modules or "proprietary-only"
        kinds.append(_Kind(f"GPU {device.device_id}", rule, architecture, architecture.source))
    return kinds, warnings


def _architecture(device: PciDevice) -> str:
    found = re.search(r"\b(GK|GM|GP|GV|TU|GA|AD|GH|GB)\d{3}[A-Z0-9]*\b", device.description)
    return _CHIPS[found.group(1)] if found else "unknown"


def _check_branch(kinds: Sequence[_Kind], branch: int) -> None:
    for kind in kinds:
        limits = kind.architecture
        if limits.last_branch is not None and branch > limits.last_branch:
            raise DriverRefused(
                f"{kind.name} ({limits.name}): branch {limits.last_branch} was the last with support for it, "
                f"the release has {branch}",
                remedy=f"give this host a release with driver branch {limits.last_branch} or older",
            )
        if limits.min_branch is not None and branch < limits.min_branch:
            raise DriverRefused(
                f"{kind.name} ({limits.name}): branch {limits.min_branch} was the first with support for it, "
                f"the release has {branch}",
                remedy=f"give this host a release with driver branch {limits.min_branch} or newer",
            )


def _modules(kinds: Sequence[_Kind], branch: int, setting: str) -> tuple[Modules, Reason]:
    need_open = [k for k in kinds if k.rule == "open-required"]
    need_proprietary = [k for k in kinds if k.rule == "proprietary-only"]
    if need_open and need_proprietary:
        raise DriverRefused(
            f"{need_open[0].name} works with open kernel modules only, {need_proprietary[0].name} with proprietary "
            "ones only: no driver serves both",
            remedy="put them into different hosts",
        )
    if need_proprietary and branch >= OPEN_ONLY:
        raise DriverRefused(
            f"{need_proprietary[0].name} needs proprietary kernel modules; branch {branch} has open ones only",
            remedy=f"give this host a release with a branch before {OPEN_ONLY}",
        )
    if setting == "proprietary" and (need_open or branch >= OPEN_ONLY):
        who = need_open[0].name if need_open else f"branch {branch}"
        raise DriverRefused(
            f"driver.modules is 'proprietary', but {who} works with open kernel modules only",
            remedy="set driver.modules to 'auto'",
        )
    if setting == "open" and need_proprietary:
        raise DriverRefused(
            f"driver.modules is 'open', but {need_proprietary[0].name} works with proprietary kernel modules only",
            remedy="set driver.modules to 'auto'",
        )
    if need_open:
        return "open", Reason("open", f"{need_open[0].name} needs them", need_open[0].source)
    if need_proprietary:
        return "proprietary", Reason(
            "proprietary", f"{need_proprietary[0].name} needs them", need_proprietary[0].source
        )
    if setting == "proprietary":
        return "proprietary", Reason("proprietary", "driver.modules says so", "settings")
    if setting == "open" or branch >= OPEN_BY_DEFAULT:
        return "open", Reason("open", f"recommended for {kinds[0].architecture.name} and later", kinds[0].source)
    return "proprietary", Reason(
        "proprietary", f"the default of branch {branch}, before {OPEN_BY_DEFAULT}", "NVIDIA/gpu-driver-container"
    )
