"""`nvme list`: JSON of both generations of nvme-cli, and the table."""

from __future__ import annotations

import json
import re
from typing import Any

from metalserve.hardware.parsers.jsontext import words
from metalserve.hardware.parsers.text import ParseError, clean, first_line, pci_address
from metalserve.hardware.values import NvmeDrive

_SIZE = re.compile(r"\s*(\d{1,6}(?:\.\d{1,3})?)\s+([kKMGTP]?)B\s*")
_UNITS = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}
_RULER = re.compile(r"-{2,80}(?: +-{2,80})+\s*")


def parse_nvme_list(text: str) -> tuple[NvmeDrive, ...]:
    """Read `nvme list`, as JSON (`-o json`, nvme-cli 1 and 2) or as a table.

    In a table the sizes are rounded to what is printed (`960.20 GB`).

    Raises:
        ParseError: neither form, or damaged.
    """
    body = clean(text).strip()
    start = body.find("{")
    if start >= 0 and not body[:start].strip().startswith(("Node", "/dev")):
        return _from_json(body[start:])
    return _from_table(body)


def _from_json(body: str) -> tuple[NvmeDrive, ...]:
    try:
        data, _ = json.JSONDecoder().raw_decode(body)
    except (ValueError, RecursionError) as error:
        raise ParseError(f"nvme list: not JSON ({type(error).__name__}); it begins with {body[:60]!r}") from error
    devices = data.get("Devices") if isinstance(data, dict) else None
    if not isinstance(devices, list):
        raise ParseError("nvme list: JSON without a list `Devices`")
    drives: list[NvmeDrive] = []
    for device in devices:
        if not isinstance(device, dict):
            raise ParseError("nvme list: an entry of `Devices` is no object")
        if "DevicePath" in device:
            drives.append(_drive(device, device, str(device["DevicePath"])))
        else:
            for subsystem in _objects(device, "Subsystems"):
                drives.extend(_subsystem(subsystem))
    names = [d.device for d in drives]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise ParseError(f"nvme list: {twice[0]} comes twice")
    return tuple(drives)


def _subsystem(subsystem: dict[str, Any]) -> list[NvmeDrive]:
    controllers = _objects(subsystem, "Controllers")
    drives = []
    for controller in controllers:
        for namespace in _objects(controller, "Namespaces"):
            drives.append(_drive(namespace, controller, f"/dev/{namespace.get('NameSpace', '')}"))
    if not drives and controllers:  # with multipath the namespaces stand beside the controllers
        for namespace in _objects(subsystem, "Namespaces"):
            drives.append(_drive(namespace, controllers[0], f"/dev/{namespace.get('NameSpace', '')}"))
    return drives


def _objects(holder: dict[str, Any], key: str) -> list[dict[str, Any]]:
    found = holder.get(key) or []
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise ParseError(f"nvme list: `{key}` is not a list of objects")
    return found


def _drive(namespace: dict[str, Any], controller: dict[str, Any], device: str) -> NvmeDrive:
    if not re.fullmatch(r"/dev/[A-Za-z0-9_-]{1,40}", device):
        raise ParseError(f"nvme list: {device[:60]!r} is no device")
    return NvmeDrive(
        device=device,
        model=words(controller.get("ModelNumber")),
        serial=words(controller.get("SerialNumber")),
        firmware=words(controller.get("Firmware")),
        size_bytes=_whole(namespace.get("PhysicalSize")),
        used_bytes=_whole(namespace.get("UsedBytes")),
        pci=pci_address(str(controller.get("Address") or "")),
    )


def _whole(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or abs(value) > 1e24:
        return None
    return int(value)


def _from_table(body: str) -> tuple[NvmeDrive, ...]:
    lines = body.splitlines()
    if not lines or not lines[0].startswith("Node") or len(lines) < 2 or not _RULER.fullmatch(lines[1]):
        raise ParseError(f"nvme list: neither JSON nor a table; it begins with {first_line(body)!r}")
    spans = [m.span() for m in re.finditer(r"-+", lines[1])]
    titles = [lines[0][a:b].strip() for a, b in spans]
    for title in ("Node", "SN", "Model", "Usage"):
        if title not in titles:
            raise ParseError(f"nvme list: table without column {title}")
    drives = []
    for line in lines[2:]:
        if not line.strip():
            continue
        cells = dict(zip(titles, (line[a:b].strip() for a, b in spans), strict=True))
        gaps = [line[b : b + 1] for _, b in spans[:-1]]
        if not re.fullmatch(r"/dev/[A-Za-z0-9_-]{1,40}", cells["Node"]) or any(g.strip() for g in gaps):
            raise ParseError(f"nvme list: row does not fit the columns: {line.strip()[:60]!r}")
        used, _, size = cells["Usage"].partition("/")
        drives.append(
            NvmeDrive(
                device=cells["Node"],
                model=cells["Model"] or None,
                serial=cells["SN"] or None,
                firmware=cells.get("FW Rev") or None,
                size_bytes=_bytes(size),
                used_bytes=_bytes(used),
            )
        )
    return tuple(drives)


def _bytes(text: str) -> int | None:
    found = _SIZE.fullmatch(text)
    return round(float(found.group(1)) * _UNITS[found.group(2)]) if found else None
