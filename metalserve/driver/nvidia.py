"""Drivers of NVIDIA's CUDA repository: the release's exact version, and what keeps it there."""

from __future__ import annotations

from metalserve.catalogue.driver_packages import DriverPackages, System, rule_for
from metalserve.catalogue.loader import load_driver_packages
from metalserve.desired.model import Package
from metalserve.driver.packages import (
    driver_packages,
    fabric_packages,
    header_packages,
    imex_packages,
    packaging,
    pinning_package,
    toolkit_package,
)
from metalserve.driver.plan import Found, Kept, Machine, Modules, Origin, Reason
from metalserve.driver.platform import Platform
from metalserve.releases import Release


def from_nvidia(machine: Machine, release: Release, modules: Modules, *, toolkit: bool) -> Found:
    """Return the release's driver as NVIDIA's CUDA repository has it for the host's system.

    Args:
        machine: the host.
        release: the pinned versions.
        modules: kind of kernel modules.
        toolkit: the CUDA toolkit is wanted on the host itself.
    """
    names = load_driver_packages()
    platform, branch, version = machine.platform, release.driver.branch, release.driver.version
    system = names.system(platform.os_id)
    assert system is not None, "a platform is made of a system of the catalogue"
    packages = driver_packages(platform, branch, version, open_modules=modules == "open")
    fabric, fabric_reason = _fabric(machine, branch, version, names)
    kept, pinning, kept_reason = _kept(system, branch, version, modules, (*packages, *fabric), names)
    headers = header_packages(platform, machine.kernel)
    origin, needs = _origin(platform, names)
    rule = rule_for(names.repository.driver[platform.family], branch)
    reasons = (
        Reason(origin.name, f"driver.source is 'nvidia'; the directory of {platform.os_id}", names.sources["guide"]),
        *needs,
        kept_reason,
        Reason(
            _listed(packages),
            f"compute-only packages of branch {branch} on {platform.os_id}: a server needs no X libraries",
            rule.source,
        ),
        _build(system, branch, modules, names),
        *_headers(machine, headers, names),
        fabric_reason,
        _toolkit(release, toolkit, names),
    )
    return Found(
        origin=origin,
        version=version,
        pinning=pinning,
        packages=packages,
        fabric=fabric,
        build="dkms",
        module_file="nvidia",
        headers=headers,
        kept=kept,
        toolkit=(toolkit_package(release.cuda.toolkit),) if toolkit else (),
        reasons=reasons,
        warnings=_warnings(machine, system, branch, bool(fabric), names),
    )


def _listed(packages: tuple[Package, ...]) -> str:
    return " ".join(p.name for p in packages)


def _origin(platform: Platform, names: DriverPackages) -> tuple[Origin, list[Reason]]:
    needs = names.repository.needs.get(platform.family)
    origin = Origin(
        "NVIDIA's CUDA repository", platform.fill(names.repository.url), needs=needs.text if needs is not None else ""
    )
    if needs is None:
        return origin, []
    return origin, [Reason(needs.text, "NVIDIA's packages depend on packages of these", needs.source)]


def _kept(
    system: System,
    branch: int,
    version: str,
    modules: Modules,
    packages: tuple[Package, ...],
    names: DriverPackages,
) -> tuple[Kept, Package | None, Reason]:
    rules = names.repository.keep
    if system.keep == "module-stream":
        stream = rules.streams.of(modules).format(branch=branch)
        why = f"EL 9 has module streams; this one has branch {branch} only, and an update moves the family as one"
        return Kept("module-stream", stream), None, Reason(f"module stream {stream}", why, rules.streams.source)
    if system.keep == "versionlock":
        lock = rules.versionlock.text.format(branch=branch)
        why = f"EL 10 has no module streams; {rules.versionlock.plugin} keeps the branch, and the family moves as one"
        return Kept("versionlock", lock), None, Reason(f"versionlock {lock}", why, rules.versionlock.source)
    pin = rules.pinning
    if branch >= pin.first_branch:
        package = pinning_package(version)
        why = "its apt preferences keep the whole family at one version; NVIDIA says not to hold packages as well"
        return Kept("pinning-package", package.name), package, Reason(package.name, why, pin.source)
    held = tuple(p.name for p in packages)
    why = f"there are pinning packages from branch {pin.first_branch} on; before it, the family is held"
    return Kept("hold", names=held), None, Reason("apt-mark hold", why, pin.source)


def _build(system: System, branch: int, modules: Modules, names: DriverPackages) -> Reason:
    streams = names.repository.keep.streams
    why = "built for each kernel whose headers are there"
    if system.keep == "module-stream":
        precompiled = streams.precompiled.format(branch=branch)
        why += f"; the precompiled modules of stream {precompiled} are proprietary and for Red Hat's own kernels only"
        why += ", and a kernel update waits for them" if modules == "proprietary" else ""
        return Reason("modules built by DKMS", why, streams.source)
    return Reason("modules built by DKMS", f"{why}; NVIDIA's repository has no precompiled ones here", streams.source)


def _headers(machine: Machine, headers: tuple[Package, ...], names: DriverPackages) -> list[Reason]:
    if not headers:
        return []
    why = f"DKMS builds for kernel {machine.kernel}"
    return [Reason(_listed(headers), why, names.sources["guide"])]


def _fabric(machine: Machine, branch: int, version: str, names: DriverPackages) -> tuple[tuple[Package, ...], Reason]:
    platform = machine.platform
    if machine.needs_imex:
        imex = imex_packages(branch, version, platform=platform)
        why = (
            "a tray of a rack-scale system: fabric manager runs on the switch trays, IMEX of the driver's version here"
        )
        return imex, Reason(_listed(imex), why, names.sources["imex"])
    source = rule_for(names.repository.fabric[packaging(platform)], branch).source
    if not machine.needs_fabric_manager:
        return (), Reason("no fabric manager", "no GPU of this host is behind an NVSwitch", source)
    fabric = fabric_packages(branch, version, nvlsm=machine.needs_nvlsm, platform=platform)
    why = "the GPUs reach each other through NVSwitches; fabric manager refuses any driver but its own version"
    if machine.needs_nvlsm:
        why += ", and NVLink5 switches need the subnet manager nvlsm"
    return fabric, Reason(_listed(fabric), why, source)


def _toolkit(release: Release, wanted: bool, names: DriverPackages) -> Reason:
    if wanted:
        package = toolkit_package(release.cuda.toolkit).name
        why = "cuda.toolkit is set; never `cuda`, which would bring another driver"
        return Reason(package, why, names.repository.toolkit.source)
    why = "containers bring their own; the host needs a driver that is new enough"
    return Reason("no CUDA toolkit", why, names.repository.toolkit.source)


def _warnings(machine: Machine, system: System, branch: int, fabric: bool, names: DriverPackages) -> tuple[str, ...]:
    found = []
    if system.first_branch is not None and branch < system.first_branch:
        doubt = " (not confirmed)" if "first_branch" in system.unconfirmed else ""
        found.append(
            f"NVIDIA's directory {system.distro} begins with branch {system.first_branch}{doubt}: whether it has "
            f"branch {branch} is seen only when the host asks"
        )
    rule = rule_for(names.repository.fabric[packaging(machine.platform)], branch)
    if fabric and rule.unconfirmed:
        found.append(f"names of the fabric packages of branch {branch} on {system.id} are not confirmed by a source")
    if machine.kernel and not header_packages(machine.platform, machine.kernel):
        found.append(
            f"kernel {machine.kernel} is none of {machine.platform.os_id}: its headers must be there already, or DKMS "
            "cannot build"
        )
    return tuple(found)
