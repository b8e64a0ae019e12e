"""The GPUs that an image will meet: from what was bought, since there is no PCI bus to look at. Pure."""

from __future__ import annotations

from metalserve.catalogue.models import GpuSpec
from metalserve.hardware.node import NodeHardware, PciDevice

NVIDIA = "10de"
_ACCELERATOR = "0302"


def expected_hardware(spec: GpuSpec, count: int, links: str | None) -> NodeHardware:
    """Return the hardware of `count` GPUs of a kind, as far as the choice of a driver asks for it.

    Args:
        spec: the kind of GPU.
        count: GPUs.
        links: the setting `expect.links`; None takes what the catalogue says of the kind.
    """
    gpus = tuple(
        PciDevice(f"0000:{number + 1:02x}:00.0", _ACCELERATOR, NVIDIA, spec.pci_ids[0], spec.names[0])
        for number in range(count)
    )
    switched = spec.fabric in ("nvswitch", "nvlink5") if links is None else links == "nvswitch"
    return NodeHardware(
        pci_gpus=gpus,
        needs_fabric_manager=switched,
        needs_nvlsm=switched and spec.fabric == "nvlink5",
        needs_imex=spec.fabric == "imex",
    )
