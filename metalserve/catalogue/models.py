"""Types of the catalogue: GPUs, Xids, CUDA and driver rules. Each row says where it comes from."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from functools import cached_property
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from metalserve.errors import MetalserveError

Fabric = Literal["nvswitch", "nvlink5", "imex", "bridge", "none", "mixed"]
KernelModules = Literal["open-recommended", "open-required", "proprietary-only"]
XidSeverity = Literal["fatal", "warning", "app", "info", "decode", "follow", "unused"]


class CatalogueError(MetalserveError):
    """The catalogue lacks what was asked for, or a file of it is damaged."""


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class Memory(_Row):
    """Memory of a GPU."""

    gb: float | None = Field(None, description="marketed size, GB")
    mib: int | None = Field(None, description="memory.total as nvidia-smi prints it, MiB")
    bandwidth_gb_s: float | None = Field(None, description="GB/s, decimal")


class Power(_Row):
    """Power limits of a GPU."""

    default_w: float | None = Field(None, description="default limit, W")
    min_w: float | None = Field(None, description="lowest limit that can be set, W")


class Pcie(_Row):
    """PCIe link that the card can do."""

    gen: int | None = None
    width: int | None = None


class Nvlink(_Row):
    """NVLinks of a GPU and what `topo -m` shows for them."""

    generation: int
    links: int = Field(description="active links per GPU when all is well")
    link_gb_s: float = Field(description="nominal GB/s per link and direction")
    smi_gb_s: float | None = Field(None, description="GB/s per link that `nvlink -s` prints")
    pair_classes: tuple[str, ...] = Field(description="class between linked GPUs")
    direct_classes: tuple[str, ...] = Field((), description="class on boards of 4 without NVSwitch")
    bridge_group: int | None = Field(None, description="most GPUs that one bridge joins")
    nvswitches_per_8: int | None = Field(None, description="NVSwitch PCI functions beside 8 GPUs")


class Temperature(_Row):
    """Temperature limits, degrees C."""

    max_operating: float | None = None
    slowdown: float | None = None
    shutdown: float | None = None
    memory_max: float | None = None
    basis: str = Field(description="printed, derived from T.Limit, or comment")


class GpuSpec(_Row):
    """What is known about one GPU product."""

    id: str
    names: tuple[str, ...] = Field(description="product names as nvidia-smi prints them")
    pci_ids: tuple[str, ...] = Field(description="device ids, four hex digits; vendor 10de")
    architecture: str
    compute_capability: str
    memory: Memory
    power: Power
    pcie: Pcie
    fabric: Fabric
    nvlink: Nvlink | None = None
    max_sm_mhz: int | None = None
    features: frozenset[Literal["fp8", "fp4", "mig", "p2p", "c2c", "ecc"]]
    temperature_c: Temperature | None = None
    kernel_modules: KernelModules
    unconfirmed: tuple[str, ...] = ()
    note: str = ""
    source: str

    @property
    def fp8(self) -> bool:
        """Tensor cores compute in FP8."""
        return "fp8" in self.features

    @property
    def fp4(self) -> bool:
        """Tensor cores compute in FP4."""
        return "fp4" in self.features

    @property
    def capability(self) -> tuple[int, int]:
        """Compute capability as numbers: (9, 0)."""
        major, _, minor = self.compute_capability.partition(".")
        return int(major), int(minor)


class Busbw(_Row):
    """Healthy and alarm figures of nccl-tests all_reduce_perf at the largest size, GB/s."""

    platform: str
    gpu: tuple[str, ...] = Field((), description="catalogue ids of the GPUs; none for figures of other fabrics")
    count: int | None = Field(None, description="GPUs in the all-reduce")
    measured: float | None = None
    measured_ring: float | None = Field(None, description="healthy without NVLS")
    peak: float | None = None
    floor: float | None = Field(None, description="alarm threshold")
    floor_ring: float | None = Field(None, description="alarm threshold without NVLS")
    source: str


class GpuCatalogue(_Row):
    """All GPUs. Identity is the PCI id first, then the whole product name, never a part of it."""

    gpus: tuple[GpuSpec, ...]
    nvswitch_ids: dict[str, str] = Field(description="PCI device ids (vendor 10de) of NVSwitches")
    busbw: tuple[Busbw, ...]
    sources: dict[str, str]

    @cached_property
    def _by_pci(self) -> dict[str, GpuSpec]:
        return {pci: g for g in self.gpus for pci in g.pci_ids}

    @cached_property
    def _by_id(self) -> dict[str, GpuSpec]:
        return {g.id: g for g in self.gpus}

    @cached_property
    def _by_name(self) -> dict[str, GpuSpec]:
        return {_bare(name): g for g in self.gpus for name in g.names}

    def busbw_of(self, gpu_id: str, count: int) -> Busbw | None:
        """Return the all-reduce figures of `count` GPUs of the row `gpu_id`, or None when none is known."""
        return next((row for row in self.busbw if gpu_id in row.gpu and row.count == count), None)

    def by_pci_id(self, device_id: str) -> GpuSpec | None:
        """Return the GPU with PCI device id `device_id` (hex, any case, with or without 0x), or None."""
        return self._by_pci.get(device_id.lower().removeprefix("0x"))

    def by_name(self, name: str) -> GpuSpec | None:
        """Return the GPU whose whole product name is `name`; a leading "NVIDIA " may lack, as in old drivers."""
        return self._by_name.get(_bare(name))

    def by_id(self, gpu_id: str) -> GpuSpec:
        """Return the GPU with catalogue id `gpu_id`.

        Raises:
            CatalogueError: no such id; the message names the nearest one.
        """
        found = self._by_id.get(gpu_id)
        if found is None:
            raise CatalogueError(f"no GPU {gpu_id!r} in the catalogue{suggestion(gpu_id, self._by_id)}")
        return found

    def find(self, device_id: str | None, name: str | None = None) -> GpuSpec | None:
        """Return the GPU by PCI id, else by whole name, else None."""
        spec = self.by_pci_id(device_id) if device_id else None
        if spec is None and name:
            spec = self.by_name(name)
        return spec

    @property
    def ids(self) -> tuple[str, ...]:
        """All catalogue ids, in the order of the file."""
        return tuple(self._by_id)


class Xid(_Row):
    """One Xid."""

    code: int
    name: str
    severity: XidSeverity
    action: str
    remedy: str
    meaning: str = ""
    nvidia: tuple[str, ...] = Field((), description="NVIDIA's buckets: immediate, then investigatory")
    source: str


class RecoveryAction(_Row):
    """A recovery action as nvidia-smi and Xid 154 name it."""

    code: int
    name: str
    status: Literal["ok", "warn", "fail"]
    remedy: str
    source: str


class XidCatalogue(_Row):
    """All Xids and recovery actions."""

    xids: tuple[Xid, ...]
    recovery_actions: tuple[RecoveryAction, ...]
    sources: dict[str, str]

    @cached_property
    def _by_code(self) -> dict[int, Xid]:
        return {x.code: x for x in self.xids}

    def by_code(self, code: int) -> Xid | None:
        """Return Xid `code`, or None when the catalogue does not have it."""
        return self._by_code.get(code)

    def recovery(self, name: str) -> RecoveryAction | None:
        """Return the recovery action called `name` (any case), or None."""
        return next((a for a in self.recovery_actions if a.name.lower() == name.strip().lower()), None)


class CudaFamily(_Row):
    """A major CUDA version and the oldest driver that runs its programs."""

    major: int
    min_driver: str
    source: str


class DriverBranch(_Row):
    """A driver branch."""

    branch: int
    cuda: str | None = Field(None, description="CUDA version that the branch brings")
    type: Literal["long-term", "production", "new-feature"] | None = None
    eol: str | None = Field(None, description="end of life, YYYY or YYYY-MM")
    last_seen: str | None = Field(None, description="newest version seen by the catalogue's date")
    status: Literal["supported", "eol"]
    source: str


class Toolkit(_Row):
    """A CUDA toolkit and the driver it was made with."""

    cuda: str
    driver: str | None
    package: str | None = None
    source: str


class Architecture(_Row):
    """A GPU architecture and the limits it sets on toolkit and driver."""

    name: str
    compute_capabilities: tuple[str, ...]
    first_cuda: str | None = None
    last_cuda: str | None = None
    min_branch: int | None = None
    last_branch: int | None = None
    kernel_modules: KernelModules | None = None
    unconfirmed: tuple[str, ...] = ()
    source: str


class CudaDrivers(_Row):
    """Rules between CUDA, driver and architecture."""

    families: tuple[CudaFamily, ...]
    branches: tuple[DriverBranch, ...]
    toolkits: tuple[Toolkit, ...]
    architectures: tuple[Architecture, ...]
    sources: dict[str, str]

    def branch(self, number: int) -> DriverBranch | None:
        """Return driver branch `number` (580), or None."""
        return next((b for b in self.branches if b.branch == number), None)

    def architecture(self, name: str) -> Architecture | None:
        """Return the architecture called `name` (`Hopper`), or None."""
        return next((a for a in self.architectures if a.name == name), None)

    def min_driver(self, cuda: str) -> str | None:
        """Return the oldest driver version that runs programs of CUDA `cuda` ("13.0"), or None when unknown."""
        major = cuda.partition(".")[0]
        return next((f.min_driver for f in self.families if str(f.major) == major), None)


def suggestion(given: str, known: Iterable[str]) -> str:
    """Return " (did you mean 'X'?)" for the nearest of `known`, or an empty string."""
    near = difflib.get_close_matches(given.lower(), list(known), n=1, cutoff=0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _bare(name: str) -> str:
    return " ".join(name.split()).removeprefix("NVIDIA ")
