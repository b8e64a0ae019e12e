"""Operating systems as NVIDIA's repositories name them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from metalserve.errors import MetalserveError

Family = Literal["debian", "ubuntu"]

DISTROS: dict[str, tuple[Family, str, str]] = {
    "debian-12": ("debian", "debian12", "bookworm"),
    "debian-13": ("debian", "debian13", "trixie"),
    "ubuntu-22.04": ("ubuntu", "ubuntu2204", "jammy"),
    "ubuntu-24.04": ("ubuntu", "ubuntu2404", "noble"),
    "ubuntu-26.04": ("ubuntu", "ubuntu2604", "resolute"),
}
"""Our name of an OS -> family, directory in NVIDIA's CUDA repository, code name.

Source: NVIDIA driver installation guide, network repositories.
"""

ARCHITECTURES = {"x86_64": "x86_64", "aarch64": "sbsa"}
"""`uname -m` -> directory in NVIDIA's CUDA repository. Source: the same."""


@dataclass(frozen=True, slots=True)
class Platform:
    """An operating system on an architecture.

    Attributes:
        os_id: our name ("debian-12").
        family: whose package names apply.
        distro: directory in NVIDIA's repository ("debian12").
        codename: the distribution's code name ("bookworm"), as its own repositories use it.
        arch: directory of the architecture in NVIDIA's repository ("x86_64", "sbsa").
    """

    os_id: str
    family: Family
    distro: str
    codename: str
    arch: str

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


def platform_of(os_id: str, machine: str = "x86_64") -> Platform:
    """Return the platform of an OS ("ubuntu-24.04") on an architecture (`uname -m`).

    Raises:
        MetalserveError: NVIDIA's repository has no such directory, or we do not know its packages.
    """
    if os_id not in DISTROS:
        raise MetalserveError(
            f"no NVIDIA packages are known for {os_id}", remedy=f"reinstall with one of: {', '.join(DISTROS)}"
        )
    if machine not in ARCHITECTURES:
        raise MetalserveError(f"no NVIDIA packages are known for architecture {machine}", remedy="use x86_64 hosts")
    family, distro, codename = DISTROS[os_id]
    return Platform(os_id, family, distro, codename, ARCHITECTURES[machine])
