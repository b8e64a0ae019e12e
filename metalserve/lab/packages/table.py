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


def all_packages(kernel_release: str | None, architecture: str = "amd64") -> list[Package]:
    """Every package of the lab's repository, for a machine that runs this kernel; None: without any for kernels."""
    found = [package for version in DRIVERS for package in driver_packages(version)]
    found += pinning_packages()
    found += [package for version in TOOLKITS for package in toolkit_packages(version)]
    found += other_packages()
    if kernel_release is not None:
        found += kernel_packages(kernel_release, architecture)
    return found
