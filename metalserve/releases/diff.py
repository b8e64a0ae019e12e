"""What changes between two releases, part by part, and what that means for a host. Pure.

An operator reads it before an upgrade, and before a rollback: the same words the other way round.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from metalserve.catalogue.loader import load_cuda_drivers, load_gpus
from metalserve.catalogue.models import CudaDrivers, GpuCatalogue
from metalserve.releases.flags import FlagChanges, flag_changes
from metalserve.releases.gpus import GpuService, served_gpus
from metalserve.releases.model import Release, version_key
from metalserve.releases.rules import load_rules, load_vulnerabilities

Interruption = Literal["none", "containers", "driver"]
"""What a host has to stop for: nothing, its engines, or everything that holds the GPUs (the engines among it)."""


@dataclass(frozen=True, slots=True)
class PartChange:
    """One pinned part that differs; `direction` is `up`, `down` or `other` (names, digests)."""

    part: str
    before: str
    after: str
    direction: Literal["up", "down", "other"]


@dataclass(frozen=True, slots=True)
class Effect:
    """What a change means for a host.

    Attributes:
        about: the part it comes from.
        what: what happens, in words.
        stops: what has to stop for it.
        where: the hosts it is true of ("all", "NVSwitch hosts" ...).
    """

    about: str
    what: str
    stops: Interruption = "none"
    where: str = "all hosts"


@dataclass(frozen=True)
class ReleaseDiff:
    """The difference between two releases.

    Attributes:
        before, after: names of the releases.
        parts: what differs.
        effects: what it means.
        gained, lost: GPUs of the catalogue that only the second, or only the first, serves; with the reasons.
        flags: options of vLLM that went, came or have another default; None when vLLM's version is the same.
    """

    before: str
    after: str
    parts: tuple[PartChange, ...]
    effects: tuple[Effect, ...]
    gained: tuple[GpuService, ...]
    lost: tuple[GpuService, ...]
    flags: FlagChanges | None

    @property
    def stops(self) -> Interruption:
        """The most that a host has to stop for."""
        order: tuple[Interruption, ...] = ("none", "containers", "driver")
        return max((effect.stops for effect in self.effects), key=order.index, default="none")

    def as_dict(self) -> dict[str, Any]:
        """Return the difference for JSON."""
        return {
            "before": self.before,
            "after": self.after,
            "stops": self.stops,
            "parts": [asdict(part) for part in self.parts],
            "effects": [asdict(effect) for effect in self.effects],
            "gpus_gained": [gpu.as_dict() for gpu in self.gained],
            "gpus_lost": [gpu.as_dict() for gpu in self.lost],
            "flags": self.flags.as_dict() if self.flags is not None else None,
        }


def diff_releases(
    before: Release, after: Release, *, drivers: CudaDrivers | None = None, gpus: GpuCatalogue | None = None
) -> ReleaseDiff:
    """Compare two releases.

    Args:
        before: the release that hosts have.
        after: the one they are to get.
        drivers: the CUDA and driver rules; the catalogue's unless given.
        gpus: the GPUs; the catalogue's unless given.
    """
    drivers = load_cuda_drivers() if drivers is None else drivers
    gpus = load_gpus() if gpus is None else gpus
    was = {gpu.gpu: gpu for gpu in served_gpus(before, gpus, drivers)}
    becomes = {gpu.gpu: gpu for gpu in served_gpus(after, gpus, drivers)}
    gained = [was[g] for g in becomes if becomes[g].status == "served" and was[g].status != "served"]
    lost = [becomes[g] for g in was if was[g].status == "served" and becomes[g].status != "served"]
    same_vllm = before.vllm.version == after.vllm.version
    return ReleaseDiff(
        before.name,
        after.name,
        tuple(_parts(before, after)),
        tuple(_effects(before, after, drivers)),
        tuple(gained),
        tuple(lost),
        None if same_vllm else flag_changes(before.vllm.version, after.vllm.version),
    )


def _pinned(release: Release) -> dict[str, str]:
    return {
        "driver branch": str(release.driver.branch),
        "driver": release.driver.version,
        "fabric manager": release.fabric_manager.version,
        "CUDA toolkit of the host": release.cuda.toolkit,
        "container toolkit": release.container_toolkit.version,
        "DCGM": release.dcgm.version,
        "Docker, oldest": release.docker.minimum,
        "Docker, oldest for CDI": release.docker.cdi_minimum,
        "vLLM": release.vllm.version,
        "CUDA of the image": release.vllm.cuda,
        "image": f"{release.vllm.repository}:{release.vllm.tag}",
        "image digest": release.vllm.digest or "not recorded",
        "supported until": str(release.end_of_life or "unknown"),
    }


_NAMES = ("image", "image digest")


def _parts(before: Release, after: Release) -> Iterator[PartChange]:
    old, new = _pinned(before), _pinned(after)
    for part, value in old.items():
        if new[part] != value:
            yield PartChange(part, value, new[part], _direction(part, value, new[part]))


def _direction(part: str, before: str, after: str) -> Literal["up", "down", "other"]:
    if part in _NAMES or "unknown" in (before, after):
        return "other"
    # Dates of an end of life compare as versions do: year, month, day; their dashes are no Debian revision.
    was, becomes = (version_key(text.replace("-", ".")) for text in (before, after))
    return "other" if was == becomes else "up" if was < becomes else "down"


def _effects(before: Release, after: Release, drivers: CudaDrivers) -> Iterator[Effect]:
    driver = before.driver.version != after.driver.version
    if driver:
        yield from _driver(before, after, drivers)
    if driver or before.fabric_manager.version != after.fabric_manager.version:
        what = "fabric manager is replaced and started anew; programs that use several GPUs cannot run meanwhile"
        yield Effect("fabric manager", what, "driver", "hosts with NVSwitches")
    if before.container_toolkit.version != after.container_toolkit.version:
        what = "new containers get the GPUs by the new toolkit; those that run keep theirs"
        yield Effect("container toolkit", what)
    if before.image != after.image:
        what = f"the image {after.image} is fetched, and every engine is started anew with it"
        yield Effect("vLLM", what, "containers")
    if before.vllm.cuda != after.vllm.cuda:
        family = drivers.min_driver(after.vllm.cuda) or "an unknown version"
        what = (
            f"the image's CUDA goes from {before.vllm.cuda} to {after.vllm.cuda}, which needs driver {family} or newer"
        )
        yield Effect("CUDA of the image", what)
    if before.cuda.toolkit != after.cuda.toolkit:
        name = f"cuda-toolkit-{after.cuda.toolkit.replace('.', '-')}"
        yield Effect("CUDA toolkit of the host", f"package {name} is installed", where="hosts with cuda.toolkit set")
    if before.dcgm.version != after.dcgm.version:
        yield Effect("DCGM", "dcgmi and its host engine are replaced", where="hosts with DCGM")
    if version_key(after.docker.minimum) > version_key(before.docker.minimum):
        what = f"hosts with a Docker older than {after.docker.minimum} are refused"
        yield Effect("Docker", what, where="hosts with an old Docker")
    if version_key(after.docker.cdi_minimum) > version_key(before.docker.cdi_minimum):
        what = (
            f"with a Docker older than {after.docker.cdi_minimum} containers get GPUs by the nvidia runtime, not by CDI"
        )
        yield Effect("Docker", what, "containers", "hosts with an old Docker")


def _driver(before: Release, after: Release, drivers: CudaDrivers) -> Iterator[Effect]:
    old, new = before.driver, after.driver
    yield Effect(
        "driver",
        "engines and everything else that holds the GPUs stop; the kernel modules are unloaded and loaded anew, and "
        "the host reboots where that is not possible",
        "driver",
    )
    yield Effect(
        "driver", "the CDI specification is written anew, and containers are started anew with it", "containers"
    )
    if version_key(new.version) < version_key(old.version):
        yield Effect("driver", f"it goes back from {old.version} to {new.version}")
    known = load_vulnerabilities().driver
    for row in known:
        was, becomes = row.opens(old.version), row.opens(new.version)
        if was is None and becomes is not None:
            yield Effect("driver", f"it opens what {old.version} had closed: {', '.join(row.cves)}")
        elif was is not None and becomes is None:
            yield Effect("driver", f"it closes {', '.join(row.cves)}")
    if old.branch == new.branch:
        return
    yield Effect("driver branch", f"packages of branch {old.branch} are replaced, and so is the package that pins them")
    was_cuda, new_cuda = (branch.cuda if branch else None for branch in map(drivers.branch, (old.branch, new.branch)))
    if was_cuda != new_cuda:
        what = f"the driver's own CUDA goes from {was_cuda or 'unknown'} to {new_cuda or 'unknown'}"
        yield Effect("driver branch", what)
    dcgm = load_rules().dcgm
    old_part, new_part = (dcgm.for_cuda(cuda) if cuda else None for cuda in (was_cuda, new_cuda))
    if old_part is not None and new_part is not None and old_part != new_part:
        what = f"DCGM needs {new_part.package} in place of {old_part.package}"
        yield Effect("DCGM", what, where="hosts with DCGM")
    only = load_rules().open_modules_only.branch
    if old.branch < only <= new.branch:
        yield Effect("driver branch", "there are open kernel modules only: a host with proprietary ones changes over")
