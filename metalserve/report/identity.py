"""What a report's hardware is, by the catalogue: its GPU's row, and the figures that row promises."""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache

from metalserve.catalogue.loader import load_gpus
from metalserve.catalogue.models import Busbw, GpuSpec
from metalserve.report.model import Host
from metalserve.report.values import line, mappings

_PLATFORM = re.compile(r"(\d+)x(.+)")


def gpu_spec(host: Host) -> GpuSpec | None:
    """Return the catalogue row of a host's GPUs; None when they are of several models or of none that it has."""
    seen = [(line(g.get("device_id")), line(g.get("name"))) for g in mappings(host.hardware.get("gpus"))]
    seen = seen or [(line(g.get("device_id")), "") for g in mappings(host.hardware.get("pci_gpus"))]
    specs = {_found(device, name) for device, name in seen}
    return next(iter(specs)) if len(specs) == 1 else None


@lru_cache(maxsize=512)
def _found(device: str, name: str) -> GpuSpec | None:
    return load_gpus().find(device.lower() or None, name or None)


@lru_cache(maxsize=512)
def healthy_busbw(spec: GpuSpec, gpus: int) -> Busbw | None:
    """Return the catalogue's all-reduce figures for `gpus` GPUs of one model in one host, or None.

    Rows are named as the sources name them ("8xH100 SXM"); they are found by the words of the catalogue id.
    """
    for row in load_gpus().busbw:
        found = _PLATFORM.fullmatch(row.platform)
        if found is None or int(found.group(1)) != gpus:
            continue
        words = found.group(2).lower().removesuffix(" bridged").split()
        if spec.id.split("-")[: len(words)] == words:
            return row
    return None


def nominal_pair_gb_s(spec: GpuSpec, kind: str) -> float | None:
    """Return what the NVLinks of a pair of class `kind` ("NV18") carry each way, GB/s nominal; None without NVLink."""
    count = kind.removeprefix("NV")
    if spec.nvlink is None or not kind.startswith("NV") or not count.isdigit():
        return None
    return int(count) * spec.nvlink.link_gb_s


def usual(kinds: Counter[str]) -> str:
    """Return the most frequent class; "" of none."""
    return kinds.most_common(1)[0][0] if kinds else ""
