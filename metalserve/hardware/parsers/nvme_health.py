"""`nvme smart-log` and `nvme id-ctrl`: text of nvme-cli 1 and 2, and JSON."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from metalserve.hardware.parsers.jsontext import find_object, whole
from metalserve.hardware.parsers.text import ParseError, clean, first_line

_PAIR = re.compile(r"\s*([A-Za-z][A-Za-z0-9 _.]{0,60}?)\s*:\s*(.*?)\s*")
_GLUED = re.compile(r"\S\s+[a-zA-Z_][\w ]{2,40}\s*:\s+\S")
_COUNT = re.compile(r"(-?\d{1,3}(?:[,.'’]\d{3})+|-?\d{1,40})(?: ?%)?(?: \([^)]{1,40}\))?")
_HEX = re.compile(r"0x[0-9a-fA-F]{1,32}")
_DEGREES = re.compile(
    r"(-?\d{1,4}) ?(°|º)?\s?(C|Celsius|K|Kelvin|F)?\b(?: \((\d{1,4}) ?(?:K|Kelvin)\b.{0,20}\))?", re.IGNORECASE
)
_SENSOR = re.compile(r"temperature_sensor_(\d{1,2})")
_KELVIN: Final = 273
"""nvme-cli itself subtracts 273, not 273.15: whole degrees are what the drive reports."""

_ALIASES: Final = {
    "avail_spare": "available_spare",
    "spare_thresh": "available_spare_threshold",
    "percent_used": "percentage_used",
    "warning_temperature_time": "warning_temp_time",
    "critical_composite_temperature_time": "critical_comp_time",
    "endurance_group_critical_warning_summary": "endurance_grp_critical_warning_summary",
    "thermal_management_t1_trans_count": "thm_temp1_trans_count",
    "thermal_management_t2_trans_count": "thm_temp2_trans_count",
    "thermal_management_t1_total_time": "thm_temp1_total_time",
    "thermal_management_t2_total_time": "thm_temp2_total_time",
}
_NEEDED = ("critical_warning", "temperature")


@dataclass(frozen=True)
class NvmeSmart:
    """The SMART log of a drive; `None` means not printed.

    Attributes:
        device: as in the first line (`nvme0n1`); JSON does not name it.
        critical_warning: bits of the NVMe specification; 0 is well.
        temperature_c: composite temperature, degrees C.
        available_spare_percent: spare blocks left, percent.
        available_spare_threshold_percent: below it the drive warns.
        percentage_used: wear, percent of the rated life; may exceed 100.
        data_units_read: units of 512000 bytes.
        data_units_written: units of 512000 bytes.
        power_cycles: count.
        power_on_hours: hours.
        unsafe_shutdowns: count.
        media_errors: count.
        error_log_entries: count.
        warning_temperature_minutes: minutes above the warning temperature.
        critical_temperature_minutes: minutes above the critical temperature.
        sensors_c: sensor number -> degrees C.
        other: further counters by name.
    """

    device: str | None
    critical_warning: int | None
    temperature_c: int | None
    available_spare_percent: int | None = None
    available_spare_threshold_percent: int | None = None
    percentage_used: int | None = None
    data_units_read: int | None = None
    data_units_written: int | None = None
    power_cycles: int | None = None
    power_on_hours: int | None = None
    unsafe_shutdowns: int | None = None
    media_errors: int | None = None
    error_log_entries: int | None = None
    warning_temperature_minutes: int | None = None
    critical_temperature_minutes: int | None = None
    sensors_c: Mapping[int, int] = field(default_factory=dict)
    other: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


_FIELDS: Final = {
    "available_spare": "available_spare_percent",
    "available_spare_threshold": "available_spare_threshold_percent",
    "percentage_used": "percentage_used",
    "data_units_read": "data_units_read",
    "data_units_written": "data_units_written",
    "power_cycles": "power_cycles",
    "power_on_hours": "power_on_hours",
    "unsafe_shutdowns": "unsafe_shutdowns",
    "media_errors": "media_errors",
    "num_err_log_entries": "error_log_entries",
    "warning_temp_time": "warning_temperature_minutes",
    "critical_comp_time": "critical_temperature_minutes",
}


def parse_nvme_smart(text: str) -> NvmeSmart:
    """Read `nvme smart-log`, as text or with `-o json`.

    Raises:
        ParseError: neither form, a value that is no number, or lines run together.
    """
    body = clean(text)
    if re.search(r"(?m)^[ \t]*\{", body):
        return _smart_json(body)
    head = re.search(r"Smart Log for NVME device:\s?(\S{1,60}) namespace-id:", body)
    pairs, notes = _pairs(body, head.end() if head else 0)
    values: dict[str, int | None] = {}
    sensors: dict[int, int] = {}
    for key, value in pairs:
        name = _ALIASES.get(key, key)
        sensor = _SENSOR.fullmatch(name)
        degrees = _celsius(value) if sensor or name == "temperature" else None
        if sensor and degrees is not None:
            sensors[int(sensor.group(1))] = degrees
        elif name in values:
            raise ParseError(f"nvme smart-log: {name} comes twice")
        elif name == "temperature":
            values[name] = degrees
        elif name in _FIELDS or name == "critical_warning" or _COUNT.fullmatch(value) or _HEX.fullmatch(value):
            values[name] = _number(name, value)
        else:
            notes.append(f"{key}: {value}"[:200])
    return _smart(head.group(1) if head else None, values, sensors, notes, text)


def _smart_json(body: str) -> NvmeSmart:
    data, _ = find_object(body, _NEEDED)
    values: dict[str, int | None] = {}
    sensors: dict[int, int] = {}
    for key, value in data.items():
        name = _ALIASES.get(key.lower().replace(" ", "_"), key.lower().replace(" ", "_"))
        if isinstance(value, dict):  # `critical_warning` with its bits beside it (nvme-cli 2, verbose)
            value = value.get("value")
        count = whole(value)
        sensor = _SENSOR.fullmatch(name)
        if sensor and count is not None:
            sensors[int(sensor.group(1))] = count - _KELVIN
        elif name == "temperature":
            values[name] = None if count is None else count - _KELVIN if count >= 200 else count
        elif not sensor:
            values[name] = count
    return _smart(None, values, sensors, [], body)


def _smart(
    device: str | None, values: dict[str, int | None], sensors: dict[int, int], notes: list[str], text: str
) -> NvmeSmart:
    if any(name not in values for name in _NEEDED):
        raise ParseError(f"no SMART log of nvme-cli, or it is cut; the text begins with {first_line(text)!r}")
    known = {_FIELDS[name]: value for name, value in values.items() if name in _FIELDS}
    other = {n: v for n, v in values.items() if n not in _FIELDS and n not in _NEEDED and v is not None}
    return NvmeSmart(
        device=device,
        critical_warning=values["critical_warning"],
        temperature_c=values["temperature"],
        sensors_c=sensors,
        other=other,
        notes=tuple(notes[:20]),
        **known,
    )


def _pairs(body: str, start: int) -> tuple[list[tuple[str, str]], list[str]]:
    pairs: list[tuple[str, str]] = []
    notes: list[str] = []
    for line in body[start:].split("\n")[bool(start) :]:
        if not line.strip():
            continue
        found = _PAIR.fullmatch(line)
        if not found:
            notes.append(line.strip()[:200])
        elif _GLUED.search(found.group(2)):
            raise ParseError(f"nvme: two lines run together: {line.strip()[:80]!r}")
        else:
            pairs.append((re.sub(r"[ .]+", "_", found.group(1).strip().lower()), found.group(2)))
    return pairs, notes


def _number(name: str, value: str) -> int:
    if _HEX.fullmatch(value):
        return int(value, 16)
    found = _COUNT.fullmatch(value)
    if not found:
        raise ParseError(f"nvme: {name} is {value[:40]!r}, which is no number")
    return int(re.sub(r"[,.'’]", "", found.group(1)))


def _celsius(value: str) -> int:
    found = _DEGREES.match(value)
    if not found:
        raise ParseError(f"nvme: {value[:40]!r} is no temperature")
    degrees, unit = int(found.group(1)), (found.group(3) or "C")[0].upper()
    if unit == "F":
        raise ParseError(f"nvme: {value[:40]!r} is neither in C nor in K")
    return degrees - _KELVIN if unit == "K" else degrees


@dataclass(frozen=True)
class NvmeController:
    """What a controller says about itself; `None` means not printed.

    Attributes:
        model: model, stripped.
        serial: serial number, stripped.
        firmware: firmware revision.
        vendor_id: PCI vendor, four hex digits.
        controller_id: number.
        version: NVMe version (`1.4.0`).
        total_bytes: capacity of the whole drive, bytes.
        unallocated_bytes: capacity without namespace, bytes.
        warning_temperature_c: it warns above, degrees C.
        critical_temperature_c: it protects itself above, degrees C.
        namespaces: how many it supports.
        subsystem: NVMe qualified name.
        max_transfer_power: `mdts`, a power of two of memory pages; 0 means no limit.
        sanitize: it can sanitize (bits of `sanicap` 0 to 2).
        power_states: number of power states beside the first.
    """

    model: str | None
    serial: str | None
    firmware: str | None
    vendor_id: str | None
    controller_id: int | None
    version: str | None
    total_bytes: int | None
    unallocated_bytes: int | None
    warning_temperature_c: int | None
    critical_temperature_c: int | None
    namespaces: int | None
    subsystem: str | None
    max_transfer_power: int | None
    sanitize: bool | None
    power_states: int | None
    notes: tuple[str, ...] = ()


def parse_nvme_id_ctrl(text: str) -> NvmeController:
    """Read `nvme id-ctrl`, as text or with `-o json`.

    Raises:
        ParseError: neither form, without model and serial number, or lines run together.
    """
    body = clean(text)
    values: dict[str, Any]
    if re.search(r"(?m)^[ \t]*\{", body):
        values, _ = find_object(body, ("mn", "subnqn"))
    else:
        pairs, _ = _pairs(body, 0)
        values = {}
        for key, value in pairs:
            values.setdefault(key, value)  # the power states at the end repeat keys
    if not isinstance(values.get("mn"), str) or not isinstance(values.get("sn"), str):
        raise ParseError(f"no `nvme id-ctrl` with model and serial number; the text begins with {first_line(text)!r}")

    def count(key: str) -> int | None:
        value = values.get(key)
        if isinstance(value, str):
            return _number(key, value) if _HEX.fullmatch(value) or _COUNT.fullmatch(value) else None
        return whole(value)

    def kelvin(key: str) -> int | None:
        value = values.get(key)
        if isinstance(value, str) and not value.strip().isdigit():
            return _celsius(value) if _DEGREES.match(value) else None
        found = count(key)
        return found - _KELVIN if found else None  # 0 means that the drive does not say

    def string(key: str) -> str | None:
        value = values.get(key)
        return (value.strip() or None) if isinstance(value, str) else None

    vid, ver, sanicap = count("vid"), count("ver"), count("sanicap")
    return NvmeController(
        model=string("mn"),
        serial=string("sn"),
        firmware=string("fr"),
        vendor_id=f"{vid:04x}" if vid is not None else None,
        controller_id=count("cntlid"),
        version=f"{ver >> 16}.{ver >> 8 & 255}.{ver & 255}" if ver else None,
        total_bytes=count("tnvmcap"),
        unallocated_bytes=count("unvmcap"),
        warning_temperature_c=kelvin("wctemp"),
        critical_temperature_c=kelvin("cctemp"),
        namespaces=count("nn"),
        subsystem=string("subnqn"),
        max_transfer_power=count("mdts"),
        sanitize=bool(sanicap & 7) if sanicap is not None else None,
        power_states=count("npss"),
    )
