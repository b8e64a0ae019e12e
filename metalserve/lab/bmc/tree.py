"""The Redfish tree of a lab BMC: service root, systems, managers, chassis, firmware. GPUs: `tree_gpu`. SIMULATED."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from metalserve.lab.bmc import tree_gpu
from metalserve.lab.bmc.board import RESETS, TARGETS, Board
from metalserve.lab.bmc.machine import mac_of, serial_of, uuid_of

ROOT = "/redfish/v1"
SYSTEM = f"{ROOT}/Systems/System_0"
BASEBOARD = f"{ROOT}/Systems/HGX_Baseboard_0"
MANAGER = f"{ROOT}/Managers/BMC_0"
CHASSIS = f"{ROOT}/Chassis/Chassis_0"
MEDIA = f"{MANAGER}/VirtualMedia/CD"
SIMULATED = {"Metalserve": {"simulated": True}}
OK = {"State": "Enabled", "Health": "OK"}

Body = dict[str, Any]


def link(path: str) -> Body:
    """Return a reference."""
    return {"@odata.id": path}


def collection(path: str, members: list[str]) -> Body:
    """Return a collection of references."""
    return {"Name": path.rsplit("/", 1)[-1], "Members": [link(each) for each in members],
            "Members@odata.count": len(members)}  # fmt: skip


def stamp(at: float) -> str:
    """Return a time as Redfish writes it."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def unavailable(board: Board, path: str) -> str | None:
    """Return the message id of the 503 that a path answers now, `None` when it answers."""
    if not board.on and board.faulty("unavailable-when-off") and path != ROOT:
        return "Base.1.8.ServiceTemporarilyUnavailable"
    behind = path.startswith((BASEBOARD, f"{ROOT}/Chassis/HGX_", f"{ROOT}/TelemetryService/MetricReports/"))
    return "Ami.1.0.HMCCommuicationFailed" if behind and not board.on else None


def resource(board: Board, path: str) -> Body | None:
    """Return what stands at a path; `None` when nothing does."""
    body = _plain(board, path)
    if body is None:
        body = tree_gpu.resource(board, path)
    return None if body is None else {"@odata.id": path, "Id": path.rsplit("/", 1)[-1], **body}


def _plain(board: Board, path: str) -> Body | None:
    gpus = board.machine.profile().get("gpus") or []
    if path == ROOT:
        return _root()
    if path == f"{ROOT}/Systems":
        # the baseboard first, as HGX boxes list it
        return collection(path, [*([BASEBOARD] if gpus else []), SYSTEM])
    if path == f"{ROOT}/Managers":
        return collection(path, [MANAGER])
    if path == f"{ROOT}/Chassis":
        return collection(path, [CHASSIS, *tree_gpu.chassis(board)])
    if path == SYSTEM:
        return _system(board)
    if path == MANAGER:
        return {"Name": "BMC", "ManagerType": "BMC", "Model": "metalserve lab BMC (simulated)",
                "FirmwareVersion": "1.0-lab", "VirtualMedia": link(f"{MANAGER}/VirtualMedia"), "Status": OK,
                "Links": {"ManagerForServers": [link(SYSTEM)]}, "Oem": SIMULATED}  # fmt: skip
    if path == CHASSIS:
        return {"Name": "Chassis", "ChassisType": "RackMount", "SerialNumber": serial_of(board.machine.name),
                "Sensors": link(f"{CHASSIS}/Sensors"), "Status": OK, "Oem": SIMULATED,
                "Links": {"ComputerSystems": [link(SYSTEM)], "ManagedBy": [link(MANAGER)]}}  # fmt: skip
    for part in (_media, _log, _sensors, _services, _interfaces):
        body = part(board, path)
        if body is not None:
            return body
    return None


def _root() -> Body:
    names = ("Systems", "Managers", "Chassis", "SessionService", "UpdateService", "TelemetryService")
    return {
        "Id": "RootService", "Name": "metalserve lab BMC", "RedfishVersion": "1.11.0", "Product": "metalserve lab",
        "Vendor": "metalserve lab", **{name: link(f"{ROOT}/{name}") for name in names},
        "Links": {"Sessions": link(f"{ROOT}/SessionService/Sessions")},
        "ProtocolFeaturesSupported": {"ExpandQuery": {"Levels": True, "MaxLevels": 1, "NoLinks": False}},
        "Oem": SIMULATED,
    }  # fmt: skip


def _system(board: Board) -> Body:
    boot = board.state()["boot"]
    name = board.machine.name
    return {
        "Name": "System", "SystemType": "Physical", "Manufacturer": "metalserve lab",
        "Model": f"{board.machine.profile().get('name', 'host')} (simulated)", "SerialNumber": serial_of(name),
        "UUID": uuid_of(name), "HostName": name, "PowerState": "On" if board.on else "Off",
        "BootProgress": {"LastState": board.progress if board.on else "None"},
        "Status": {"State": "Enabled" if board.on else "StandbyOffline", "Health": "OK"},
        "Boot": {
            "BootSourceOverrideTarget": boot["Target"], "BootSourceOverrideEnabled": boot["Enabled"],
            "BootSourceOverrideMode": boot["Mode"], "HttpBootUri": boot["HttpBootUri"],
            "BootSourceOverrideTarget@Redfish.AllowableValues": list(TARGETS),
            "BootOrder": board.state()["order"],
        },
        "LogServices": link(f"{SYSTEM}/LogServices"), "EthernetInterfaces": link(f"{SYSTEM}/EthernetInterfaces"),
        "Links": {"ManagedBy": [link(MANAGER)], "Chassis": [link(CHASSIS)]},
        "Actions": {"#ComputerSystem.Reset": {"target": f"{SYSTEM}/Actions/ComputerSystem.Reset",
                                              "ResetType@Redfish.AllowableValues": list(RESETS)}},
        "Oem": SIMULATED,
    }  # fmt: skip


def _media(board: Board, path: str) -> Body | None:
    if path == f"{MANAGER}/VirtualMedia":
        return collection(path, [f"{MANAGER}/VirtualMedia/USB", MEDIA])
    if path == f"{MANAGER}/VirtualMedia/USB":
        return {"Name": "Virtual stick", "MediaTypes": ["USBStick"], "Inserted": False, "Image": None}
    if path == MEDIA:
        media = board.state()["media"]
        return {"Name": "Virtual CD", "MediaTypes": ["CD", "DVD"], "Image": media["Image"],
                "Inserted": media["Inserted"], "WriteProtected": True, "ConnectedVia": "URI",
                "Actions": {"#VirtualMedia.InsertMedia": {"target": f"{MEDIA}/Actions/VirtualMedia.InsertMedia"},
                            "#VirtualMedia.EjectMedia": {"target": f"{MEDIA}/Actions/VirtualMedia.EjectMedia"}},
                }  # fmt: skip
    return None


def _log(board: Board, path: str) -> Body | None:
    place = f"{SYSTEM}/LogServices"
    if path == place:
        return collection(path, [f"{place}/SEL"])
    if path == f"{place}/SEL":
        return {"Name": "System event log", "LogEntryType": "SEL", "DateTime": stamp(time.time()),
                "Entries": link(f"{place}/SEL/Entries")}  # fmt: skip
    if path == f"{place}/SEL/Entries":
        rows = [
            {
                "@odata.id": f"{path}/{each['number']}", "Id": str(each["number"]), "Name": "Log entry",
                "EntryType": "SEL", "Created": stamp(each["at"]), "Severity": each["severity"],
                "Message": each["message"], "MessageId": each["code"],
            }
            for each in board.state()["entries"]
        ]  # fmt: skip
        return {"Name": "Entries", "Members": rows, "Members@odata.count": len(rows)}
    return None


def _sensors(board: Board, path: str) -> Body | None:
    place = f"{CHASSIS}/Sensors"
    on = board.on
    # what a server reads when it idles and when it is off; no measurement of any machine
    rows: dict[str, tuple[str, str, float | None]] = {
        "inlet_temp": ("Temperature", "Cel", 24.0),
        "cpu0_temp": ("Temperature", "Cel", 41.0 if on else None),
        "fan0": ("Rotational", "RPM", 6200.0 if on else 0.0),
        "psu0_power": ("Power", "W", 820.0 if on else 14.0),
    }
    if path == place:
        return collection(path, [f"{place}/{name}" for name in rows])
    name = path.removeprefix(f"{place}/")
    if name != path and name in rows:
        kind, unit, value = rows[name]
        return {"Name": name, "ReadingType": kind, "ReadingUnits": unit, "Reading": value, "Status": OK}
    return None


def _services(board: Board, path: str) -> Body | None:
    update = f"{ROOT}/UpdateService"
    versions = {"BMC": "1.0-lab", "BIOS": "1.0-lab"}
    gpu = board.machine.profile().get("gpu")
    if gpu:
        versions["HGX_FW_GPU"] = str(gpu.get("vbios", ""))
    if path == f"{ROOT}/SessionService":
        return {"Name": "Sessions", "ServiceEnabled": True, "SessionTimeout": 1800,
                "Sessions": link(f"{path}/Sessions")}  # fmt: skip
    if path == update:
        return {"Name": "Update", "ServiceEnabled": False, "FirmwareInventory": link(f"{update}/FirmwareInventory")}
    if path == f"{update}/FirmwareInventory":
        return collection(path, [f"{path}/{name}" for name in versions])
    name = path.removeprefix(f"{update}/FirmwareInventory/")
    return {"Name": name, "Version": versions[name], "Updateable": False} if name in versions else None


def _interfaces(board: Board, path: str) -> Body | None:
    place = f"{SYSTEM}/EthernetInterfaces"
    if path == place:
        return collection(path, [f"{place}/NIC_0"])
    return {"Name": "NIC", "MACAddress": mac_of(board.machine.name)} if path == f"{place}/NIC_0" else None
