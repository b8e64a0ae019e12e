"""The kinds of tool output that `metalserve read` understands, each with its JSON form (schema version 1)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from metalserve.hardware.parsers.kernel_log import parse_kernel_log
from metalserve.hardware.parsers.lspci import parse_lspci, parse_pcie_links
from metalserve.hardware.parsers.nvlink import parse_nvlink_status
from metalserve.hardware.parsers.nvme import parse_nvme_list
from metalserve.hardware.parsers.smi import parse_smi_csv, parse_smi_list
from metalserve.hardware.parsers.smi_q import parse_smi_q
from metalserve.hardware.parsers.text import ParseError, first_line
from metalserve.hardware.parsers.topo import parse_topo

SCHEMA: Final = 1
"""Version of the JSON objects; raised when a key changes its meaning or goes away."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of tool output.

    Attributes:
        name: what the user types.
        command: the command that prints it.
        read: text -> JSON-ready object; raises `ParseError` only.
    """

    name: str
    command: str
    read: Callable[[str], dict[str, Any]]


def _topo(text: str) -> dict[str, Any]:
    topology = parse_topo(text)
    nodes: set[int] = set()
    for affinity in topology.numa_nodes.values():
        nodes |= _numbers(affinity)
    return {
        "gpus": list(topology.gpus),
        "links": {f"GPU{a},GPU{b}": kind for (a, b), kind in topology.links.items()},
        "nics": list(topology.nics),
        "nic_names": dict(topology.nic_names),
        "nic_links": {f"GPU{gpu},{nic}": kind for (gpu, nic), kind in topology.nic_links.items()},
        "numa_nodes": sorted(nodes),
        "numa_affinity": dict(topology.numa_nodes),
        "cpu_affinity": dict(topology.cpu_affinity),
        "gpu_numa_ids": dict(topology.gpu_numa_ids),
        "summary": topology.summary,
        "notes": list(topology.notes),
    }


def _numbers(affinity: str) -> set[int]:
    found: set[int] = set()
    for part in affinity.split(","):
        low, _, high = part.partition("-")
        if low.isdigit():
            found |= set(range(int(low), int(high if high.isdigit() else low) + 1))
    return found


def _smi_q(text: str) -> dict[str, Any]:
    report = parse_smi_q(text)
    return {
        "driver": report.driver,
        "cuda": report.cuda,
        "attached": report.attached,
        "gpus": [asdict(gpu) for gpu in report.gpus],
    }


def _smi_csv(text: str) -> dict[str, Any]:
    table = parse_smi_csv(text)
    return {
        "fields": list(table.fields),
        "units": dict(table.units),
        "rows": [dict(r) for r in table.rows],
        "notes": list(table.notes),
    }


def _smi_list(text: str) -> dict[str, Any]:
    return {"gpus": [asdict(gpu) for gpu in parse_smi_list(text)]}


def _nvlink_status(text: str) -> dict[str, Any]:
    gpus = []
    for gpu in parse_nvlink_status(text):
        rates = [rate for rate in gpu.link_gb_per_s.values() if rate is not None]
        gpus.append(
            {
                "index": gpu.index,
                "name": gpu.name,
                "uuid": gpu.uuid,
                "supported": gpu.supported,
                "active": gpu.active,
                "inactive": gpu.inactive,
                "gb_per_s": min(rates) if rates else None,
                "links": {str(number): rate for number, rate in gpu.link_gb_per_s.items()},
                "note": gpu.note,
            }
        )
    return {"gpus": gpus}


def _lspci(text: str) -> dict[str, Any]:
    links = parse_pcie_links(text)
    try:
        listing = parse_lspci(text)
    except ParseError:
        if not links:
            raise
        return {"devices": [], "links": [asdict(link) for link in links], "notes": []}
    return {
        "devices": [asdict(device) for device in listing.devices],
        "links": [asdict(link) for link in links],
        "notes": list(listing.notes),
    }


def _nvme_list(text: str) -> dict[str, Any]:
    drives = [asdict(drive) for drive in parse_nvme_list(text)]
    for drive in drives:
        del drive["link"]
    return {"drives": drives}


def _kernel_log(text: str) -> dict[str, Any]:
    log = parse_kernel_log(text)
    return {"events": [asdict(event) for event in log.events], "notes": list(log.notes)}


_ALL = (
    Kind("topo", "nvidia-smi topo -m", _topo),
    Kind("smi-q", "nvidia-smi -q", _smi_q),
    Kind("smi-list", "nvidia-smi -L", _smi_list),
    Kind("nvlink-status", "nvidia-smi nvlink -s", _nvlink_status),
    Kind("smi-csv", "nvidia-smi --query-gpu=... --format=csv", _smi_csv),
    Kind("nvme-list", "nvme list, also -o json", _nvme_list),
    Kind("lspci", "lspci -Dnn, also -vv", _lspci),
    Kind("kernel-log", "dmesg, journalctl -k", _kernel_log),
)

KINDS: Final[Mapping[str, Kind]] = {kind.name: kind for kind in _ALL}
"""Name -> kind, in the order in which `detect` tries them: the strict ones first."""


_DRIVER_LINE = re.compile(r"NVRM: |SXid \(|\bnvidia(?:-[a-z0-9]{1,16})?(?: [0-9a-f:.]{7,16})?: ")


def detect(text: str) -> Kind:
    """Return the kind of a text by trying all.

    Raises:
        ParseError: none fits.
    """
    for kind in _ALL[:-1]:
        try:
            kind.read(text)
        except ParseError:
            continue
        return kind
    if _DRIVER_LINE.search(text):
        return KINDS["kernel-log"]
    raise ParseError(f"kind not recognised; the text begins with {first_line(text)!r}", remedy="name the kind")
