"""Names of the packages in NVIDIA's CUDA repository, by family, branch and kind of kernel module.

Compute-only sets throughout: a server needs no X libraries. Sources: NVIDIA driver installation guide (Ubuntu, Debian,
"Ubuntu 590 and later packages", compute-only systems) and the repository's package index of July 2026. Two cliffs:
Ubuntu's driver packages carry the branch in their name up to 580, the fabric manager's family up to 575.
"""

from __future__ import annotations

from metalserve.desired.model import Package
from metalserve.driver.platform import Platform

LAST_SUFFIXED_DRIVER = 580
LAST_SUFFIXED_FABRIC = 575


def pinning_package(version: str) -> Package:
    """Return the package whose apt preferences (priority 1000) keep everything of the driver at `version`.

    It exists for each exact version as well as for each branch; its own version number says nothing.
    """
    return Package(f"nvidia-driver-pinning-{version}")


def driver_packages(platform: Platform, branch: int, version: str, *, open_modules: bool) -> tuple[Package, ...]:
    """Return the compute-only packages of a driver, each at exactly `version`."""
    names: tuple[str, ...]
    if platform.family == "debian":
        names = (
            "nvidia-kernel-open-dkms" if open_modules else "nvidia-kernel-dkms",
            "nvidia-driver-cuda",
            "nvidia-persistenced",
        )
    elif branch <= LAST_SUFFIXED_DRIVER:
        names = (
            f"nvidia-dkms-{branch}-open" if open_modules else f"nvidia-dkms-{branch}",
            f"libnvidia-compute-{branch}",
            f"nvidia-utils-{branch}",  # nvidia-smi; the compute library alone does not bring it
            f"nvidia-compute-utils-{branch}",  # nvidia-persistenced
        )
    else:
        # Ubuntu's part of the repository has no nvidia-driver-cuda; the guide names these two for compute only.
        names = ("nvidia-dkms-open" if open_modules else "nvidia-dkms", "libnvidia-compute", "nvidia-persistenced")
    return tuple(Package(name, version) for name in names)


def fabric_packages(branch: int, version: str, *, nvlsm: bool) -> tuple[Package, ...]:
    """Return fabric manager and the switch query library at exactly `version`, with nvlsm where NVLink5 needs it."""
    suffix = f"-{branch}" if branch <= LAST_SUFFIXED_FABRIC else ""
    packages = (Package(f"nvidia-fabricmanager{suffix}", version), Package(f"libnvidia-nscq{suffix}", version))
    # nvlsm has a calendar version of its own and is good for several branches.
    return (*packages, Package("nvlsm")) if nvlsm else packages


def toolkit_package(cuda: str) -> Package:
    """Return the CUDA toolkit's package; never `cuda` or `cuda-13-0`, which would bring another driver."""
    return Package(f"cuda-toolkit-{cuda.replace('.', '-')}")


def header_packages(platform: Platform, kernel: str) -> tuple[Package, ...]:
    """Return the packages with which DKMS builds for `kernel` and, on Debian, for those that upgrades will bring.

    Empty when `kernel` (`uname -r`) is none of the distribution's own.
    """
    flavour = kernel.rpartition("-")[2]
    if platform.family == "debian" and flavour in ("amd64", "arm64"):
        base = kernel[: -len(flavour) - 1]
        kind = "".join(f"{word}-" for word in ("cloud", "rt") if base.endswith(f"-{word}"))
        return (Package(f"linux-headers-{kernel}"), Package(f"linux-headers-{kind}{flavour}"))
    if platform.family == "ubuntu" and flavour in (
        "generic",
        "lowlatency",
        "nvidia",
        "aws",
        "azure",
        "gcp",
        "oracle",
        "64k",
    ):
        return (Package(f"linux-headers-{kernel}"),)
    return ()
