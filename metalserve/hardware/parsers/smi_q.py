"""`nvidia-smi -q`: the long text report, read as a tree so that new and moved keys do no harm."""

from __future__ import annotations

import re
from typing import Final

from metalserve.hardware.parsers.smi_report import Layout, Node, SmiReport, details_of, gpu_of, version
from metalserve.hardware.parsers.text import ParseError, clean, first_line, integer, pci_address

__all__ = ["LAYOUT", "Node", "SmiReport", "parse_smi_q"]

_BLOCK = re.compile(r"GPU (\S{7,20})\s*")
_GLUED = re.compile(r"\S\s{2,}[A-Z][A-Za-z0-9 ./()-]{1,60}\s+: ")
_CUT = ("Product Name", "Processes")  # the first and, but for a few newer keys, the last of a whole report
_LINK = ("PCI", "GPU Link Info")
_GPU_POWER, _OLD_POWER = "GPU Power Readings", "Power Readings"

LAYOUT: Final[Layout] = {
    "name": (("Product Name",),),
    "uuid": (("GPU UUID",),),
    "device_id": (("PCI", "Device Id"),),
    "memory": (("FB Memory Usage", "Total"), ("Memory Usage", "Total")),
    "memory_used": (("FB Memory Usage", "Used"), ("Memory Usage", "Used")),
    "power_limit": (  # since 525; since 610, nested under the ceiling; before 525
        (_GPU_POWER, "Current Power Limit"),
        (_GPU_POWER, "GPU Ceiling Power Limit", "Current Power Limit"),
        (_GPU_POWER, "Power Limit"),
        (_OLD_POWER, "Power Limit"),
    ),
    "power_draw": (
        (_GPU_POWER, "Instantaneous Power Draw"),
        (_GPU_POWER, "Power Draw"),
        (_GPU_POWER, "Average Power Draw"),
        (_OLD_POWER, "Power Draw"),
    ),
    "temperature": (("Temperature", "GPU Current Temp"), ("Temperature", "Gpu")),
    "t_limit": (("Temperature", "GPU T.Limit Temp"), ("Temperature", "GPU Current T.Limit Temp")),
    "memory_temperature": (("Temperature", "Memory Current Temp"),),
    "gen_current": ((*_LINK, "PCIe Generation", "Current"),),
    "gen_max": ((*_LINK, "PCIe Generation", "Max"),),
    "width_current": ((*_LINK, "Link Width", "Current"),),
    "width_max": ((*_LINK, "Link Width", "Max"),),
    "fabric_state": (("Fabric", "State"),),
    "fabric_status": (("Fabric", "Status"),),
    "fabric_health": (("Fabric", "Health", "Summary"),),
    "fabric_clique": (("Fabric", "CliqueId"),),
    "fabric_cluster": (("Fabric", "ClusterUUID"),),
    "remapped_pending": (("Remapped Rows", "Pending"),),
    "remapped_failure": (("Remapped Rows", "Remapping Failure Occurred"),),
    "remapped_correctable": (("Remapped Rows", "Correctable Error"),),
    "remapped_uncorrectable": (("Remapped Rows", "Uncorrectable Error"),),
    "sram_threshold": (("ECC Errors", "Aggregate", "SRAM Threshold Exceeded"),),
    "ecc_volatile": (("ECC Errors", "Volatile"),),
    "ecc_mode": (("ECC Mode", "Current"), ("Ecc Mode", "Current")),
    "recovery_action": (("GPU Recovery Action",),),
    "reasons": (("Clocks Event Reasons",), ("Clocks Throttle Reasons",)),
    "persistence": (("Persistence Mode",),),
    "mig": (("MIG Mode", "Current"),),
    "serial": (("Serial Number",),),
    "vbios": (("VBIOS Version",),),
    "utilization": (("Utilization", "GPU"), ("Utilization", "Gpu")),
    "performance_state": (("Performance State",),),
    "retired_single": (("Retired Pages", "Single Bit ECC"),),
    "retired_double": (("Retired Pages", "Double Bit ECC"),),
    "retired_pending": (("Retired Pages", "Pending Page Blacklist"), ("Retired Pages", "Pending")),
    "pcie_replays": (("PCI", "Replays Since Reset"), ("PCI", "Replays since reset")),
}
"""Where the text of branches 390 to 610 keeps each value."""


def parse_smi_q(text: str) -> SmiReport:
    """Read the output of `nvidia-smi -q`, whole or with `-d` or `-i`.

    Raises:
        ParseError: the text has neither a head nor a GPU of such a report, or is damaged: indentation lost, lines
            joined or wrapped, a GPU named twice, the last GPU cut.
    """
    head = Node("head")
    blocks: list[Node] = []
    notes: list[str] = []
    stack: list[tuple[int, Node]] = []
    for line in clean(text).splitlines():
        if not line.strip() or line.startswith("="):
            continue
        opened = _BLOCK.fullmatch(line) if line.startswith("GPU ") else None
        if opened and pci_address(opened.group(1)):
            if any(pci_address(b.key) == pci_address(opened.group(1)) for b in blocks):
                raise ParseError(f"GPU {opened.group(1)} comes twice")
            block = Node(opened.group(1))
            blocks.append(block)
            stack = [(0, block)]
            continue
        key, colon, value = _pair(line)
        node = Node(key, value if colon else None)
        if not blocks:
            head.children.append(node)
            continue
        indent = len(line) - len(line.lstrip())
        _check(line, indent, colon, value, blocks[-1])
        if indent == 0:  # a shell's prompt after the report, or words of another command
            notes.append(line.strip()[:200])
            continue
        while len(stack) > 1 and stack[-1][0] >= indent:
            stack.pop()
        stack[-1][1].children.append(node)
        stack.append((indent, node))
    driver = version(head.text("KMD Version")) or version(head.text("Driver Version"))
    attached = integer(head.text("Attached GPUs"))
    if not blocks and driver is None and attached is None:
        raise ParseError(f"no report of `nvidia-smi -q`; the text begins with {first_line(text)!r}")
    _check_end(blocks)
    return SmiReport(
        driver=driver,
        cuda=version(head.text("CUDA UMD Version")) or version(head.text("CUDA Version")),
        attached=attached,
        gpus=tuple(gpu_of(index, block, block.key, driver, LAYOUT) for index, block in enumerate(blocks)),
        trees=tuple(blocks),
        details=tuple(details_of(block, LAYOUT) for block in blocks),
        notes=tuple(notes[:50]),
    )


def _pair(line: str) -> tuple[str, bool, str]:
    # The separator is a colon between blanks; values such as bus ids hold colons without them.
    key, separator, value = line.partition(" : ")
    if not separator and line.rstrip().endswith(" :"):
        return line.rstrip()[:-2].strip(), True, ""
    return key.strip(), bool(separator), value.strip()


def _check(line: str, indent: int, colon: bool, value: str, block: Node) -> None:
    if indent and "  " not in value:
        return
    where = f"GPU {block.key}: {line.strip()[:80]!r}"
    if indent == 0 and colon:
        raise ParseError(f"{where}: the indentation is lost")
    if "  " in value and _GLUED.search(value):
        raise ParseError(f"{where}: two lines run together")
    if indent == 0 and block.children:
        last = block.children[-1]
        while last.children:
            last = last.children[-1]
        if last.value == "":
            raise ParseError(f"{where}: wrapped, its key stands on the line before")


def _check_end(blocks: list[Node]) -> None:
    """A whole report that stops inside its last GPU is cut; `-d` prints the same few keys for all GPUs."""
    if len(blocks) < 2 or not all(blocks[0].at(key) for key in _CUT):
        return
    last = blocks[-1]
    if last.at(_CUT[0]) is not None and last.at(_CUT[1]) is None:
        raise ParseError(f"the report is cut inside GPU {last.key}")
    if not last.children:
        raise ParseError(f"the report is cut at GPU {last.key}")
