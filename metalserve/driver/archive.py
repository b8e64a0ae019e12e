"""Drivers of the distribution's own archive: it decides the version, and Ubuntu's has modules that it signed."""

from __future__ import annotations

import re

from metalserve.catalogue.driver_packages import AptIdentity, Archive, System
from metalserve.catalogue.loader import load_driver_packages
from metalserve.desired.model import Package
from metalserve.driver.packages import header_packages, kernel_flavour
from metalserve.driver.plan import Build, DriverRefused, Found, Kept, Machine, Modules, Origin, Preference, Reason
from metalserve.driver.platform import Platform

_KEEP_AWAY = -1
_HARMLESS = 500
_HOLD_BACK = 1001  # above 1000 apt goes back to an older version, where a newer one is installed already


def archive_of(platform: Platform) -> Archive:
    """Return the drivers of the distribution's own archive.

    Raises:
        DriverRefused: the distribution has none that we know of.
    """
    found = load_driver_packages().archive(platform.os_id)
    if found is None:
        raise DriverRefused(
            f"{platform.os_id} has no NVIDIA driver in an archive of its own that is known",
            remedy="set driver.source to 'nvidia'",
        )
    return found


def archive_origin(platform: Platform, archive: Archive) -> Origin:
    """Return the archive as the one repository of a plan."""
    return Origin(f"{platform.family.capitalize()}'s archive", components=archive.components)


def archive_branch(platform: Platform, archive: Archive, wanted: int) -> tuple[int, tuple[str, ...]]:
    """Return the branch that the archive gives where the release has `wanted`, and what should be known of it.

    Raises:
        DriverRefused: the archive has several branches, and none of them is the release's.
    """
    if wanted in archive.branches:
        return wanted, ()
    name = archive_origin(platform, archive).name
    if len(archive.branches) == 1:
        only = archive.branches[0]
        return only, (f"{name} has driver branch {only}: the release's branch {wanted} does not hold on this host",)
    moved = archive.moved.get(wanted)
    if moved is not None:
        return moved, (f"in {name} the packages of branch {wanted} are transitional: they bring branch {moved}",)
    raise DriverRefused(
        f"{name} has no driver branch {wanted}, it has {', '.join(map(str, archive.branches))}",
        remedy="give this host a release with one of these branches, or set driver.source to 'nvidia'",
    )


def from_archive(machine: Machine, archive: Archive, branch: int, modules: Modules) -> Found:
    """Return the packages of `branch` with `modules` in the distribution's archive.

    Raises:
        DriverRefused: a GPU needs what the archive does not have.
    """
    platform = machine.platform
    name = archive_origin(platform, archive).name
    _check_kernel(machine, archive)
    fabric, fabric_reasons = _fabric(machine, archive, branch)
    build: Build = "dkms"
    warnings: list[str] = []
    flavour = kernel_flavour(machine.kernel) if machine.kernel else "generic"
    if archive.precompiled is not None and flavour in archive.flavours:
        build = "precompiled"
        warnings.append(
            "what is held stays behind: a kernel that is newer than the held modules has none, so upgrade kernel and "
            "driver together (apt-mark unhold first)"
        )
        if not machine.kernel:
            warnings.append("the kernel is not known: the modules follow Ubuntu's generic kernel")
    packages = _packages(machine, archive, branch, modules, build)
    headers = header_packages(platform, machine.kernel) if build == "dkms" else ()
    if archive.kernels is not None:
        # The package that follows the newest kernel would bring headers that DKMS tries, and fails, to build for.
        headers = headers[:1]
        warnings.append(
            f"kernels from {archive.kernels.first_bad} on have no working driver in {name}: an update of the kernel "
            "would break this host"
        )
    reasons = [
        Reason(name, "driver.source is 'distro'", archive.source)
        if not machine.secure_boot
        else Reason(name, "signed for Secure Boot", archive.source),
        Reason("apt-mark hold", "the archive has no pinning packages: what was installed is held", archive.source),
        Reason(
            " ".join(p.name for p in packages),
            f"compute-only packages of branch {branch} in {name}; the archive decides the version",
            archive.source,
        ),
        *_build_reason(archive, build, machine),
        *fabric_reasons,
    ]
    preferences = [*_hold_back(archive, modules), *_keep_away(load_driver_packages().repository.apt, name)]
    reasons += [Reason(f"apt preference {p.pin} {p.priority}", p.why, archive.source) for p in preferences]
    if archive.hold_back is not None and archive.hold_back.modules == modules:
        warnings.append(f"the driver stays without the archive's newest security update: {archive.hold_back.why}")
    module_file = archive.module_files.of(modules) if archive.module_files is not None else "nvidia"
    return Found(
        origin=archive_origin(platform, archive),
        version=None,
        pinning=None,
        packages=packages,
        fabric=fabric,
        build=build,
        module_file=module_file,
        headers=headers,
        kept=Kept("hold", names=tuple(p.name for p in (*packages, *fabric))),
        preferences=tuple(preferences),
        reasons=tuple(reasons),
        warnings=tuple(warnings),
    )


def _check_kernel(machine: Machine, archive: Archive) -> None:
    """Refuse a kernel that the archive's driver is known not to compile for, minutes before the compiler would."""
    limit, kernel = archive.kernels, re.match(r"\d+\.\d+\.\d+(?:-\d+)?", machine.kernel)
    if limit is None or kernel is None or _numbers(kernel.group()) < _numbers(limit.first_bad):
        return
    raise DriverRefused(
        f"the driver of {archive_origin(machine.platform, archive).name} cannot be compiled for kernel "
        f"{machine.kernel}: {limit.why}",
        remedy=f"set driver.source to 'nvidia', or stay with kernel {limit.last_good} or older",
    )


def _numbers(version: str) -> tuple[int, ...]:
    # Debian 12 counts its kernels behind the hyphen (6.1.0-52), Debian 13 in the version itself (6.12.100).
    return tuple(int(part) for part in re.split(r"[.-]", version))


def _packages(machine: Machine, archive: Archive, branch: int, modules: Modules, build: str) -> tuple[Package, ...]:
    templates: list[str] = []
    if build == "precompiled" and archive.precompiled is not None and archive.follow is not None:
        # Without a kernel to name, the package that follows the newest kernel stands for both.
        templates += [archive.precompiled.of(modules)] if machine.kernel else []
        templates.append(archive.follow.of(modules))
    else:
        templates.append(archive.dkms.of(modules))
    if archive.headless is not None:
        templates.append(archive.headless.of(modules))
    templates += archive.user
    system = load_driver_packages().system(machine.platform.os_id)
    follow = _follow_flavour(machine.kernel, system)
    return tuple(Package(t.format(branch=branch, kernel=machine.kernel, flavour=follow)) for t in templates)


def _follow_flavour(kernel: str, system: System | None) -> str:
    """Return the ending of the package that follows the kernel's updates: "generic", "generic-hwe-24.04" ..."""
    flavour = kernel_flavour(kernel) or "generic"
    series = ".".join(kernel.split(".")[:2])
    if not kernel or system is None or system.ga_kernel is None or series == system.ga_kernel:
        return flavour
    return f"{flavour}-hwe-{system.id.partition('-')[2]}" if flavour.startswith("generic") else f"{flavour}-{series}"


def _build_reason(archive: Archive, build: str, machine: Machine) -> list[Reason]:
    if build == "precompiled":
        why = f"{archive_origin(machine.platform, archive).name} has modules built for this kernel: no compiler, "
        why += "and signed" if machine.platform.machine in archive.signed else "but on this architecture not signed"
        return [Reason("precompiled modules", why, archive.source)]
    why = "no precompiled modules for this kernel" if archive.precompiled else "the archive has no precompiled modules"
    return [Reason("modules built by DKMS", why, archive.source)]


def _fabric(machine: Machine, archive: Archive, branch: int) -> tuple[tuple[Package, ...], list[Reason]]:
    name = archive_origin(machine.platform, archive).name
    remedy = "set driver.source to 'nvidia'"
    if machine.secure_boot:
        remedy = "turn Secure Boot off in the firmware, and take the driver from NVIDIA's repository"
    if not (machine.needs_fabric_manager or machine.needs_imex):
        return (), [Reason("no fabric manager", "no GPU of this host is behind an NVSwitch", archive.source)]
    if archive.fabric is None:
        what = "IMEX" if machine.needs_imex else "fabric manager"
        raise DriverRefused(
            f"{name} has no {what}, without which the GPUs of this host cannot reach each other, and one of another "
            "repository would not be of the same version",
            remedy=remedy,
        )
    templates: tuple[str, ...]
    if machine.needs_imex:
        templates, why = (archive.fabric.imex,), "a tray of a rack-scale system: IMEX in place of fabric manager"
    else:
        templates = (archive.fabric.manager, archive.fabric.query)
        why = "the GPUs reach each other through NVSwitches; it depends on the driver of its own version"
    if machine.needs_nvlsm:
        raise DriverRefused(
            f"the NVLink5 switches of this host need nvlsm, which {name} does not have",
            remedy=remedy,
        )
    fabric = tuple(Package(t.format(branch=branch)) for t in templates)
    return fabric, [Reason(" ".join(p.name for p in fabric), why, archive.source)]


def _hold_back(archive: Archive, modules: Modules) -> list[Preference]:
    rule = archive.hold_back
    if rule is None or rule.modules != modules:
        return []
    return [Preference(rule.packages, rule.pin, _HOLD_BACK, rule.why)]


def _keep_away(nvidia: AptIdentity, name: str) -> list[Preference]:
    pin = f"release l={nvidia.label}"
    return [
        Preference(nvidia.harmless, pin, _HARMLESS, "no driver among these: they may come from NVIDIA's repository"),
        Preference(
            ("*",), pin, _KEEP_AWAY, f"the driver is of {name}, and never mixed with one of NVIDIA's repository"
        ),
    ]
