"""`nvidia-smi -q`: the long text report, read as a tree so that new and moved keys do no harm."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from metalserve.hardware.parsers.text import (
    ParseError,
    absent,
    clean,
    first_line,
    flag,
    integer,
    number,
    pci_address,
    word,
)
from metalserve.hardware.values import Gpu

_BLOCK = re.compile(r"GPU (\S{7,20})\s*")
_REASONS = {
    "Idle": "gpu_idle",
    "Applications Clocks Setting": "applications_clocks_setting",
    "SW Power Cap": "sw_power_cap",
    "SW Power Capping": "sw_power_cap",
    "HW Slowdown": "hw_slowdown",
    "HW Thermal Slowdown": "hw_thermal_slowdown",
    "HW Power Brake Slowdown": "hw_power_brake_slowdown",
    "Sync Boost": "sync_boost",
    "SW Thermal Slowdown": "sw_thermal_slowdown",
    "Display Clock Setting": "display_clock_setting",
}
"""Names of `-q` -> names of `--query-gpu=clocks_event_reasons.*` (NVML header of CUDA 13.3)."""


@dataclass(slots=True)
class Node:
    """A key of the report with its value and what is indented below it."""

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


@dataclass(frozen=True)
class SmiReport:
    """What `nvidia-smi -q` told.

    Attributes:
        driver: kernel driver version as printed, or None.
        cuda: CUDA version as printed, or None.
        attached: number of GPUs that the driver knows, or None.
        gpus: one a block, in the order printed; `index` is that order, nvidia-smi does not print it here.
        trees: the whole report of each GPU, for what `Gpu` has no room for.
    """

    driver: str | None
    cuda: str | None
    attached: int | None
    gpus: tuple[Gpu, ...]
    trees: tuple[Node, ...]


def parse_smi_q(text: str) -> SmiReport:
    """Read the output of `nvidia-smi -q`, whole or with `-d`.

    Raises:
        ParseError: the text has neither a head nor a GPU of such a report.
    """
    lines = clean(text).splitlines()
    head = Node("head")
    blocks: list[Node] = []
    stack: list[tuple[int, Node]] = []
    for line in lines:
        if not line.strip() or line.startswith("="):
            continue
        indent = len(line) - len(line.lstrip())
        opened = _BLOCK.fullmatch(line)
        if opened and pci_address(opened.group(1)):
            block = Node(opened.group(1))
            blocks.append(block)
            stack = [(0, block)]
            continue
        key, colon, value = _pair(line)
        node = Node(key, value if colon else None)
        if not blocks:
            head.children.append(node)
            continue
        while len(stack) > 1 and stack[-1][0] >= indent:
            stack.pop()
        stack[-1][1].children.append(node)
        stack.append((indent, node))
    driver = _version(head.text("KMD Version") or head.text("Driver Version"))
    attached = integer(head.text("Attached GPUs"))
    if not blocks and driver is None and attached is None:
        raise ParseError(f"no report of `nvidia-smi -q`; the text begins with {first_line(text)!r}")
    return SmiReport(
        driver=driver,
        cuda=_version(head.text("CUDA UMD Version") or head.text("CUDA Version")),
        attached=attached,
        gpus=tuple(_gpu(index, block, driver) for index, block in enumerate(blocks)),
        trees=tuple(blocks),
    )


def _pair(line: str) -> tuple[str, bool, str]:
    # The separator is a colon between blanks; values such as bus ids hold colons without them.
    key, separator, value = line.partition(" : ")
    if not separator and line.rstrip().endswith(" :"):
        return line.rstrip()[:-2].strip(), True, ""
    return key.strip(), bool(separator), value.strip()


def _version(value: str | None) -> str | None:
    return None if absent(value) else (value or "").split()[0]


def _gpu(index: int, block: Node, driver: str | None) -> Gpu:
    remap = block.at("Remapped Rows")
    remapped = remap if remap is not None and remap.children else None
    device = block.text("PCI", "Device Id") or ""
    link = ("PCI", "GPU Link Info")
    return Gpu(
        index=index,
        name=_value(block.text("Product Name")),
        uuid=_value(block.text("GPU UUID")),
        pci=pci_address(block.key),
        device_id=device[2:6].lower() if re.fullmatch(r"0x[0-9A-Fa-f]{8}", device) else None,
        memory_mib=integer(block.text("FB Memory Usage", "Total")),
        power_limit_w=_power_limit(block),
        temperature_c=number(block.text("Temperature", "GPU Current Temp")),
        pcie_gen_current=integer(block.text(*link, "PCIe Generation", "Current")),
        pcie_gen_max=integer(block.text(*link, "PCIe Generation", "Max")),
        pcie_width_current=integer(block.text(*link, "Link Width", "Current")),
        pcie_width_max=integer(block.text(*link, "Link Width", "Max")),
        fabric_state=word(block.text("Fabric", "State")),
        fabric_status=word(block.text("Fabric", "Status")),
        fabric_health=word(block.text("Fabric", "Health", "Summary")),
        remapped_pending=flag(remapped.text("Pending")) if remapped else None,
        remapped_failure=flag(remapped.text("Remapping Failure Occurred")) if remapped else None,
        remapped_correctable=integer(remapped.text("Correctable Error")) if remapped else None,
        remapped_uncorrectable=integer(remapped.text("Uncorrectable Error")) if remapped else None,
        sram_threshold_exceeded=flag(block.text("ECC Errors", "Aggregate", "SRAM Threshold Exceeded")),
        ecc_uncorrectable_volatile=_uncorrectable(block.at("ECC Errors", "Volatile")),
        recovery_action=word(block.text("GPU Recovery Action")),
        event_reasons=_reasons(block),
        persistence=flag(block.text("Persistence Mode")),
        mig_enabled=flag(block.text("MIG Mode", "Current")),
        driver_version=driver,
    )


def _power_limit(block: Node) -> float | None:
    # Three layouts: before 525, since then, and since 610 (limits nested under the ceiling).
    for path in (
        ("GPU Power Readings", "Current Power Limit"),
        ("GPU Power Readings", "GPU Ceiling Power Limit", "Current Power Limit"),
        ("Power Readings", "Power Limit"),
    ):
        found = number(block.text(*path))
        if found is not None:
            return found
    return None


def _value(value: str | None) -> str | None:
    return None if absent(value) else value


def _uncorrectable(volatile: Node | None) -> int | None:
    if volatile is None:
        return None
    counts = [integer(n.value) for n in volatile.children if "Uncorrectable" in n.key]
    known = [c for c in counts if c is not None]
    return sum(known) if known else None


def _reasons(block: Node) -> tuple[str, ...] | None:
    """Names of the active reasons; None when the block is missing, empty or has a value that is not understood."""
    section = block.at("Clocks Event Reasons") or block.at("Clocks Throttle Reasons")
    if section is None or not section.children:
        return None
    active = []
    for node in section.walk():
        state = flag(node.value)
        if state is None:
            return None
        if state:
            active.append(_REASONS.get(node.key, node.key.lower().replace(" ", "_")))
    return tuple(dict.fromkeys(active))
