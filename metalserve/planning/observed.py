"""A host from a report: hardware and measurements, as far as planning needs them. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from metalserve.errors import MetalserveError
from metalserve.hardware.export import SCHEMA
from metalserve.hardware.node import Gpu, NodeHardware
from metalserve.planning.allreduce import MeasuredLinks

_PAIR = re.compile(r"GPU(\d+),GPU(\d+)")


def hardware_from(values: Mapping[str, Any], where: str) -> NodeHardware:
    """Return the hardware of a report's host: GPUs, links and NUMA nodes.

    Args:
        values: what `hardware_dict` made (schema 1).
        where: file and host, for messages.

    Raises:
        MetalserveError: nothing was observed, or the values have another shape.
    """
    if not values:
        raise MetalserveError("the report has no hardware of this host", where=where,
                              remedy="pyinfra INVENTORY deploys/verify.py -y leaves a report that has")  # fmt: skip
    if values.get("schema") != SCHEMA:
        raise MetalserveError(
            f"hardware of schema {values.get('schema')!r}, this metalserve reads {SCHEMA}", where=where
        )
    try:
        gpus = tuple(_gpu(row) for row in values.get("gpus") or ())
        links = {}
        for key, kind in (values.get("links") or {}).items():
            if found := _PAIR.fullmatch(key):
                links[int(found[1]), int(found[2])] = str(kind)
        numa = {int(gpu): str(node) for gpu, node in (values.get("numa_nodes") or {}).items()}
        return NodeHardware(
            gpus=gpus,
            links=links,
            numa_nodes=numa,
            nics=tuple(map(str, values.get("nics") or ())),
            needs_fabric_manager=bool(values.get("needs_fabric_manager")),
            smi_state=values.get("smi_state") or "absent",
            smi_message=str(values.get("smi_message") or ""),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise MetalserveError(f"hardware that cannot be read: {error!r}", where=where) from error


def _gpu(row: Mapping[str, Any]) -> Gpu:
    return Gpu(
        index=int(row["index"]),
        name=row.get("name"),
        uuid=row.get("uuid"),
        pci=row.get("pci"),
        device_id=row.get("device_id"),
        memory_mib=int(row["memory_mib"]) if row.get("memory_mib") else None,
        mig_enabled=row.get("mig_enabled"),
    )


def read_rate_from(values: Mapping[str, Any]) -> float | None:
    """Return the rate at which the drive of the models was read, GB/s; None when it was not, or on a stand-in."""
    storage = values.get("storage")
    if values.get("simulated") or not isinstance(storage, Mapping):
        return None
    rate = storage.get("read_gb_s")
    return float(rate) if isinstance(rate, (int, float)) and rate > 0 else None


LARGE_BYTES = 2**28
"""Size that a baseline's bandwidth stands for: it is the largest that was measured, where the rate no longer grows."""


def measured_from_figures(figures: Mapping[str, float], gpus: int, *, simulated: bool) -> MeasuredLinks | None:
    """Return the all-reduce of a host's accepted baseline (`metalserve.verify.baseline`); None when it has none.

    Args:
        figures: of the baseline; `busbw` is the all-reduce over all GPUs, GB/s.
        gpus: GPUs that it was measured on.
        simulated: on a stand-in.
    """
    busbw = figures.get("busbw", 0.0)
    return None if simulated or gpus < 2 or busbw <= 0 else MeasuredLinks(((gpus, LARGE_BYTES, busbw),))


def measured_from(values: Mapping[str, Any]) -> MeasuredLinks | None:
    """Return the all-reduces that were measured on a host with NCCL on real GPUs; None when there are none.

    Args:
        values: `measurements` of a report's host (metalserve.verify.measurement), also empty.
    """
    links = values.get("nvlink")
    if values.get("simulated") or not isinstance(links, Mapping) or links.get("backend") != "nccl":
        return None
    points = []
    for row in links.get("all_reduce") or ():
        try:
            points.append((len(row["gpus"]), int(row["size_bytes"]), float(row["busbw_gb_s"])))
        except (KeyError, TypeError, ValueError):
            continue
    return MeasuredLinks(tuple(points)) if points else None
