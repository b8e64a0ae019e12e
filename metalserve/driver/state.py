"""What of a driver a host has now: what the kernel holds, what is installed, whose packages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from metalserve.desired.observed import Observation
from metalserve.hardware.node import NodeHardware

_OF_A_DRIVER = re.compile(r"(lib)?nvidia-|libcuda1$|linux-(modules|objects|signatures)-nvidia-|nvlsm$|cuda-drivers")
_NOT_OF_A_DRIVER = re.compile(r"(lib)?nvidia-container|nvidia-(cuda-toolkit|docker|settings)")


def of_a_driver(package: str) -> bool:
    """Tell whether `package` belongs to a driver, whoever made it: modules, user space, fabric manager's family."""
    return bool(_OF_A_DRIVER.match(package)) and not _NOT_OF_A_DRIVER.match(package)


@dataclass(frozen=True)
class DriverState:
    """A host's driver as it is.

    Attributes:
        holder: nouveau or nova_core where one of them holds the GPUs.
        version: version of the loaded module, or None when none is loaded.
        open: the loaded module is the open one; None when none is loaded or it is not known.
        on_disk: version that the next `modprobe nvidia` would load, or None.
        packages: installed packages of a driver -> their versions.
    """

    holder: str | None = None
    version: str | None = None
    open: bool | None = None
    on_disk: str | None = None
    packages: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, hardware: NodeHardware, observed: Observation) -> Self:
        """Return the state that an observation told."""
        holder = next((m for m in ("nouveau", "nova_core") if m in hardware.loaded_modules), None)
        if holder is None and hardware.nouveau_loaded:
            holder = "nouveau"
        return cls(
            holder,
            hardware.module_version,
            hardware.module_open,
            hardware.module_on_disk,
            {
                name: package.version
                for name, package in observed.packages.items()
                if package.installed and of_a_driver(name)
            },
        )

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-ready values; `from_dict` reads them."""
        return {
            "holder": self.holder,
            "version": self.version,
            "open": self.open,
            "on_disk": self.on_disk,
            "packages": dict(self.packages),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return the state that `as_dict` made `data` of."""
        return cls(**data)
