"""The driver for the kernel that boots next: its headers, and the module that DKMS builds for it. Pure."""

from __future__ import annotations

import re
import shlex

from metalserve.desired.model import Action, Desired, Package
from metalserve.desired.node import Node
from metalserve.desired.observed import Observation
from metalserve.driver.choice import DriverPlan
from metalserve.driver.packages import header_packages
from metalserve.driver.platform import Platform
from metalserve.hardware.boot import DiskKernel
from metalserve.verify.next_kernel import next_kernel

_META = re.compile(
    r"linux-image-((?:cloud-|rt-)?(?:amd64|arm64)"
    r"|(?:generic|lowlatency|nvidia|virtual|aws|azure|gcp|oracle|ibm|oem)(?:-[a-z0-9.]+)*)"
)
"""A package that brings the newest kernel: linux-image-amd64, linux-image-generic-hwe-24.04, linux-image-nvidia."""


def boots_next(node: Node) -> DiskKernel | None:
    """Return the kernel that boots next, when it is known, there, and another one than runs now."""
    boot = node.hardware.boot
    release = next_kernel(boot).release if boot is not None else None
    if boot is None or release is None or release == node.observed.facts.get("kernel"):
        return None
    kernel = boot.kernel(release)
    return kernel if kernel is not None and kernel.tree else None


def built_by_dkms(chosen: DriverPlan) -> tuple[Package, ...]:
    """Return the packages of the plan whose modules DKMS builds on the host; empty for precompiled ones."""
    return tuple(p for p in chosen.packages if "dkms" in p.name)


def headers(node: Node, platform: Platform, chosen: DriverPlan) -> Desired:
    """Headers for the kernel that boots next, and the meta packages that bring them along with later kernels."""
    if not built_by_dkms(chosen):
        return Desired()
    # Where only older kernels have a driver, the plan leaves out the package that brings the newest headers.
    follows = chosen.source == "nvidia" or len(chosen.headers) > 1
    packages = [Package(f"linux-headers-{flavour}") for flavour in _flavours(node.observed) if follows]
    kernel = boots_next(node)
    actions: tuple[Action, ...] = ()
    if kernel is not None:
        found = header_packages(platform, kernel.release)
        packages += [p for p in found if p.name == f"linux-headers-{kernel.release}"]
        if not found and not kernel.headers:
            actions = (_foreign_headers(node, kernel.release),)
    return Desired(packages=tuple(dict.fromkeys(packages)), actions=actions)


def _flavours(observed: Observation) -> list[str]:
    found = (_META.fullmatch(name) for name, package in observed.packages.items() if package.installed)
    return sorted(m.group(1) for m in found if m and not m.group(1).endswith(("-dbg", "-unsigned")))


def _foreign_headers(node: Node, release: str) -> Action:
    """Headers of a kernel that is none of the distribution's own."""
    package = f"linux-headers-{release}"
    script = (
        "ms_apt update || ms_fail 'apt-get update failed -> check the repositories and the network'\n"
        f"apt-cache show {shlex.quote(package)} >/dev/null 2>&1 || ms_fail 'kernel {release} boots next, has no "
        f"headers and no repository has {package}, so no driver module can be built for it -> install those that "
        "belong to it, or make another kernel the default'\n"
        f"ms_apt install {shlex.quote(package)}"
    )

    def there(observed: Observation) -> bool:
        boot = node.with_observation(observed).hardware.boot
        kernel = boot.kernel(release) if boot is not None else None
        return kernel is None or kernel.headers

    return Action(f"install headers of kernel {release}, which boots next", there, script, phase="early")


def build_next(node: Node, chosen: DriverPlan, version: str | None) -> Desired:
    """The module of the release built for the kernel that boots next.

    Args:
        node: the host.
        chosen: its driver.
        version: of the driver's packages; None before they are there, when their installation builds what it can.
    """
    kernel = boots_next(node)
    if kernel is None or version is None or not built_by_dkms(chosen):
        return Desired()
    release = kernel.release

    def built(observed: Observation) -> bool:
        boot = node.with_observation(observed).hardware.boot
        found = boot.kernel(release) if boot is not None else None
        module = found.module if found is not None else None
        return module is not None and module.version == version

    name = f"build the nvidia module for kernel {release}, which boots next"
    return Desired(actions=(Action(name, built, build_script(release, chosen, version)),))


def build_script(release: str, chosen: DriverPlan, version: str) -> str:
    """Return the script that has DKMS build `version` for kernel `release`; a source that is lost is fetched anew."""
    packages = " ".join(shlex.quote(p.name) for p in built_by_dkms(chosen))
    return f"""\
command -v dkms >/dev/null || ms_fail 'dkms is not installed, so no module can be built'
ms_built() {{ [ "$(modinfo -k {release} -F version {chosen.module_file} 2>/dev/null)" = {version} ]; }}
dkms autoinstall -k {release} || :
ms_built || depmod {release} || :
if ! ms_built && [ -n {shlex.quote(packages)} ]; then
  echo 'DKMS cannot build the driver: its source is installed again'
  ms_apt install --reinstall --allow-change-held-packages {packages} || :
  dkms autoinstall -k {release} || :
  ms_built || depmod {release} || :
fi
ms_built || {{ tail -n 20 /var/lib/dkms/nvidia*/*/build/make.log 2>/dev/null || :; dkms status || :
  ms_fail 'DKMS could not build nvidia {version} for kernel {release} -> see the lines above; are its headers \
installed (linux-headers-{release})?'; }}"""


__all__ = ["boots_next", "build_next", "build_script", "built_by_dkms", "headers"]
