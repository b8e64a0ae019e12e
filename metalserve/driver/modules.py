"""Which kernel modules the GPUs of a host can have, and whether a branch serves them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from metalserve.catalogue.driver_packages import ModuleKinds
from metalserve.catalogue.models import Architecture, CudaDrivers, GpuCatalogue, KernelModules
from metalserve.driver.plan import DriverRefused, Modules, Reason
from metalserve.hardware.node import PciDevice

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


@dataclass(frozen=True, slots=True)
class GpuKind:
    """One kind of GPU on the host: what is known of its needs."""

    name: str
    rule: KernelModules
    architecture: Architecture
    source: str


def gpu_kinds(
    devices: Sequence[PciDevice], gpus: GpuCatalogue, rules: CudaDrivers, *, grace: bool = False
) -> tuple[tuple[GpuKind, ...], tuple[str, ...]]:
    """Return the kinds of GPU among `devices`, and warnings about those that the catalogue does not have.

    With `grace` (an arm64 host) a Hopper that is not in the catalogue counts as Grace-Hopper, which needs open modules.

    Raises:
        DriverRefused: a GPU is unknown and its name tells no architecture.
    """
    kinds: list[GpuKind] = []
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
            kinds.append(GpuKind(spec.id, spec.kernel_modules, architecture, spec.source))
            continue
        warnings.append(
            f"GPU {device.device_id} ({device.description}) is not in the catalogue: treated as {architecture.name}"
        )
        rule = architecture.kernel_modules or "proprietary-only"
        if grace and architecture.name == "Hopper":
            rule = "open-required"
        kinds.append(GpuKind(f"GPU {device.device_id}", rule, architecture, architecture.source))
    return tuple(kinds), tuple(warnings)


def _architecture(device: PciDevice) -> str:
    found = re.search(r"\b(GK|GM|GP|GV|TU|GA|AD|GH|GB)\d{3}[A-Z0-9]*\b", device.description)
    return _CHIPS[found.group(1)] if found else "unknown"


def check_branch(kinds: Sequence[GpuKind], branch: int, whose: str) -> None:
    """Refuse a branch that is too new or too old for a GPU; `whose` says where the branch is from ("the release").

    Raises:
        DriverRefused: with the branch that would do.
    """
    for kind in kinds:
        limits = kind.architecture
        if limits.last_branch is not None and branch > limits.last_branch:
            raise DriverRefused(
                f"{kind.name} ({limits.name}): branch {limits.last_branch} was the last with support for it, "
                f"{whose} has {branch}",
                remedy=f"give this host a release with driver branch {limits.last_branch} or older",
            )
        if limits.min_branch is not None and branch < limits.min_branch:
            raise DriverRefused(
                f"{kind.name} ({limits.name}): branch {limits.min_branch} was the first with support for it, "
                f"{whose} has {branch}",
                remedy=f"give this host a release with driver branch {limits.min_branch} or newer"
                + (" from NVIDIA's repository (driver.source 'nvidia')" if whose != "the release" else ""),
            )


def choose_modules(
    kinds: Sequence[GpuKind], branch: int, setting: str, branches: ModuleKinds
) -> tuple[Modules, Reason]:
    """Choose the kernel modules that serve every kind of GPU.

    Args:
        kinds: the host's GPUs.
        branch: driver branch.
        setting: `driver.modules`.
        branches: which kinds of module the branches have.

    Raises:
        DriverRefused: none serves all of them, or the setting is against what a GPU needs.
    """
    open_only = branches.open_only.branch
    need_open = [k for k in kinds if k.rule == "open-required"]
    need_proprietary = [k for k in kinds if k.rule == "proprietary-only"]
    if need_open and need_proprietary:
        raise DriverRefused(
            f"{need_open[0].name} works with open kernel modules only, {need_proprietary[0].name} with proprietary "
            "ones only: no driver serves both",
            remedy="put them into different hosts",
        )
    if need_proprietary and branch >= open_only:
        raise DriverRefused(
            f"{need_proprietary[0].name} needs proprietary kernel modules; branch {branch} has open ones only",
            remedy=f"give this host a release with a branch before {open_only}",
        )
    if setting == "proprietary" and (need_open or branch >= open_only):
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
        kind = need_proprietary[0]
        return "proprietary", Reason("proprietary", f"{kind.name} needs them", kind.source)
    if setting == "proprietary":
        return "proprietary", Reason("proprietary", "driver.modules says so", "settings")
    if setting == "open":
        return "open", Reason("open", "driver.modules says so", "settings")
    if branch >= branches.open_by_default.branch:
        why = f"recommended for {kinds[0].architecture.name} and later"
        return "open", Reason("open", why, kinds[0].source)
    return "proprietary", Reason(
        "proprietary",
        f"the default of branch {branch}, before {branches.open_by_default.branch}",
        branches.open_by_default.source,
    )
