"""`nvidia-smi -q` and `-q -x`: one tree, printed in two ways."""

from __future__ import annotations

import time

from .smi_tree import tree
from .state import Lab, cuda_version
from .view import Gpu

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .smi_tree import Node

NA = "N/A"
COLUMN = 55
"""Column of the colon in `-q`."""

SECTIONS = {
    "MEMORY": ("FB Memory Usage", "BAR1 Memory Usage", "Conf Compute Protected Memory Usage"),
    "UTILIZATION": ("Utilization", "Encoder Stats", "FBC Stats"),
    "ECC": ("ECC Mode", "ECC Errors"),
    "TEMPERATURE": ("Temperature",),
    "POWER": ("GPU Power Readings", "GPU Memory Power Readings ", "Module Power Readings"),
    "CLOCK": ("Clocks", "Applications Clocks", "Default Applications Clocks", "Max Clocks", "Clock Policy"),
    "COMPUTE": ("Compute Mode",),
    "PIDS": ("Processes",),
    "PERFORMANCE": ("Performance State", "Clocks Event Reasons", "Clocks Event Reasons Counters"),
    "PAGE_RETIREMENT": ("Retired Pages",),
    "ROW_REMAPPER": ("Remapped Rows",),
}
"""What `-q -d` names keep."""


def _text(nodes: list[Node], depth: int, out: Callable[[str], None]) -> None:
    for label, _, value in nodes:
        start = "    " * depth + label
        if isinstance(value, str):
            out(f"{start.ljust(COLUMN)}: {value}")
        else:
            out(start)
            _text(value, depth + 1, out)


def _xml(nodes: list[Node], depth: int, out: Callable[[str], None]) -> None:
    for _, tag, value in nodes:
        if isinstance(value, str):
            bare = "" if tag == "processes" else value
            out("\t" * depth + f"<{tag}>{bare}</{tag}>")
        else:
            out("\t" * depth + f"<{tag}>")
            _xml(value, depth + 1, out)
            out("\t" * depth + f"</{tag}>")


def query(
    lab: Lab,
    rows: list[Gpu],
    *,
    xml: bool,
    sections: list[str],
    total: int,
    persistence: bool,
    out: Callable[[str], None],
) -> int:
    """Print `-q`, `-q -x` or `-q -d SECTION,...`."""
    driver = lab.module_version() or NA
    head: list[Node] = [
        ("Timestamp", "timestamp", time.strftime("%a %b %e %H:%M:%S %Y")),
        ("Driver Version", "driver_version", driver),
        ("CUDA Version", "cuda_version", cuda_version(driver)),
    ]
    keep = {label for section in sections for label in SECTIONS.get(section, ())}
    count: Node = ("Attached GPUs", "attached_gpus", str(total))
    if xml:
        out('<?xml version="1.0" ?>\n<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">\n<nvidia_smi_log>')
        _xml([*head, count], 1, out)
    else:
        out("\n==============NVSMI LOG==============\n")
        _text(head, 0, out)
        out("")
        _text([count], 0, out)
    for gpu in rows:
        nodes = [node for node in tree(gpu, driver, persistence) if not keep or node[0] in keep]
        if xml:
            out(f'\t<gpu id="{gpu.smi_bus}">')
            _xml(nodes, 2, out)
            out("\t</gpu>\n")
        else:
            out(f"GPU {gpu.smi_bus}")
            _text(nodes, 1, out)
            out("")
    if xml:
        out("</nvidia_smi_log>")
    return 0
