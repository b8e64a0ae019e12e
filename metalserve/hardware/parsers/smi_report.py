"""The long report of nvidia-smi as a tree, and the values taken from it: the same for its text and its XML form."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from metalserve.hardware.parsers.text import absent, flag, integer, number, pci_address, word
from metalserve.hardware.values import Gpu

Layout = Mapping[str, tuple[tuple[str, ...], ...]]
"""Name of a value -> the paths where drivers have kept it; the first that holds a value counts."""


@dataclass(slots=True)
class Node:
    """A key of the report with its value and what stands below it."""

    key: str
    value: str | None = None
    children: list[Node] = field(default_factory=list)

    def at(self, *path: str) -> Node | None:
        """Return the node below `path`, or None."""
        here: Node = self
        for key in path:
            below = next((c for c in here.children if c.key == key), None)
            if below is None:
                return None
            here = below
        return here

    def text(self, *path: str) -> str | None:
        """Return the value below `path`, or None when the key is not there."""
        found = self.at(*path)
        return found.value if found else None

    def walk(self) -> Iterator[Node]:
        """Yield all nodes below this one."""
        waiting = list(reversed(self.children))
        while waiting:
            node = waiting.pop()
            yield node
            waiting.extend(reversed(node.children))


@dataclass(frozen=True, slots=True)
class ReportDetails:
    """What the report tells of a GPU beyond `Gpu`; `None` means not printed or not understood.

    Attributes:
        serial: serial number of the board.
        vbios: VBIOS version.
        ecc_enabled: ECC is on now.
        memory_used_mib: used memory, MiB.
        utilization_percent: GPU utilisation, percent.
        power_draw_w: present power, W.
        temperature_limit_margin_c: degrees C to the first throttle point (T.Limit).
        memory_temperature_c: temperature of the memory, degrees C.
        performance_state: `P0` ...
        fabric_clique: clique id in the NVLink fabric, as printed.
        fabric_cluster: UUID of the NVLink cluster, as printed.
        retired_single_bit: pages retired because of single bit errors (GPUs before row remapping).
        retired_double_bit: pages retired because of double bit errors.
        retired_pending: a page waits to be retired.
        pcie_replays: PCIe replays since the last reset.
        mig_devices: number of MIG devices.
    """

    serial: str | None = None
    vbios: str | None = None
    ecc_enabled: bool | None = None
    memory_used_mib: int | None = None
    utilization_percent: int | None = None
    power_draw_w: float | None = None
    temperature_limit_margin_c: float | None = None
    memory_temperature_c: float | None = None
    performance_state: str | None = None
    fabric_clique: str | None = None
    fabric_cluster: str | None = None
    retired_single_bit: int | None = None
    retired_double_bit: int | None = None
    retired_pending: bool | None = None
    pcie_replays: int | None = None
    mig_devices: int = 0


@dataclass(frozen=True)
class SmiReport:
    """What `nvidia-smi -q` told.

    Attributes:
        driver: kernel driver version as printed, or None.
        cuda: CUDA version as printed, or None.
        attached: number of GPUs that the driver knows, or None.
        gpus: one a block, in the order printed; `index` is that order, nvidia-smi does not print it here.
        trees: the whole report of each GPU, for what `Gpu` has no room for.
        details: one a GPU, in the same order.
        notes: lines that were not understood.
    """

    driver: str | None
    cuda: str | None
    attached: int | None
    gpus: tuple[Gpu, ...]
    trees: tuple[Node, ...]
    details: tuple[ReportDetails, ...] = ()
    notes: tuple[str, ...] = ()


_REASONS: Final = {
    "idle": "gpu_idle",
    "sw_power_capping": "sw_power_cap",
    "hw_power_braking": "hw_power_brake_slowdown",
    "display_clocks_setting": "display_clock_setting",
}
"""Names in snake case that differ from those of `--query-gpu=clocks_event_reasons.*` (NVML header of CUDA 13.3)."""
_REASON_PREFIX = re.compile(r"clocks_(?:event|throttle)_reasons?_")
_DEVICE_ID = re.compile(r"(?:0x)?([0-9A-Fa-f]{4})10[Dd][Ee]")


def version(value: str | None) -> str | None:
    """Return the version that a cell begins with; 610 adds words about deprecation behind it."""
    first = (value or "").split(" ")[0].strip()
    return first if re.fullmatch(r"\d{1,4}(?:\.\d{1,4}){1,3}", first) else None


def gpu_of(index: int, block: Node, address: str, driver: str | None, layout: Layout) -> Gpu:
    """Take the values of one GPU from its block; `address` is the PCI address at the block's head."""
    take = _Taker(block, layout).take
    device = _DEVICE_ID.fullmatch((take("device_id") or "").strip())
    name, uuid = take("name"), take("uuid")
    return Gpu(
        index=index,
        name=None if absent(name) else name,
        uuid=None if absent(uuid) else uuid,
        pci=pci_address(address),
        device_id=device.group(1).lower() if device else None,
        memory_mib=integer(take("memory")),
        power_limit_w=number(take("power_limit")),
        temperature_c=number(take("temperature")),
        pcie_gen_current=integer(take("gen_current")),
        pcie_gen_max=integer(take("gen_max")),
        pcie_width_current=integer(take("width_current")),
        pcie_width_max=integer(take("width_max")),
        fabric_state=word(take("fabric_state")),
        fabric_status=word(take("fabric_status")),
        fabric_health=word(take("fabric_health")),
        remapped_pending=flag(take("remapped_pending")),
        remapped_failure=flag(take("remapped_failure")),
        remapped_correctable=integer(take("remapped_correctable")),
        remapped_uncorrectable=integer(take("remapped_uncorrectable")),
        sram_threshold_exceeded=flag(take("sram_threshold")),
        ecc_uncorrectable_volatile=_uncorrectable(block, layout),
        recovery_action=word(take("recovery_action")),
        event_reasons=_reasons(block, layout),
        persistence=flag(take("persistence")),
        mig_enabled=flag(take("mig")),
        driver_version=driver,
    )


def details_of(block: Node, layout: Layout) -> ReportDetails:
    """Take from a GPU's block what `Gpu` has no room for."""
    take = _Taker(block, layout).take
    serial, vbios, state = take("serial"), take("vbios"), take("performance_state")
    return ReportDetails(
        serial=None if absent(serial) else serial,
        vbios=None if absent(vbios) else vbios,
        ecc_enabled=flag(take("ecc_mode")),
        memory_used_mib=integer(take("memory_used")),
        utilization_percent=integer(take("utilization")),
        power_draw_w=number(take("power_draw")),
        temperature_limit_margin_c=number(take("t_limit")),
        memory_temperature_c=number(take("memory_temperature")),
        performance_state=None if absent(state) else state,
        fabric_clique=word(take("fabric_clique")),
        fabric_cluster=word(take("fabric_cluster")),
        retired_single_bit=integer(take("retired_single")),
        retired_double_bit=integer(take("retired_double")),
        retired_pending=flag(take("retired_pending")),
        pcie_replays=integer(take("pcie_replays")),
        mig_devices=sum(c.key == "MIG Device" for c in block.children) + _xml_mig_devices(block),
    )


def _xml_mig_devices(block: Node) -> int:
    devices = block.at("mig_devices")
    return sum(c.key == "mig_device" for c in devices.children) if devices else 0


@dataclass(frozen=True, slots=True)
class _Taker:
    block: Node
    layout: Layout

    def take(self, name: str) -> str | None:
        """Return the first value that is there, else the last that says why there is none (`N/A`)."""
        last = None
        for path in self.layout[name]:
            value = self.block.text(*path)
            if value is not None:
                last = value.strip()
                if not absent(last):
                    return last
        return last


def _uncorrectable(block: Node, layout: Layout) -> int | None:
    volatile = next((n for path in layout["ecc_volatile"] if (n := block.at(*path)) is not None), None)
    if volatile is None:
        return None
    counts = []
    for node in volatile.children:
        low = node.key.lower()
        if "uncorrectable" in low:
            counts.append(integer(node.value))
        elif low.replace("_", " ") == "double bit":  # before 418: a table by memory, with a total
            counts.append(integer(node.text("Total") or node.text("total")))
    known = [c for c in counts if c is not None]
    return sum(known) if known else None


def _reasons(block: Node, layout: Layout) -> tuple[str, ...] | None:
    """Names of the active reasons; None when the block is missing, empty or has a value that is not understood."""
    section = next((n for path in layout["reasons"] if (n := block.at(*path)) is not None), None)
    if section is None or not section.children:
        return None
    active = []
    for node in section.walk():
        state = flag(node.value)
        if state is None:
            return None
        if state:
            name = _REASON_PREFIX.sub("", node.key.lower().replace(" ", "_"), count=1)
            active.append(_REASONS.get(name, name))
    return tuple(dict.fromkeys(active))
