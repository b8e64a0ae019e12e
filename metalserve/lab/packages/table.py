"""Stand-in packages as data: names, versions and relations of NVIDIA's repository for Debian 12 and 13.

Names and the version form are those of NVIDIA's repository (driver installation guide; DCGM and container toolkit
documentation; see the sources in `metalserve/catalogue`). Relations are reduced to what decides how apt resolves,
pins, upgrades and refuses: nothing here contains NVIDIA's software.
"""

from __future__ import annotations

from metalserve.lab.packages.driver import DRIVERS, driver_packages, pinning_packages
from metalserve.lab.packages.kernels import kernel_packages
from metalserve.lab.packages.model import Package
from metalserve.lab.packages.others import TOOLKITS, other_packages, toolkit_packages


def all_packages(kernel_release: str, architecture: str = "amd64") -> list[Package]:
    """Every package of the lab's repository, for a machine that runs this kernel."""
    found = [package for version in DRIVERS for package in driver_packages(version)]
    found += pinning_packages()
    found += [package for version in TOOLKITS for package in toolkit_packages(version)]
    found += other_packages()
    found += kernel_packages(kernel_release, architecture)
    return found


UBUNTU_NAMES: dict[str, dict[str, str]] = {
    "580": {
        "libcuda1": "libnvidia-compute-580",
        "nvidia-kernel-open-dkms": "nvidia-dkms-580-open",
        "nvidia-kernel-dkms": "nvidia-dkms-580",
        "nvidia-smi": "nvidia-utils-580",
        "nvidia-open": "nvidia-open-580",
        "cuda-drivers": "cuda-drivers-580",
    },
    "595": {
        "libcuda1": "libnvidia-compute",
        "nvidia-kernel-open-dkms": "nvidia-dkms-open",
        "nvidia-kernel-dkms": "nvidia-dkms",
        "nvidia-smi": "nvidia-utils",
        "nvidia-open": "nvidia-open",
        "cuda-drivers": "cuda-drivers",
    },
}
"""Debian name -> name in NVIDIA's repository for Ubuntu, by branch: suffixed up to 580, plain from 590 on."""
