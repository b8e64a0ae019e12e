"""Names of the packages in NVIDIA's CUDA repository, by system, branch and kind of kernel module.

Compute-only sets throughout: a server needs no X libraries. The names and where they change are data:
`metalserve/catalogue/driver_packages.yaml`.
"""

from __future__ import annotations

import re
from typing import Literal

from metalserve.catalogue.driver_packages import rule_for
from metalserve.catalogue.loader import load_driver_packages
from metalserve.desired.model import Package
from metalserve.driver.platform import Platform


def pinning_package(version: str) -> Package:
    """Return the package whose apt preferences (priority 1000) keep everything of the driver at `version`.

    It exists for each exact version as well as for each branch; its own version number says nothing.
    """
    return Package(load_driver_packages().repository.keep.pinning.package.format(version=version))


def driver_packages(platform: Platform, branch: int, version: str, *, open_modules: bool) -> tuple[Package, ...]:
    """Return the compute-only packages of a driver, each at exactly `version`."""
    rule = rule_for(load_driver_packages().repository.driver[platform.family], branch)
    names = (rule.open if open_modules else rule.proprietary, *rule.user)
    return tuple(Package(name.format(branch=branch), version) for name in names)


def fabric_packages(branch: int, version: str, *, nvlsm: bool, platform: Platform | None = None) -> tuple[Package, ...]:
    """Return fabric manager and the switch query library at exactly `version`, with nvlsm where NVLink5 needs it.

    Without `platform` the names are those of apt, which are the same on Ubuntu and Debian.
    """
    repository = load_driver_packages().repository
    rule = rule_for(repository.fabric[_packaging(platform)], branch)
    packages = tuple(Package(name.format(branch=branch), version) for name in (rule.manager, rule.query))
    return (*packages, Package(repository.subnet_manager.package)) if nvlsm else packages


def imex_packages(branch: int, version: str, *, platform: Platform) -> tuple[Package, ...]:
    """Return IMEX at exactly `version`, which rack-scale trays need in place of fabric manager."""
    rule = rule_for(load_driver_packages().repository.fabric[_packaging(platform)], branch)
    return (Package(rule.imex.format(branch=branch), version),)


def _packaging(platform: Platform | None) -> Literal["apt", "rhel"]:
    return "rhel" if platform is not None and platform.family == "rhel" else "apt"


def toolkit_package(cuda: str) -> Package:
    """Return the CUDA toolkit's package; never `cuda` or `cuda-13-0`, which would bring another driver."""
    return Package(load_driver_packages().repository.toolkit.package.format(minor=cuda.replace(".", "-")))


def kernel_flavour(kernel: str) -> str:
    """Return the flavour of an Ubuntu kernel: "generic" for "6.8.0-90-generic", "" when it has none."""
    found = re.fullmatch(r"\d+\.\d+\.\d+-\d+-([a-z][a-z0-9-]*)", kernel)
    return found.group(1) if found else ""


def header_packages(platform: Platform, kernel: str) -> tuple[Package, ...]:
    """Return the packages with which DKMS builds for `kernel` and, on Debian, for those that upgrades will bring.

    Empty when `kernel` (`uname -r`) is none of the distribution's own.
    """
    rules = load_driver_packages().headers
    flavour = kernel.rpartition("-")[2]
    if platform.family == "debian" and flavour in ("amd64", "arm64"):
        base = kernel[: -len(flavour) - 1]
        kind = "".join(f"{word}-" for word in ("cloud", "rt") if base.endswith(f"-{word}"))
        return (Package(f"linux-headers-{kernel}"), Package(f"linux-headers-{kind}{flavour}"))
    if platform.family == "ubuntu" and flavour in rules.ubuntu_flavours:
        return (Package(f"linux-headers-{kernel}"),)
    if platform.family == "rhel" and re.search(r"\.el\d+", kernel):
        return tuple(Package(name) for name in rules.rhel.packages)
    return ()
