"""`nvidia-smi -q -x`: the long report as XML, DTD v10 to v13 or none; gives the same values as the text form."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Final

from metalserve.hardware.parsers.smi_report import Layout, Node, SmiReport, details_of, gpu_of, version
from metalserve.hardware.parsers.text import ParseError, clean, first_line, integer, pci_address

_ROOT = "nvidia_smi_log"
_LINK = ("pci", "pci_gpu_link_info")
_GPU_POWER, _OLD_POWER = "gpu_power_readings", "power_readings"

LAYOUT: Final[Layout] = {
    "name": (("product_name",),),
    "uuid": (("uuid",),),
    "device_id": (("pci", "pci_device_id"),),
    "memory": (("fb_memory_usage", "total"),),
    "memory_used": (("fb_memory_usage", "used"),),
    "power_limit": (
        (_GPU_POWER, "current_power_limit"),
        (_GPU_POWER, "gpu_ceiling_power_limit", "current_power_limit"),
        (_GPU_POWER, "power_limit"),
        (_OLD_POWER, "power_limit"),
    ),
    "power_draw": (
        (_GPU_POWER, "instant_power_draw"),
        (_GPU_POWER, "power_draw"),
        (_GPU_POWER, "average_power_draw"),
        (_OLD_POWER, "power_draw"),
    ),
    "temperature": (("temperature", "gpu_temp"),),
    "t_limit": (("temperature", "gpu_temp_tlimit"),),
    "memory_temperature": (("temperature", "memory_temp"),),
    "gen_current": ((*_LINK, "pcie_gen", "current_link_gen"),),
    "gen_max": ((*_LINK, "pcie_gen", "max_link_gen"),),
    "width_current": ((*_LINK, "link_widths", "current_link_width"),),
    "width_max": ((*_LINK, "link_widths", "max_link_width"),),
    "fabric_state": (("fabric", "state"),),
    "fabric_status": (("fabric", "status"),),
    "fabric_health": (("fabric", "health", "summary"),),
    "fabric_clique": (("fabric", "cliqueId"), ("fabric", "clique_id")),
    "fabric_cluster": (("fabric", "clusterUuid"), ("fabric", "cluster_uuid")),
    "remapped_pending": (("remapped_rows", "remapped_row_pending"),),
    "remapped_failure": (("remapped_rows", "remapped_row_failure"),),
    "remapped_correctable": (("remapped_rows", "remapped_row_corr"),),
    "remapped_uncorrectable": (("remapped_rows", "remapped_row_unc"),),
    "sram_threshold": (("ecc_errors", "aggregate", "sram_threshold_exceeded"),),
    "ecc_volatile": (("ecc_errors", "volatile"),),
    "ecc_mode": (("ecc_mode", "current_ecc"),),
    "recovery_action": (("gpu_recovery_action",),),
    "reasons": (("clocks_event_reasons",), ("clocks_throttle_reasons",)),
    "persistence": (("persistence_mode",),),
    "mig": (("mig_mode", "current_mig"),),
    "serial": (("serial",),),
    "vbios": (("vbios_version",),),
    "utilization": (("utilization", "gpu_util"),),
    "performance_state": (("performance_state",), ("perf_state",)),
    "retired_single": (("retired_pages", "multiple_single_bit_retirement", "retired_count"),),
    "retired_double": (("retired_pages", "double_bit_retirement", "retired_count"),),
    "retired_pending": (("retired_pages", "pending_blacklist"), ("retired_pages", "pending_retirement")),
    "pcie_replays": (("pci", "replay_counter"),),
}
"""Where the XML of DTD v10 to v13 keeps each value."""


def parse_smi_xml(text: str) -> SmiReport:
    """Read the output of `nvidia-smi -q -x`; text before and after the document does no harm.

    Raises:
        ParseError: no such document, it is cut or not well-formed, or a GPU comes twice.
    """
    body = clean(text)
    start, end = body.find(f"<{_ROOT}"), body.find(f"</{_ROOT}>")
    if start < 0:
        raise ParseError(f"no XML report of nvidia-smi; the text begins with {first_line(text)!r}")
    if end < start:
        raise ParseError("the XML report is cut: its closing tag is missing")
    after = body[end + len(_ROOT) + 3 :]
    if f"<{_ROOT}" in after:
        raise ParseError("several XML reports in one text: give one at a time")
    document = body[start : end + len(_ROOT) + 3]
    if "<!" in document:
        raise ParseError("the XML report declares something of its own, which nvidia-smi never does")
    try:
        root = ET.fromstring(document)  # noqa: S314 - no declaration can stand in it
    except (ET.ParseError, ValueError, RecursionError) as error:
        raise ParseError(f"the XML report is damaged: {error}") from error
    top = _tree(root)
    driver = version(top.text("kmd_version")) or version(top.text("driver_version"))
    elements = [e for e in root if e.tag == "gpu"]
    blocks = [node for node in top.children if node.key == "gpu"]
    addresses = [
        e.get("id", "") or node.text("pci", "pci_bus_id") or "" for e, node in zip(elements, blocks, strict=True)
    ]
    known = [a for a in (pci_address(address) for address in addresses) if a]
    if len(set(known)) != len(known):
        raise ParseError("the XML report names a GPU twice")
    return SmiReport(
        driver=driver,
        cuda=version(top.text("cuda_umd_version")) or version(top.text("cuda_version")),
        attached=integer(top.text("attached_gpus")),
        gpus=tuple(gpu_of(n, b, a, driver, LAYOUT) for n, (b, a) in enumerate(zip(blocks, addresses, strict=True))),
        trees=tuple(blocks),
        details=tuple(details_of(block, LAYOUT) for block in blocks),
        notes=tuple(line.strip()[:200] for line in after.splitlines() if line.strip())[:20],
    )


def _tree(root: ET.Element) -> Node:
    top = Node(root.tag)
    waiting = [(root, top)]
    while waiting:
        element, node = waiting.pop()
        for child in element:
            below = Node(str(child.tag), (child.text or "").strip() if not len(child) else None)
            node.children.append(below)
            waiting.append((child, below))
    return top
