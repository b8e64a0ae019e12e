"""The values of the choice: what a host is, what is chosen for it, and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from metalserve.desired.model import Package
from metalserve.driver.platform import Platform
from metalserve.errors import MetalserveError
from metalserve.hardware.node import PciDevice

Modules = Literal["open", "proprietary"]
Source = Literal["nvidia", "distro"]
Build = Literal["dkms", "precompiled"]
KeptBy = Literal["pinning-package", "hold", "module-stream", "versionlock"]

PREFERENCES_PATH = "/etc/apt/preferences.d/metalserve-driver.pref"
"""Where the preferences of a plan are written on a host with apt."""


class DriverRefused(MetalserveError):
    """No driver of this release can serve this host; it is told before anything is touched."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One choice and why it was made."""

    choice: str
    why: str
    source: str


@dataclass(frozen=True)
class Machine:
    """What the choice depends on, as far as a host without a driver can tell it.

    Attributes:
        platform: operating system and architecture.
        gpus: its GPUs on the PCI bus.
        secure_boot: the firmware loads signed kernel code only.
        needs_fabric_manager: its GPUs reach each other through NVSwitches.
        needs_nvlsm: they are of the NVLink5 kind.
        needs_imex: it is a tray of a rack-scale system (GB200, GB300 NVL72).
        kernel: what `uname -r` prints; "" when it is not known yet.
    """

    platform: Platform
    gpus: tuple[PciDevice, ...]
    secure_boot: bool = False
    needs_fabric_manager: bool = False
    needs_nvlsm: bool = False
    needs_imex: bool = False
    kernel: str = ""


@dataclass(frozen=True, slots=True)
class Origin:
    """The one repository that every package of a plan comes from.

    Attributes:
        name: in words ("NVIDIA's CUDA repository", "Debian's archive").
        url: NVIDIA's directory for this system; "" for the distribution's archive, which the host's own sources name.
        components: components of the archive that must be enabled; none for NVIDIA's flat repository.
        needs: what it takes besides ("EPEL (dkms) and CRB"); "" for nothing.
    """

    name: str
    url: str = ""
    components: tuple[str, ...] = ()
    needs: str = ""


@dataclass(frozen=True, slots=True)
class Kept:
    """What keeps the driver from moving under a running node.

    Attributes:
        by: the means.
        what: package, module stream or lock that does it; "" for holds.
        names: packages that are held, for `hold`.
    """

    by: KeptBy
    what: str = ""
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Preference:
    """One stanza of apt's preferences."""

    packages: tuple[str, ...]
    pin: str
    priority: int
    why: str

    def render(self) -> str:
        """Return the stanza, its reason in the field that apt has for it."""
        names = " ".join(self.packages)
        return f"Explanation: {self.why}\nPackage: {names}\nPin: {self.pin}\nPin-Priority: {self.priority}\n"


@dataclass(frozen=True, slots=True)
class CudaNeed:
    """Whether the driver runs the release's image.

    Attributes:
        image: CUDA of the image, major.minor.
        brings: CUDA of the driver's branch, or None when not known.
        min_driver: oldest driver that runs it, or None when not known.
        met: None when the version that the archive will bring decides.
    """

    image: str
    brings: str | None
    min_driver: str | None
    met: bool | None


@dataclass(frozen=True)
class DriverPlan:
    """What is installed on a host.

    Attributes:
        modules: kind of kernel modules.
        branch: driver branch; the archive's own where `source` is "distro".
        version: exact version of every package, or None where the distribution's archive decides.
        pinning: package that must be installed before the others are resolved, where there is one.
        packages: the driver; each at `version` where that is known.
        fabric: fabric manager's or IMEX's family of the same version; empty where no GPU needs it.
        reasons: why.
        warnings: what should be known, each one line.
        platform: operating system and architecture.
        source: whose packages.
        origin: the repository of all of them.
        build: how the modules come to be.
        module_file: name of the module's file without `.ko`, as `modinfo` and `dkms status` know it.
        headers: headers of the kernel, for DKMS; empty when the kernel is not the distribution's own.
        kept: what keeps the driver at its version.
        preferences: stanzas of apt's preferences that must be there before apt resolves.
        toolkit: CUDA toolkit, only where it was asked for.
        cuda: whether the driver runs the release's image; this is what is checked where `version` is None.
    """

    modules: Modules
    branch: int
    version: str | None
    pinning: Package | None
    packages: tuple[Package, ...]
    fabric: tuple[Package, ...]
    reasons: tuple[Reason, ...]
    warnings: tuple[str, ...]
    platform: Platform
    source: Source
    origin: Origin
    build: Build
    module_file: str
    headers: tuple[Package, ...]
    kept: Kept
    cuda: CudaNeed
    preferences: tuple[Preference, ...] = ()
    toolkit: tuple[Package, ...] = field(default=())

    @property
    def every_package(self) -> tuple[Package, ...]:
        """All packages in the order in which they are installed."""
        first = (self.pinning,) if self.pinning is not None else ()
        return (*first, *self.headers, *self.packages, *self.fabric, *self.toolkit)

    @property
    def preferences_text(self) -> str:
        """Content of `PREFERENCES_PATH` after a first comment, or "" when there is nothing to prefer."""
        return "\n".join(p.render() for p in self.preferences)
