"""From resources of a Redfish tree to values. Pure; BMCs leave fields out, send null, and texts for numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from metalserve.bmc.client import Event, GpuReading, Reading

_OLD: dict[str, tuple[str, str, str]] = {
    "Temperatures": ("Temperature", "ReadingCelsius", "Cel"),
    "Fans": ("Rotational", "Reading", "RPM"),
    "Voltages": ("Voltage", "ReadingVolts", "V"),
    "PowerControl": ("Power", "PowerConsumedWatts", "W"),
    "PowerSupplies": ("Power", "PowerInputWatts", "W"),
}


def name_of(path: str) -> str:
    """Return the last word of a path."""
    return path.rstrip("/").rsplit("/", 1)[-1]


def number(value: object) -> float | None:
    """Return a number, `None` for what is none."""
    if isinstance(value, bool) or value is None:
        return None
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        found = float(value)  # type: ignore[arg-type]
        return found if abs(found) != float("inf") and found == found else None
    return None


def _count(value: object) -> int | None:
    found = number(value)
    return None if found is None else int(found)


def _map(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _health(body: Mapping[str, Any]) -> str:
    status = _map(body.get("Status"))
    return str(status.get("Health") or status.get("HealthRollup") or "")


def sensor(body: Mapping[str, Any], place: str) -> Reading | None:
    """Return a member of a Sensors collection; `None` for one whose part is absent."""
    if _map(body.get("Status")).get("State") == "Absent":
        return None
    return Reading(
        name=str(body.get("Name") or body.get("Id") or "?"),
        kind=str(body.get("ReadingType") or ""),
        value=number(body.get("Reading")),
        unit=str(body.get("ReadingUnits") or ""),
        health=_health(body),
        place=place,
    )


def old_sensors(body: Mapping[str, Any], place: str) -> list[Reading]:
    """Return the readings of a Thermal or Power resource."""
    found = []
    for part, (kind, field, unit) in _OLD.items():
        rows = body.get(part)
        for row in rows if isinstance(rows, list) else []:
            if not isinstance(row, Mapping) or _map(row.get("Status")).get("State") == "Absent":
                continue
            name = str(row.get("Name") or row.get("MemberId") or "?")
            words = str(row.get("ReadingUnits") or unit) if part == "Fans" else unit
            value = number(row.get(field))
            found.append(Reading(name, kind, value, words, _health(row), place))
    return found


def event(body: Mapping[str, Any], log: str) -> Event:
    """Return an entry of a log."""
    at = moment(body.get("EventTimestamp")) or moment(body.get("Created"))
    arguments = body.get("MessageArgs")
    message = str(body.get("Message") or "").strip()
    if not message and isinstance(arguments, list):
        message = " ".join(map(str, arguments))
    origin = _map(_map(body.get("Links")).get("OriginOfCondition")).get("@odata.id")
    return Event(
        at=at,
        severity=str(body.get("Severity") or ""),
        message=message,
        code=str(body.get("MessageId") or ""),
        log=log,
        id=str(body.get("Id") or ""),
        origin=str(origin or ""),
    )


def moment(text: object) -> float | None:
    """Return seconds since the epoch; `None` for what is no time, and for clocks that were never set (before 2000)."""
    if not isinstance(text, str) or not text:
        return None
    try:
        found = datetime.fromisoformat(text.replace("Z", "+00:00"))
        at = found.timestamp()
    except (ValueError, OverflowError, OSError):
        return None
    return at if at > 946_684_800 else None


def gpu(
    processor: Mapping[str, Any], environment: Mapping[str, Any], metrics: Mapping[str, Any], *, simulated: bool
) -> GpuReading:
    """Return a GPU from its Processor, EnvironmentMetrics and ProcessorMetrics."""
    errors = _map(_map(metrics.get("CacheMetricsTotal")).get("LifeTime"))
    return GpuReading(
        name=str(processor.get("Id") or processor.get("Name") or "?"),
        model=str(processor.get("Model") or ""),
        serial=str(processor.get("SerialNumber") or "").strip(),
        uuid=str(processor.get("UUID") or ""),
        health=_health(processor),
        temperature_c=number(_map(environment.get("TemperatureCelsius")).get("Reading")),
        power_w=number(_map(environment.get("PowerWatts")).get("Reading")),
        ecc_corrected=_count(errors.get("CorrectableECCErrorCount")),
        ecc_uncorrected=_count(errors.get("UncorrectableECCErrorCount")),
        simulated=simulated,
    )


def report(body: Mapping[str, Any]) -> dict[str, float]:
    """Return the values of a metric report: property -> value."""
    found = {}
    rows = body.get("MetricValues")
    for row in rows if isinstance(rows, list) else []:
        if isinstance(row, Mapping) and isinstance(row.get("MetricProperty"), str):
            value = number(row.get("MetricValue"))
            if value is not None:
                found[row["MetricProperty"]] = value
    return found


def metrics_below(path: str, values: Mapping[str, float]) -> dict[str, float]:
    """Return the values of properties below a resource, by what follows its path."""
    prefix = path.rstrip("/") + "/"
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
