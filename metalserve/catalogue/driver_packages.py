"""Types of driver_packages.yaml: which system takes which packages, from which repository. Each row says its source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Family = Literal["debian", "ubuntu", "rhel"]
Keep = Literal["pinning-package", "module-stream", "versionlock"]


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class _Rule(_Row):
    until: int | None = Field(None, description="last driver branch for which this holds; None: every later one")


class ByKind(_Row):
    """One name for the open kernel modules and one for the proprietary ones."""

    open: str
    proprietary: str

    def of(self, modules: Literal["open", "proprietary"]) -> str:
        """Return the name for this kind of module."""
        return self.open if modules == "open" else self.proprietary


class System(_Row):
    """An operating system."""

    id: str = Field(description="our name: ID of /etc/os-release, a hyphen, its version ('ubuntu-24.04', 'rhel-9')")
    also: tuple[str, ...] = Field((), description="rebuilds that take the same packages")
    family: Family
    distro: str = Field(description="directory in NVIDIA's CUDA repository")
    codename: str = ""
    keep: Keep = Field("pinning-package", description="what keeps a driver at its version")
    ga_kernel: str | None = Field(None, description="Ubuntu: series of the kernel that the release came with")
    first_branch: int | None = Field(None, description="oldest branch known to be in the directory")
    unconfirmed: tuple[str, ...] = ()
    source: str


class CpuArchitecture(_Row):
    """A processor architecture under the names that others give it."""

    machine: str = Field(description="uname -m")
    repository: str = Field(description="directory in NVIDIA's CUDA repository")
    dpkg: str


class FirstBranch(_Row):
    """A driver branch from which on something holds."""

    branch: int
    source: str


class ModuleKinds(_Row):
    """Which kind of kernel modules a branch has."""

    open_by_default: FirstBranch
    open_only: FirstBranch
    source: str = Field(description="which kind each architecture needs")


class DriverNames(_Rule):
    """Compute-only packages of a driver: kernel modules and user space."""

    open: str
    proprietary: str
    user: tuple[str, ...]
    source: str


class FabricNames(_Rule):
    """Fabric manager's family."""

    manager: str
    query: str
    imex: str
    unconfirmed: tuple[str, ...] = ()
    source: str


class PinningPackage(_Row):
    """The package whose apt preferences hold everything of a driver at one version."""

    package: str
    first_branch: int
    source: str


class Streams(ByKind):
    """Module streams of EL 9; each is one branch."""

    precompiled: str
    source: str


class Sourced(_Row):
    """One package or text and where it is from."""

    package: str = ""
    text: str = ""
    plugin: str = ""
    source: str


class KeepNames(_Row):
    """What keeps a driver of NVIDIA's repository at its version."""

    pinning: PinningPackage
    streams: Streams
    versionlock: Sourced


class AptIdentity(_Row):
    """How apt tells NVIDIA's repository from others."""

    label: str
    harmless: tuple[str, ...] = Field(description="packages of it that any host may take, whoever its driver is from")
    source: str


class Repository(_Row):
    """NVIDIA's CUDA repository."""

    url: str
    driver: Mapping[Family, tuple[DriverNames, ...]]
    fabric: Mapping[Literal["apt", "rhel"], tuple[FabricNames, ...]]
    subnet_manager: Sourced
    toolkit: Sourced
    keep: KeepNames
    apt: AptIdentity
    needs: Mapping[Family, Sourced]


class HeaderNames(_Row):
    """Headers of the RHEL family."""

    packages: tuple[str, ...]
    source: str


class Headers(_Row):
    """Packages with the headers of a kernel."""

    rhel: HeaderNames
    ubuntu_flavours: tuple[str, ...]


class HoldBack(_Row):
    """Packages that must be taken from an older suite, since one of the family lags behind."""

    modules: Literal["open", "proprietary"]
    packages: tuple[str, ...]
    pin: str
    why: str


class ArchiveFabric(_Row):
    """Fabric manager's family in a distribution's archive."""

    manager: str
    query: str
    imex: str


class KernelLimit(_Row):
    """From which kernel on the archive's driver cannot be compiled any more."""

    last_good: str
    first_bad: str = Field(description="first kernel for which it is known to fail, as `uname -r` begins")
    why: str
    source: str


class Archive(_Row):
    """The drivers of a distribution's own archive."""

    systems: tuple[str, ...]
    branches: tuple[int, ...]
    versions: ByKind | None = Field(None, description="versions seen; the archive decides")
    moved: Mapping[int, int] = Field(default_factory=dict, description="transitional branch -> the one it brings")
    components: tuple[str, ...]
    dkms: ByKind
    precompiled: ByKind | None = None
    follow: ByKind | None = None
    headless: ByKind | None = None
    user: tuple[str, ...]
    module_files: ByKind | None = Field(None, description="names of the module files where they are not `nvidia`")
    flavours: tuple[str, ...] = Field((), description="kernel flavours with precompiled modules")
    signed: tuple[str, ...] = Field((), description="architectures (uname -m) whose precompiled modules are signed")
    fabric: ArchiveFabric | None = None
    hold_back: HoldBack | None = None
    kernels: KernelLimit | None = None
    unconfirmed: tuple[str, ...] = ()
    source: str


class SigningKeyFile(_Row):
    """Where DKMS keeps the key that a firmware with Secure Boot must know."""

    family: Family
    path: str
    make: str = Field(description="command that creates it before DKMS' first build")
    source: str


class Unload(_Row):
    """What must stop before the kernel modules can be swapped, in order."""

    services: tuple[str, ...]
    modules: tuple[str, ...]
    load: tuple[str, ...]
    subnet_manager: tuple[str, ...] = Field(description="modules that nvlsm needs")
    source: str


class DriverPackages(_Row):
    """Names of driver packages."""

    systems: tuple[System, ...]
    architectures: tuple[CpuArchitecture, ...]
    modules: ModuleKinds
    repository: Repository
    headers: Headers
    archives: tuple[Archive, ...]
    signing_keys: tuple[SigningKeyFile, ...]
    unload: Unload
    sources: Mapping[str, str]

    def system(self, os_id: str) -> System | None:
        """Return the system called `os_id` ("ubuntu-24.04", "rocky-9"), or None."""
        return next((s for s in self.systems if os_id == s.id or os_id in s.also), None)

    @property
    def os_ids(self) -> tuple[str, ...]:
        """The names of all systems, rebuilds after the system they rebuild."""
        return tuple(name for s in self.systems for name in (s.id, *s.also))

    def archive(self, os_id: str) -> Archive | None:
        """Return the own archive of the system called `os_id`, or None when no driver in it is known."""
        return next((a for a in self.archives if os_id in a.systems), None)

    def signing_key(self, family: Family) -> SigningKeyFile:
        """Return where DKMS keeps its key on systems of `family`."""
        return next(k for k in self.signing_keys if k.family == family)


_R = TypeVar("_R", bound=_Rule)


def rule_for(rules: Sequence[_R], branch: int) -> _R:
    """Return the rule that holds for `branch`: the first whose `until` is not below it."""
    return next(r for r in rules if r.until is None or branch <= r.until)
