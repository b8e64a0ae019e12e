"""Hosts by name, for planning a driver without one: `8xB200` on `ubuntu-24.04`. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from metalserve.catalogue.models import GpuCatalogue, GpuSpec
from metalserve.driver.plan import Machine
from metalserve.driver.platform import machine_of, platform_of
from metalserve.errors import MetalserveError
from metalserve.hardware.node import PciDevice

BOARD = 8
"""GPUs of an HGX board with NVSwitches; boards of four have direct links. Source: catalogue/gpus.yaml."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    count: int
    device_id: str
    description: str
    spec: GpuSpec | None


def machine_by_name(
    os_id: str,
    gpus: Sequence[str],
    catalogue: GpuCatalogue,
    *,
    arch: str | None = None,
    kernel: str = "",
    secure_boot: bool = False,
) -> tuple[Machine, tuple[str, ...]]:
    """Return the host that the words describe, and what had to be assumed of it.

    Args:
        os_id: operating system ("ubuntu-24.04").
        gpus: each `COUNTxGPU`; GPU is an id of the catalogue, or a PCI id with lspci's words ("10de:1db6 GV100GL").
        catalogue: what is known of GPUs.
        arch: architecture under any of its names; None takes arm64 for Grace systems and x86_64 for others.
        kernel: what `uname -r` prints; "" leaves it open.
        secure_boot: the firmware loads signed kernel code only.

    Raises:
        MetalserveError: a name that is not known, with the nearest one that is.
    """
    wanted = [_wanted(text, catalogue) for text in gpus]
    grace = any(w.spec is not None and "c2c" in w.spec.features for w in wanted)
    machine = machine_of(arch) if arch is not None else "aarch64" if grace else "x86_64"
    platform = platform_of(re.sub(r"\s+", "-", os_id.strip().lower()), machine)
    devices: list[PciDevice] = []
    for each in wanted:
        for _ in range(each.count):
            address = f"0000:{0x10 + len(devices):02x}:00.0"
            devices.append(PciDevice(address, "0302", "10de", each.device_id, each.description))
    fabrics = {w.spec.fabric for w in wanted if w.spec is not None}
    switched, assumed = _switched(wanted)
    nvlink5 = "nvlink5" in fabrics
    return Machine(
        platform=platform,
        gpus=tuple(devices),
        secure_boot=secure_boot,
        needs_fabric_manager=switched or nvlink5,
        needs_nvlsm=nvlink5,
        needs_imex="imex" in fabrics,
        kernel=kernel,
    ), assumed


def _wanted(text: str, catalogue: GpuCatalogue) -> _Wanted:
    found = re.fullmatch(r"\s*(?:(\d{1,4})\s*[xX×*]\s*)?(\S.*?)\s*", text)
    if not found:
        raise MetalserveError(f"{text!r} is not a GPU", where="--gpu", remedy="write it like 8xH100-SXM")
    count, name = int(found.group(1) or 1), found.group(2)
    if not 1 <= count <= 16:
        raise MetalserveError(f"{count} GPUs in one host", where="--gpu", remedy="give 1 to 16")
    by_id = re.fullmatch(r"(?:10de:)?([0-9a-fA-F]{4})(?:\s+(.*))?", name)
    if by_id and (by_id.group(2) or name.lower().startswith("10de:")):
        device_id = by_id.group(1).lower()
        return _Wanted(count, device_id, by_id.group(2) or "", catalogue.by_pci_id(device_id))
    spec = _by_word(name, catalogue)
    return _Wanted(count, spec.pci_ids[0], spec.names[0], spec)


def _by_word(name: str, catalogue: GpuCatalogue) -> GpuSpec:
    whole = catalogue.by_name(name)
    if whole is not None:
        return whole
    word = re.sub(r"[\s_]+", "-", name.strip().lower()).removeprefix("nvidia-")
    if word not in catalogue.ids:
        starts = [known for known in catalogue.ids if known.startswith(f"{word}-")]
        if len(starts) > 1:
            raise MetalserveError(f"{name!r} may be {' or '.join(starts)}", where="--gpu", remedy="name one of them")
        word = starts[0] if starts else word
    try:
        return catalogue.by_id(word)
    except MetalserveError as error:
        raise MetalserveError(
            error.what, where="--gpu", remedy="a GPU that is not in the catalogue: '10de:XXXX words of lspci'"
        ) from error


def _switched(wanted: Sequence[_Wanted]) -> tuple[bool, tuple[str, ...]]:
    """Tell whether the GPUs are behind NVSwitches with PCI functions of their own, and what was assumed."""
    for each in wanted:
        if each.spec is None or each.spec.fabric not in ("nvswitch", "mixed"):
            continue
        board = f"{each.count} x {each.spec.id}"
        if each.count >= BOARD:
            return True, ()
        return False, (f"{board}: taken for a board without NVSwitches; a host tells by its PCI bus",)
    return False, ()
