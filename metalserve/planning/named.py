"""Hosts by name, for planning without one: `8xH100-SXM`, `4xl40s`, `2xH100-NVL`. Pure."""

from __future__ import annotations

import re
from itertools import combinations

from metalserve.catalogue.models import GpuCatalogue, GpuSpec
from metalserve.errors import MetalserveError
from metalserve.hardware.node import Gpu, NodeHardware

# nvidia-smi prints a little less than the marketed size where the card keeps ECC data in its memory (L40S, L4: 0.94).
_PRINTED = 0.94


def _spec(name: str, catalogue: GpuCatalogue) -> GpuSpec:
    wanted = name.strip().lower().replace("_", "-").replace(" ", "-").removeprefix("nvidia-")
    if wanted not in catalogue.ids:
        starts = [known for known in catalogue.ids if known.startswith(wanted)]
        wanted = starts[0] if len(starts) == 1 else wanted
    return catalogue.by_id(wanted)


def hardware_by_name(text: str, catalogue: GpuCatalogue) -> NodeHardware:
    """Return the hardware of `COUNTxGPU` as the catalogue describes it; the count may be left out.

    SXM boards are joined by NVSwitch; NVL cards are bridged in groups of their bridge, as they are sold; all other
    cards stand on PCIe, bridges not assumed.

    Raises:
        MetalserveError: no such GPU (with the nearest name), a silly count, or its memory is not in the catalogue.
    """
    found = re.fullmatch(r"\s*(?:(\d{1,4})\s*[xX×*]\s*)?(\S.*?)\s*", text)
    if not found:
        raise MetalserveError(f"'{text}' is not a GPU", where="--gpu", remedy="write it like 8xH100-SXM")
    count = int(found.group(1) or 1)
    if not 1 <= count <= 16:
        raise MetalserveError(f"{count} GPUs in one host", where="--gpu", remedy="give 1 to 16")
    spec = _spec(found.group(2), catalogue)
    memory = spec.memory.mib or (spec.memory.gb and int(spec.memory.gb * 1024 * _PRINTED))
    if not memory:
        raise MetalserveError(f"the memory of {spec.id} is not in the catalogue", where="--gpu")
    gpus = tuple(
        Gpu(index=number, name=spec.names[0], device_id=spec.pci_ids[0], memory_mib=memory) for number in range(count)
    )
    links = {pair: _link(spec, *pair) for pair in combinations(range(count), 2)}
    return NodeHardware(gpus=gpus, links=links, smi_state="ok", needs_fabric_manager=spec.fabric == "nvswitch")


def _link(spec: GpuSpec, a: int, b: int) -> str:
    if spec.nvlink is None:
        return "SYS"
    if spec.fabric != "bridge":
        return spec.nvlink.pair_classes[0]
    group = spec.nvlink.bridge_group or 2
    bridged = spec.id.endswith("-nvl") and a // group == b // group
    return spec.nvlink.pair_classes[0 if group == 2 else -1] if bridged else "SYS"
