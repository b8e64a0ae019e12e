"""Which release a host is on, and so where it goes back to: recorded, recognised by its driver, or as found. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from metalserve.errors import MetalserveError
from metalserve.releases import Release
from metalserve.releases.model import DriverPin, VersionPin

_DRIVER = re.compile(r"nvidia-driver-cuda|libnvidia-compute(-\d+)?|nvidia-(kernel|dkms)(-\d+)?(-open)?(-dkms)?")
"""Packages whose version is the driver's, in all families and branches (see driver/packages.py)."""


def installed_driver(packages: Mapping[str, str]) -> str | None:
    """Return the upstream version of the driver packages, None where there are none.

    Args:
        packages: installed package -> full version.
    """
    for name, version in sorted(packages.items()):
        if _DRIVER.fullmatch(name):
            return re.split(r"[-+~]", version.rpartition(":")[2])[0]
    return None


def origin_of(
    recorded: Release | None, driver: str | None, toolkit: str | None, target: Release, known: Iterable[Release]
) -> Release:
    """Return the release that a host is on.

    Args:
        recorded: what the host's own record says, if it has one.
        driver: version of its driver, by its packages or its kernel.
        toolkit: full version of its container toolkit.
        target: the release that it is to get; fills in what cannot be told of a host without a record.
        known: the releases of the controller.

    Raises:
        MetalserveError: there is no driver, so there is nothing to upgrade.
    """
    if recorded is not None:
        return recorded
    if driver is None:
        raise MetalserveError(
            "no driver is installed, so there is nothing to upgrade",
            remedy="run deploys/gpu_node.py, which brings it up",
        )
    same = [r for r in known if r.driver.version == driver]
    if driver == target.driver.version:
        return target
    if len(same) == 1:
        return same[0]
    branch = driver.split(".")[0]
    return target.model_copy(
        update={
            "name": f"as-found-{driver}",
            "description": "what was installed when no release was recorded on the host",
            "end_of_life": None,
            "driver": DriverPin(branch=int(branch), version=driver),
            "fabric_manager": VersionPin(version=driver),
            **({"container_toolkit": VersionPin(version=toolkit)} if toolkit else {}),
        }
    )
