"""Kinds that tell how GPUs reach each other."""

from __future__ import annotations

from typing import Any, Final

from metalserve.hardware.parsers.dcgm_nvlink import parse_dcgm_nvlink
from metalserve.hardware.parsers.nvlink import parse_nvlink_status
from metalserve.hardware.parsers.nvlink_counters import (
    LinkTables,
    faults,
    parse_nvlink_capabilities,
    parse_nvlink_errors,
)
from metalserve.hardware.parsers.p2p import parse_p2p
from metalserve.hardware.parsers.topo import parse_topo
from metalserve.hardware.readable.kind import Kind, marks, of_smi


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


def _p2p(text: str) -> dict[str, Any]:
    matrix = parse_p2p(text)
    return {
        "gpus": list(matrix.gpus),
        "links": {f"GPU{a},GPU{b}": status for (a, b), status in matrix.pairs.items()},
        "summary": matrix.summary,
        "notes": list(matrix.notes),
    }


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


def _links(tables: LinkTables, *, truth: bool) -> list[dict[str, Any]]:
    return [
        {
            "index": gpu.index,
            "name": gpu.name,
            "uuid": gpu.uuid,
            "links": {
                str(n): {k: bool(v) if truth and v is not None else v for k, v in values.items()}
                for n, values in gpu.links.items()
            },
            "note": gpu.note,
        }
        for gpu in tables.gpus
    ]


def _nvlink_errors(text: str) -> dict[str, Any]:
    tables = parse_nvlink_errors(text)
    found = [
        {"gpu": gpu.index, "link": link, "counter": counter, "count": count}
        for gpu in tables.gpus
        for link, counter, count in faults(gpu.links)
    ]
    return {"gpus": _links(tables, truth=False), "faults": found, "notes": list(tables.notes)}


def _nvlink_caps(text: str) -> dict[str, Any]:
    tables = parse_nvlink_capabilities(text)
    return {"gpus": _links(tables, truth=True), "notes": list(tables.notes)}


def _dcgm_nvlink(text: str) -> dict[str, Any]:
    def side(kind: str) -> list[dict[str, Any]]:
        return [
            {
                "index": e.index,
                "states": e.states,
                "up": e.states.count("U"),
                "down": e.states.count("D"),
                "disabled": e.states.count("X"),
                "unsupported": e.states.count("_"),
            }
            for e in links
            if e.kind == kind
        ]

    links = parse_dcgm_nvlink(text)
    return {"gpus": side("gpu"), "switches": side("switch")}


_MATRIX = r"^[ \t]*GPU\d{1,4}\s+(?:X|NV\d{1,2}|SYS|NODE|PHB|PXB|PIX|SOC)\b|CPU Affinity|Option -m is missing"

FABRIC_KINDS: Final = (
    Kind(
        "p2p",
        "nvidia-smi topo -p2p r, also w, n, a, p",
        of_smi(_p2p),
        marks(r"^[ \t]*GPU\d{1,4}\s.{0,400}\b(?:OK|C?NS|TNS|GNS)\b|= Status Ok"),
    ),
    Kind("topo", "nvidia-smi topo -m", of_smi(_topo), marks(_MATRIX)),
    Kind("nvlink-caps", "nvidia-smi nvlink -c", of_smi(_nvlink_caps), marks(r"Link \d{1,3}, .{1,60}: (?:true|false)")),
    Kind("nvlink-errors", "nvidia-smi nvlink -e", of_smi(_nvlink_errors), marks(r"Link \d{1,3}: [A-Z].{1,60}: ?\S")),
    Kind(
        "nvlink-status",
        "nvidia-smi nvlink -s",
        of_smi(_nvlink_status),
        marks(r"Link \d{1,3}: (?:\d|<?inactive)|(?i:support nvlink|links are inactive|nvlink queries are not)"),
    ),
    Kind("dcgm-nvlink", "dcgmi nvlink --link-status", _dcgm_nvlink, marks(r"NvLink Link Status|^[ \t]*gpuId \d")),
)
