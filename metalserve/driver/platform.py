"""Operating systems as NVIDIA's repositories name them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from metalserve.catalogue.driver_packages import Family
from metalserve.catalogue.loader import load_driver_packages
from metalserve.catalogue.models import suggestion
from metalserve.errors import MetalserveError

__all__ = ["Family", "Platform", "machine_of", "platform_of"]

_MACHINES = {"amd64": "x86_64", "x86-64": "x86_64", "arm64": "aarch64", "sbsa": "aarch64"}
"""Other words for what `uname -m` prints."""


@dataclass(frozen=True, slots=True)
class Platform:
    """An operating system on an architecture.

    Attributes:
        os_id: our name ("debian-12", "rocky-9").
        family: whose package names apply.
        distro: directory in NVIDIA's repository ("debian12", "rhel9").
        codename: the distribution's code name ("bookworm"), as its own repositories use it; "" in the RHEL family.
        arch: directory of the architecture in NVIDIA's repository ("x86_64", "sbsa").
        machine: the architecture as `uname -m` prints it ("x86_64", "aarch64").
        dpkg_arch: the same for dpkg ("amd64", "arm64").
    """

    os_id: str
    family: Family
    distro: str
    codename: str
    arch: str
    machine: str = "x86_64"
    dpkg_arch: str = "amd64"

    def fill(self, template: str) -> str:
        """Return `template` with {distro}, {arch}, {codename} and {family} filled in."""
        for name, value in (
            ("distro", self.distro),
            ("arch", self.arch),
            ("codename", self.codename),
            ("family", self.family),
        ):
            template = template.replace("{" + name + "}", value)
        return template


def machine_of(word: str) -> str:
    """Return what `uname -m` prints on an architecture that is called `word` (amd64, arm64, sbsa ...)."""
    return _MACHINES.get(word.lower(), word)


def platform_of(os_id: str, machine: str = "x86_64") -> Platform:
    """Return the platform of an OS ("ubuntu-24.04", "rocky-9.6") on an architecture (`uname -m`).

    Raises:
        MetalserveError: NVIDIA's repository has no such directory, or we do not know its packages.
    """
    catalogue = load_driver_packages()
    # The RHEL family names minor releases ("9.6"), which take the same packages.
    name = os_id if catalogue.system(os_id) is not None else re.sub(r"\.\d+$", "", os_id)
    system = catalogue.system(name)
    if system is None:
        raise MetalserveError(
            f"no NVIDIA packages are known for {os_id}{suggestion(os_id, catalogue.os_ids)}",
            remedy=f"reinstall with one of: {', '.join(catalogue.os_ids)}",
        )
    cpu = next((a for a in catalogue.architectures if a.machine == machine), None)
    if cpu is None:
        names = [a.machine for a in catalogue.architectures]
        raise MetalserveError(
            f"no NVIDIA packages are known for architecture {machine}{suggestion(machine, names)}",
            remedy=f"use hosts with one of: {', '.join(names)}",
        )
    return Platform(name, system.family, system.distro, system.codename, cpu.repository, cpu.machine, cpu.dpkg)
