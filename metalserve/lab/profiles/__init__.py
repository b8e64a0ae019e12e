"""Machine profiles: what hardware a lab host pretends to have. The YAML files beside this module, and their shape.

The shapes are TypedDicts because the same data, as JSON, is what the simulated tools in a guest read: those run on
the guest's own Python with nothing but its standard library.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal, NotRequired

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from metalserve.errors import MetalserveError
from metalserve.yaml_text import read_yaml

DIRECTORY = Path(__file__).resolve().parent
_STRICT = ConfigDict(extra="forbid")


@with_config(_STRICT)
class Nvlink(TypedDict):
    """NVLink of one GPU: generation, link slots, slots that no board of this kind wires, and the printed rate."""

    generation: int
    slots: int
    inactive: list[int]
    rate: str


@with_config(_STRICT)
class Temperature(TypedDict):
    """Degrees C. `tlimit` GPUs print headroom to `max_operating`, `absolute` ones print thresholds."""

    style: Literal["tlimit", "absolute"]
    idle: int
    memory: int | None
    max_operating: int
    slowdown: int
    shutdown: int


@with_config(_STRICT)
class Power(TypedDict):
    """Watts."""

    default: float
    minimum: float
    maximum: float
    idle: float


@with_config(_STRICT)
class Clocks(TypedDict):
    """MHz, idle and highest."""

    sm_idle: int
    sm_max: int
    memory_idle: int
    memory_max: int
    video_idle: int
    video_max: int


@with_config(_STRICT)
class GpuModel(TypedDict):
    """What all GPUs of the host have in common."""

    catalogue_id: str
    name: str
    brand: str
    architecture: str
    compute_capability: str
    pci_device: str
    pci_subsystem: str
    pci_class: str
    pci_name: str
    memory_mib: int
    reserved_mib: int
    bar1_mib: int
    pcie_gen: int
    pcie_width: int
    power: Power
    temperature: Temperature
    clocks: Clocks
    ecc: bool
    mig: bool
    fan: bool
    p2p: bool
    remap_banks: int | None
    open_modules: Literal["required", "recommended"]
    vbios: str
    inforom: str
    board_part: str
    gpu_part: str
    nvlink: Nvlink | None


@with_config(_STRICT)
class GpuSlot(TypedDict):
    """One GPU: PCI address, NUMA node, CPUs near it, host bridge and PCIe switch it hangs from."""

    bus: str
    numa: int
    cpus: str
    root: str
    switch: str | None
    uuid: NotRequired[str]
    serial: NotRequired[str]


@with_config(_STRICT)
class Switch(TypedDict):
    """One NVSwitch that is visible on PCI."""

    bus: str
    pci_id: str
    pci_name: str


@with_config(_STRICT)
class Nic(TypedDict):
    """One network function; `switch_management` marks the ConnectX functions that manage NVLink5 switches."""

    name: str
    bus: str
    pci_class: str
    pci_id: str
    pci_name: str
    numa: int
    root: str
    switch: str | None
    switch_management: bool


@with_config(_STRICT)
class Drive(TypedDict):
    """One NVMe drive."""

    model: str
    firmware: str
    bus: str
    pci_id: str
    pci_name: str
    size_gb: int
    pcie_gen: int
    pcie_width: int
    serial: NotRequired[str]


@with_config(_STRICT)
class Fabric(TypedDict):
    """How the GPUs are joined.

    `pairs` are the GPUs joined by a bridge; `links_per_pair` counts the links between two GPUs joined directly.
    `links_train_alone` is false where links stay down until fabric manager runs (A100; true since H100).
    """

    kind: Literal["nvswitch", "bridge", "direct", "pcie"]
    manager: bool
    nvlsm: bool
    links_train_alone: bool
    pairs: list[list[int]]
    links_per_pair: int | None


@with_config(_STRICT)
class Profile(TypedDict):
    """A whole machine."""

    name: str
    description: str
    sources: list[str]
    nouveau: bool
    gpu: GpuModel | None
    gpus: list[GpuSlot]
    fabric: Fabric
    nvswitches: list[Switch]
    nics: list[Nic]
    nvme: list[Drive]
    simulated: NotRequired[Literal[True]]
    host: NotRequired[str]
    only_gpus: NotRequired[bool]


def profile_names() -> list[str]:
    """Return the names of all profiles, sorted."""
    return sorted(path.stem for path in DIRECTORY.glob("*.yaml"))


@cache
def _adapter() -> TypeAdapter[Profile]:
    return TypeAdapter(Profile)


def load_profile(name: str) -> Profile:
    """Read one profile.

    Raises:
        MetalserveError: no such profile, or its file is not in the shape of `Profile`.
    """
    path = DIRECTORY / f"{name}.yaml"
    if name not in profile_names():
        raise MetalserveError(
            f"no machine profile {name!r}", where="lab", remedy=f"one of: {', '.join(profile_names())}"
        )
    data: Any = read_yaml(path.read_text(encoding="utf-8"))
    try:
        profile = _adapter().validate_python(data, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise MetalserveError(f"{key}: {first['msg']}", where=str(path)) from error
    if (profile["gpu"] is None) != (not profile["gpus"]):
        raise MetalserveError("`gpu` and `gpus` must both be given, or neither", where=str(path))
    return profile
