"""What is read of a Redfish tree as plain JSON: sensors, logs, GPUs, firmware. What could not be read is named."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sushy import exceptions as sushy_errors

from metalserve.bmc import redfish_parse as parse
from metalserve.bmc.client import Event, Events, Firmware, GpuReading, Gpus, Reading, Readings
from metalserve.bmc.connector import Connector
from metalserve.bmc.errors import BmcError

MOST_ENTRIES = 2000
"""Entries read of one log; the newest are kept."""
_EXPAND = "?$expand=.($levels=1)"


def attempt(connector: Connector, path: str, tries: int = 3) -> dict[str, Any] | str:
    """Return a resource, or in words why it cannot be read; a refused login is no matter of one resource."""
    try:
        return connector.json(path, tries=tries)
    except sushy_errors.AccessError:
        raise
    except sushy_errors.HTTPError as error:
        return connector.scrubbed(f"HTTP {error.status_code}{f' ({error.detail})' if error.detail else ''}")
    except BmcError as error:
        return error.what


def is_simulated(body: dict[str, Any]) -> bool:
    """Tell whether a resource says that it is simulated."""
    return bool(((body.get("Oem") or {}).get("Metalserve") or {}).get("simulated"))


def members(connector: Connector, body: dict[str, Any], name: str) -> list[str]:
    """Return the paths of a collection that a resource names; none when it names none."""
    link = (body.get(name) or {}).get("@odata.id")
    if not link:
        return []
    return [str(each["@odata.id"]) for each in connector.json(str(link)).get("Members") or [] if each.get("@odata.id")]


def sensors(connector: Connector, root: dict[str, Any]) -> Readings:
    """Read all sensors: the newer Sensors collections, Thermal and Power where a chassis has none."""
    items: dict[tuple[str, str], Reading] = {}
    missed: list[str] = []
    for path in members(connector, root, "Chassis"):
        chassis = attempt(connector, path, tries=1)
        if isinstance(chassis, str):
            missed.append(f"{path}: {chassis}")
            continue
        place = parse.name_of(path)
        found: list[Reading] = []
        if (chassis.get("Sensors") or {}).get("@odata.id"):
            for _, body in _collection(connector, root, str(chassis["Sensors"]["@odata.id"]), missed):
                found += filter(None, [parse.sensor(body, place)])
        else:
            for kind in ("Thermal", "Power"):
                link = (chassis.get(kind) or {}).get("@odata.id")
                old = attempt(connector, str(link)) if link else {}
                if isinstance(old, str):
                    missed.append(f"{link}: {old}")
                else:
                    found += parse.old_sensors(old, place)
        for reading in found:
            items[place, reading.name] = reading
    return Readings(tuple(items.values()), tuple(missed))


def events(connector: Connector, root: dict[str, Any], since: float) -> Events:
    """Read every log of systems, managers and chassis; an entry that several logs share counts once."""
    items: dict[tuple[Any, ...], Event] = {}
    missed: list[str] = []
    for holder in (path for name in ("Systems", "Managers", "Chassis") for path in members(connector, root, name)):
        body = attempt(connector, holder, tries=1)
        if isinstance(body, str):
            missed.append(f"{holder}: {body}")
            continue
        link = (body.get("LogServices") or {}).get("@odata.id")
        if not link:
            continue
        for service, log in _collection(connector, root, str(link), missed):
            entries = (log.get("Entries") or {}).get("@odata.id")
            if not entries:
                continue
            name = f"{parse.name_of(holder)}/{parse.name_of(service)}"
            for entry in _entries(connector, str(entries), missed):
                event = parse.event(entry, name)
                if event.at is None or event.at >= since:
                    items.setdefault((event.at, event.message, event.code, event.id), event)
    return Events(tuple(sorted(items.values(), key=lambda each: each.at or 0.0)), tuple(missed))


def gpus(connector: Connector, root: dict[str, Any]) -> Gpus:
    """Read GPUs from the processors of all systems, their metrics, and the metric reports."""
    found: dict[str, GpuReading] = {}
    missed: list[str] = []
    paths: dict[str, str] = {}
    for holder in members(connector, root, "Systems"):
        body = attempt(connector, holder, tries=1)
        if isinstance(body, str):
            missed.append(f"{holder}: {body}")
            continue
        link = (body.get("Processors") or {}).get("@odata.id")
        for path, processor in _collection(connector, root, str(link), missed) if link else ():
            if processor.get("ProcessorType") != "GPU":
                continue
            metrics: dict[str, dict[str, Any]] = {}
            for name in ("EnvironmentMetrics", "Metrics"):
                place = (processor.get(name) or {}).get("@odata.id")
                got = attempt(connector, str(place), tries=1) if place else {}
                if isinstance(got, str):
                    missed.append(f"{place}: {got}")
                metrics[name] = got if isinstance(got, dict) else {}
            gpu = parse.gpu(
                processor, metrics["EnvironmentMetrics"], metrics["Metrics"], simulated=is_simulated(processor)
            )
            key = gpu.serial or gpu.uuid or path
            if key not in found:  # host and baseboard may both list it
                found[key] = gpu
                paths[path] = key
    reports = _reports(connector, root, missed) if found else {}
    for path, key in paths.items():
        found[key].metrics.update(parse.metrics_below(path, reports))
    return Gpus(tuple(found.values()), tuple(missed))


def firmware(connector: Connector, root: dict[str, Any]) -> tuple[Firmware, ...]:
    """Read the firmware inventory; nothing when the BMC has none."""
    service = (root.get("UpdateService") or {}).get("@odata.id")
    if not service:
        return ()
    link = (connector.json(str(service)).get("FirmwareInventory") or {}).get("@odata.id")
    missed: list[str] = []
    return tuple(
        Firmware(str(body.get("Name") or body.get("Id") or parse.name_of(path)), str(body.get("Version") or "unknown"))
        for path, body in (_collection(connector, root, str(link), missed) if link else ())
    )


def _reports(connector: Connector, root: dict[str, Any], missed: list[str]) -> dict[str, float]:
    service = (root.get("TelemetryService") or {}).get("@odata.id")
    if not service:
        return {}
    body = attempt(connector, str(service))
    link = (body.get("MetricReports") or {}).get("@odata.id") if isinstance(body, dict) else None
    values: dict[str, float] = {}
    for _, report in _collection(connector, root, str(link), missed) if link else ():
        values |= parse.report(report)
    return values


def _collection(
    connector: Connector, root: dict[str, Any], path: str, missed: list[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield path and body of each member; with one request where the service expands collections."""
    expands = (root.get("ProtocolFeaturesSupported") or {}).get("ExpandQuery") or {}
    body = attempt(connector, f"{path}{_EXPAND}") if expands.get("Levels") else attempt(connector, path)
    if isinstance(body, str) and expands.get("Levels"):
        body = attempt(connector, path)  # says that it can, and cannot for this one
    if isinstance(body, str):
        missed.append(f"{path}: {body}")
        return
    for member in body.get("Members") or []:
        place = str(member.get("@odata.id") or "")
        if len(member) > 1:
            yield place, member
            continue
        got = attempt(connector, place, tries=1)
        if isinstance(got, str):
            missed.append(f"{place}: {got}")
        else:
            yield place, got


def _entries(connector: Connector, path: str, missed: list[str]) -> list[dict[str, Any]]:
    """Return the entries of a log over all its pages."""
    found: list[dict[str, Any]] = []
    seen: set[str] = set()
    following = path
    while following and following not in seen:
        seen.add(following)
        body = attempt(connector, following)
        if isinstance(body, str):
            missed.append(f"{following}: {body}")
            break
        for member in body.get("Members") or []:
            entry = member if len(member) > 1 else attempt(connector, str(member.get("@odata.id")), tries=1)
            if isinstance(entry, dict):
                found.append(entry)
            else:
                missed.append(f"{member.get('@odata.id')}: {entry}")
        following = str(body.get("Members@odata.nextLink") or body.get("@odata.nextLink") or "")
        if len(found) > 2 * MOST_ENTRIES:
            missed.append(f"{path}: more than {2 * MOST_ENTRIES} entries")
            break
    return found
