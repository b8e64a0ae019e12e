"""What a host should be: derived from PCI ids and the catalogue, sharpened by what the inventory says was bought."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from metalserve.catalogue.models import CatalogueError, GpuCatalogue, GpuSpec
from metalserve.hardware.node import Gpu, NodeHardware
from metalserve.settings import ExpectSettings
from metalserve.verify.paths import by_address, path

Joined = Literal["nvswitch", "direct", "bridge", "maybe-bridge", "pcie", "unknown"]


@dataclass(frozen=True)
class Expectation:
    """What the checks hold a host against.

    Attributes:
        bought: catalogue row that the inventory names, or None.
        spec: catalogue row for link, memory and PCIe checks: what was bought, else the one model found; or None.
        count: number of GPUs that the inventory names, or None.
        joined: how GPUs reach each other; `maybe-bridge` when only the inventory could tell.
        pair_classes: classes that linked pairs may show.
        nvlinks: active NVLinks that each GPU should have, or None when it cannot be known.
        source: where `joined` and `nvlinks` come from, in words.
        memory_mib: total memory of each GPU, MiB, or None.
        power_w: power limit of each GPU, W, or None.
        pcie_gen: PCIe generation that each GPU can do, or None.
        pcie_width: PCIe lanes that each GPU can do, or None.
        pcie_links: what both ends of each link of the tree can do, as (generation, lanes), by the address of its lower
            end: GPUs, NICs, NVMe drives, and the bridges above them. The GPU's own generation falls when it idles.
        unknown_gpu: the catalogue's complaint about the inventory's GPU id; empty when it has it.
    """

    bought: GpuSpec | None
    spec: GpuSpec | None
    count: int | None
    joined: Joined
    pair_classes: tuple[str, ...]
    nvlinks: int | None
    source: str
    unknown_gpu: str = ""
    memory_mib: int | None = None
    power_w: float | None = None
    pcie_gen: int | None = None
    pcie_width: int | None = None
    pcie_links: Mapping[str, tuple[int | None, int | None]] = field(default_factory=dict)


def expectation(hardware: NodeHardware, expect: ExpectSettings, catalogue: GpuCatalogue) -> Expectation:
    """Derive what `hardware` should look like."""
    bought, complaint = None, ""
    if expect.gpu:
        try:
            bought = catalogue.by_id(expect.gpu)
        except CatalogueError as error:
            complaint = str(error)
    spec = bought or _common_model(hardware, catalogue)
    size = expect.count or len(hardware.pci_gpus) or len(hardware.gpus)
    joined, source = _joined(hardware, expect, spec, size)
    classes = _pair_classes(joined, spec, size)
    nvlinks = expect.nvlinks_per_gpu
    if nvlinks is None and spec and spec.nvlink and joined in ("nvswitch", "direct", "bridge"):
        nvlinks = spec.nvlink.links
    if expect.nvlinks_per_gpu is not None:
        source = f"inventory (nvlinks_per_gpu), {source}"
        if joined in ("bridge", "maybe-bridge") and size == 2:
            classes = (f"NV{expect.nvlinks_per_gpu}",)
    return Expectation(
        bought,
        spec,
        expect.count,
        joined,
        classes,
        nvlinks,
        source,
        complaint,
        memory_mib=(spec.memory.mib or round((spec.memory.gb or 0) * 1024) or None) if spec else None,
        power_w=spec.power.default_w if spec else None,
        pcie_gen=spec.pcie.gen if spec else None,
        pcie_width=spec.pcie.width if spec else None,
        pcie_links=links_expected(hardware),
    )


def links_expected(hardware: NodeHardware) -> dict[str, tuple[int | None, int | None]]:
    """Return what each PCIe link can do: the lower of its two ends, by the address of the lower one."""
    nodes = by_address(hardware.pcie_tree)
    ends = [node.address for node in hardware.pcie_tree if node.kind in ("gpu", "nic", "nvme")]
    return {link.below.address: (link.gen_able, link.width_able) for end in ends for link in path(nodes, end)}


def spec_of(gpu: Gpu, catalogue: GpuCatalogue) -> GpuSpec | None:
    """Return the catalogue row of a GPU: by PCI id, else by its whole name."""
    return catalogue.find(gpu.device_id, gpu.name)


def _common_model(hardware: NodeHardware, catalogue: GpuCatalogue) -> GpuSpec | None:
    ids = [d.device_id for d in hardware.pci_gpus] or [g.device_id or "" for g in hardware.gpus]
    models = Counter(catalogue.by_pci_id(i) for i in ids)
    if len(models) != 1:
        return None
    return next(iter(models))


def _joined(hardware: NodeHardware, expect: ExpectSettings, spec: GpuSpec | None, size: int) -> tuple[Joined, str]:
    if expect.links:
        return expect.links, "inventory (links)"
    if spec is None:
        return "unknown", "neither inventory nor catalogue say how the GPUs are joined"
    row = f"catalogue row {spec.id}"
    if spec.fabric in ("nvlink5", "imex"):
        return "nvswitch", row
    if spec.fabric == "nvswitch":
        if hardware.guest and hardware.nvswitch_count == 0:
            return _in_a_guest(hardware, spec, row)
        if hardware.nvswitch_count == 0 and size == 4 and spec.nvlink and spec.nvlink.direct_classes:
            return "direct", f"{row}: board of 4 GPUs without NVSwitch"
        return "nvswitch", row
    if spec.fabric == "none":
        return "pcie", row
    return "maybe-bridge", f"{row}; the inventory does not say whether they are bridged"


def _in_a_guest(hardware: NodeHardware, spec: GpuSpec, row: str) -> tuple[Joined, str]:
    """The switches stay with the machine beneath, so the links themselves say which board the GPUs are from."""
    direct = spec.nvlink.direct_classes if spec.nvlink else ()
    if direct and hardware.links and all(kind in direct for kind in hardware.links.values()):
        return "direct", f"{row}: virtual machine with GPUs of a board without NVSwitch"
    return "nvswitch", f"{row}: virtual machine, the NVSwitches belong to the machine beneath"


def _pair_classes(joined: Joined, spec: GpuSpec | None, size: int) -> tuple[str, ...]:
    if spec is None or spec.nvlink is None or joined in ("pcie", "unknown"):
        return ()
    if joined == "direct":
        return spec.nvlink.direct_classes or (f"NV{spec.nvlink.links // max(size - 1, 1)}",)
    if joined == "bridge" and spec.id == "h200-nvl" and size == 2:
        return spec.nvlink.pair_classes[:1]
    return spec.nvlink.pair_classes
