"""What `nvidia_driver` wants of a host: pure."""

from __future__ import annotations

import re

from metalserve.desired.model import Action, Desired, File, Module, NotYetKnown, Package, Reboot, Unit, Watch
from metalserve.desired.node import Node
from metalserve.desired.observed import Observation
from metalserve.driver import DriverPlan
from metalserve.driver.plan import PREFERENCES_PATH
from metalserve.driver.repository import key_path, repository_wish, source_path
from metalserve.driver.seen import KEY_SECTION, key_command
from metalserve.errors import MetalserveError
from metalserve.releases import Release
from metalserve.settings import HostSettings
from roles.base.desired import NOUVEAU
from roles.nvidia_driver import distro, kernels
from roles.nvidia_driver.chosen import machine, plan, platform, seen, wanted_version
from roles.nvidia_driver.proof import findings

MANAGED_BY = "# Written by metalserve (roles/nvidia_driver); changes here are undone by its next run.\n"
LOAD_AT_BOOT = "/etc/modules-load.d/metalserve-nvidia.conf"
BOOT_MODULES = ("nvidia", "nvidia-uvm")
PERSISTENCE = "nvidia-persistenced.service"

OLD_SOURCES = "/etc/apt/sources.list.d/cuda-"
PREFERENCES = "/etc/apt/preferences.d/"
PIN = "nvidia-driver-pinning-"
INITRAMFS_TOOL = "/usr/sbin/update-initramfs"
INITRAMFS_IMAGES = "/boot/initrd.img-"
BUILD_TREES = "/lib/modules/*/build"


def watch(settings: HostSettings, release: Release) -> Watch:
    """What an observation must look at for this role."""
    return Watch(
        paths=(
            source_path("nvidia"),
            key_path("nvidia"),
            distro.COMPONENTS,
            PREFERENCES_PATH,
            f"{OLD_SOURCES}*.list",
            f"{PREFERENCES}{PIN}*",
            LOAD_AT_BOOT,
            NOUVEAU,
            INITRAMFS_TOOL,
            f"{INITRAMFS_IMAGES}*",
            BUILD_TREES,
        ),
        units=(PERSISTENCE,),
        commands={KEY_SECTION: key_command()},
    )


def repository(node: Node) -> Desired:
    """NVIDIA's repository (or the mirror that the settings name), with its key checked by fingerprint.

    With `driver.source` "distro": the components of the distribution's own archive, and no repository of NVIDIA's.
    """
    chosen = plan(node)  # a host that cannot get a driver is refused before anything is written on it
    if chosen.source == "distro":
        return distro.repository(chosen)
    wish = repository_wish("nvidia", node.settings.repositories.nvidia, platform(node), MANAGED_BY)
    # The list that the package cuda-keyring leaves names the same URL with another key, and apt refuses both then.
    here = platform(node)
    gone = (f"{OLD_SOURCES}{here.distro}-{here.arch}.list", distro.COMPONENTS, PREFERENCES_PATH)
    return Desired(files=tuple(File(path, None) for path in gone)) + wish


def pin(node: Node) -> Desired:
    """The pinning package, and no other; it must be there before apt resolves the drivers."""
    wanted = plan(node).pinning
    if wanted is None:
        return Desired()
    # apt removes the other one, but leaves its preferences behind as a configuration file, and both would apply.
    purge = "\n".join(
        f"dpkg --purge {name} 2>/dev/null || :; rm -f {path}" for path, name in _pins(node.observed, wanted)
    )
    return Desired(
        packages=(wanted,),
        actions=(
            Action("purge the pins of other driver versions", lambda o: not _pins(o, wanted), purge, phase="middle"),
        ),
    )


def _pins(observed: Observation, wanted: Package) -> list[tuple[str, str]]:
    """Return path and package of each pin in apt's preferences that is not `wanted`'s."""
    found = [
        (p, p.removeprefix(PREFERENCES).removesuffix(".pref")) for p in observed.files if p.startswith(PREFERENCES)
    ]
    return [(path, name) for path, name in found if re.fullmatch(rf"{PIN}\d[\d.]*", name) and name != wanted.name]


def install(node: Node) -> Desired:
    """The driver's packages, and headers for the kernel that DKMS builds for."""
    chosen = plan(node)
    wish = Desired(
        packages=chosen.packages,
        # nvidia is loaded by its PCI alias at boot; nvidia-uvm is not, and a container cannot load it.
        files=(File(LOAD_AT_BOOT, MANAGED_BY + "".join(f"{m}\n" for m in BOOT_MODULES)),),
        actions=distro.holds(chosen, node.observed),
        notes=tuple(f"{r.choice}: {r.why} ({r.source})" for r in chosen.reasons),
    )
    return _headers(node) + kernels.headers(node, platform(node), chosen) + wish


def _headers(node: Node) -> Desired:
    chosen = plan(node)
    if chosen.build != "dkms":
        return Desired()
    if chosen.headers:
        return Desired(packages=chosen.headers)
    kernel = _build_kernel(node)
    tree = f"/lib/modules/{kernel}/build"
    # A kernel from elsewhere (the machine's, in a container): its headers may be there, or in a repository, or nowhere.
    script = (
        f"ms_apt update || ms_fail 'apt-get update failed -> check the repositories and the network'\n"
        f"apt-cache show linux-headers-{kernel} >/dev/null 2>&1 || ms_fail 'kernel {kernel} is none of "
        f"{node.observed.os_id}, has no headers in {tree} and no repository has linux-headers-{kernel}, so no driver "
        "module can be built for it -> install the headers that belong to it, or boot a kernel of the distribution'\n"
        f"ms_apt install linux-headers-{kernel}"
    )
    name = f"install headers of kernel {kernel}"
    return Desired(actions=(Action(name, lambda observed: tree in observed.files, script, phase="early"),))


def _build_kernel(node: Node) -> str:
    """Return the kernel that modules are built for.

    Raises:
        MetalserveError: an image without a kernel.
    """
    kernel = node.observed.kernel
    if not kernel:
        raise MetalserveError(
            "the image has no kernel (no /boot/vmlinuz-*), so no driver module can be built for it",
            remedy="put a kernel into the image first, for instance the package linux-image-amd64",
        )
    return kernel


def build(node: Node) -> Desired:
    """The module built for the running kernel (an image's own), where the packages are there and DKMS did not do it."""
    chosen = plan(node)
    kernel, version = _build_kernel(node), wanted_version(node)

    def built(observed: Observation) -> bool:
        now = node.with_observation(observed)
        # Before the packages are there, there is nothing to build: their installation does it.
        return now.hardware.module_on_disk is not None or not _installed(now, chosen)

    if version is None or chosen.build != "dkms":
        return Desired()
    script = kernels.build_script(kernel, chosen, version)
    return Desired(actions=(Action(f"build the nvidia module for kernel {kernel}", built, script),))


def build_next(node: Node) -> Desired:
    """The module built for the kernel that boots next, where that is another one."""
    chosen = plan(node)
    return kernels.build_next(node, chosen, wanted_version(node) if _installed(node, chosen) else None)


def reboot(node: Node) -> Desired:
    """The initramfs without nouveau, and a reboot where the kernel holds what cannot be swapped.

    Raises:
        NotYetKnown: a reboot is needed and the settings forbid it.
    """
    reason = reboot_reason(node)
    if reason is not None and node.settings.driver.reboot == "never":
        # Not a plain error: what comes before (blacklist, packages) must be done, so that the operator's reboot helps.
        raise NotYetKnown(
            f"{reason}, and driver.reboot is 'never'",
            remedy="reboot the host when it suits you, then run again; or set driver.reboot to 'auto'",
        )
    return Desired(
        actions=(Action("rebuild the initramfs without nouveau", _initramfs_fresh, "update-initramfs -u -k all"),),
        reboot=Reboot(reason, node.settings.driver.reboot_timeout_s) if reason is not None else None,
    )


def reboot_reason(node: Node) -> str | None:
    """Tell why the host must be rebooted before its driver can be used, or None."""
    hardware = node.hardware
    if hardware.nouveau_loaded:
        holder = next((m for m in ("nouveau", "nova_core") if m in hardware.loaded_modules), "nouveau")
        return f"{holder} is loaded and holds the GPUs"
    if hardware.module_version is None:
        return None
    chosen = plan(node)
    wanted = wanted_version(node)
    if wanted is None:
        return None
    if _installed(node, chosen) and hardware.module_on_disk not in (None, wanted):
        return None  # it would come up with the wrong module again; `activate` says so
    if hardware.module_version != wanted:
        whose = chosen.origin.name if chosen.source == "distro" else "the release"
        return f"driver {hardware.module_version} is loaded, {whose} has {wanted}"
    if hardware.module_open is not None and hardware.module_open != (chosen.modules == "open"):
        return (
            f"the {'open' if hardware.module_open else 'proprietary'} kernel module is loaded, {chosen.modules} wanted"
        )
    return None


def _installed(node: Node, chosen: DriverPlan) -> bool:
    return all(p.satisfied_by(node.observed.version_of(p.name)) for p in chosen.packages)


def _initramfs_fresh(observed: Observation) -> bool:
    blacklist = observed.files.get(NOUVEAU)
    if blacklist is None or INITRAMFS_TOOL not in observed.files:
        return True
    images = [f for p, f in observed.files.items() if p.startswith(INITRAMFS_IMAGES) and f.kind == "file"]
    return all(image.mtime >= blacklist.mtime for image in images)


def activate(node: Node) -> Desired:
    """The modules loaded, and persistence, which keeps the driver from unloading between two users of a GPU."""
    wanted = wanted_version(node)
    on_disk = node.hardware.module_on_disk
    if on_disk not in (None, wanted) and _installed(node, plan(node)):
        raise NotYetKnown(
            f"the next `modprobe nvidia` would load {on_disk}, the packages are of {wanted}",
            remedy="remove the other driver (a .run installer's leftover: `nvidia-uninstall`), then `dkms autoinstall`",
        )
    return Desired(
        modules=tuple(Module(m) for m in BOOT_MODULES),
        units=(Unit(PERSISTENCE),) if node.settings.driver.persistence else (),
    )


__all__ = [
    "activate",
    "build",
    "build_next",
    "findings",
    "install",
    "machine",
    "pin",
    "plan",
    "platform",
    "reboot",
    "reboot_reason",
    "repository",
    "seen",
    "watch",
]
