"""The GPU side of a lab BMC's tree, as HGX baseboards have it: processors, metrics, sensors, Xids. SIMULATED."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from metalserve.lab.bmc.board import Board
from metalserve.lab.bmc.machine import serial_of, uuid_of

ROOT = "/redfish/v1"
BASEBOARD = f"{ROOT}/Systems/HGX_Baseboard_0"
REPORTS = f"{ROOT}/TelemetryService/MetricReports"
SIMULATED = {"Metalserve": {"simulated": True}}
Body = dict[str, Any]

# fault of the simulated hardware -> what the baseboard says of it: Xid and its words
_XIDS = {
    "gpu-off-bus": (79, "GPU has fallen off the bus"),
    "remap-pending": (63, "Row remapping event"),
    "remap-failed": (64, "Row remapping failure"),
    "nvlink-degraded": (74, "NVLink error"),
}


def _link(path: str) -> Body:
    return {"@odata.id": path}


def _collection(path: str, members: list[str]) -> Body:
    return {"Name": path.rsplit("/", 1)[-1], "Members": [_link(each) for each in members],
            "Members@odata.count": len(members)}  # fmt: skip


def _names(board: Board) -> list[str]:
    """Names of the GPUs, as Hopper's baseboard counts them: from 1."""
    return [f"GPU_SXM_{number + 1}" for number in range(len(board.machine.profile().get("gpus") or []))]


def chassis(board: Board) -> list[str]:
    """Return the paths of the GPUs' chassis."""
    return [f"{ROOT}/Chassis/HGX_{name}" for name in _names(board)]


def resource(board: Board, path: str) -> Body | None:
    """Return what stands at a path of the GPU side; `None` when nothing does."""
    names = _names(board)
    if path == f"{ROOT}/TelemetryService":
        return {"Name": "Telemetry", "ServiceEnabled": bool(names), "MetricReports": _link(REPORTS)}
    if path == REPORTS:
        return _collection(path, [f"{REPORTS}/HGX_ProcessorPortMetrics_0"] if names else [])
    if not names:
        return None
    if path == f"{REPORTS}/HGX_ProcessorPortMetrics_0":
        return {"Name": "Port metrics", "MetricValues": _port_values(board, names), "Oem": SIMULATED}
    if path == BASEBOARD:
        name = board.machine.name
        return {
            "Name": "HGX baseboard", "SystemType": "Physical", "Manufacturer": "NVIDIA",
            "Model": "HGX baseboard (simulated)", "SerialNumber": f"{serial_of(name)}-GB",
            "UUID": uuid_of(f"{name} baseboard"), "PowerState": "On", "Bios": _link(f"{BASEBOARD}/Bios"),
            "Processors": _link(f"{BASEBOARD}/Processors"), "LogServices": _link(f"{BASEBOARD}/LogServices"),
            "Status": {"State": "Enabled", "Health": "OK"}, "Oem": SIMULATED,
        }  # fmt: skip
    if path == f"{BASEBOARD}/Processors":
        return _collection(path, [f"{path}/{name}" for name in names])
    log = f"{BASEBOARD}/LogServices"
    if path == log:
        return _collection(path, [f"{log}/EventLog"])
    if path == f"{log}/EventLog":
        return {"Name": "Events of the baseboard", "Entries": _link(f"{path}/Entries")}
    if path == f"{log}/EventLog/Entries":
        return _xids(board, path, None)
    for number, name in enumerate(names):
        body = _gpu(board, path, number, name)
        if body is not None:
            return body
    return None


def _gpu(board: Board, path: str, number: int, name: str) -> Body | None:
    profile = board.machine.profile()
    model, slot = profile["gpu"], profile["gpus"][number]
    struck = {each["kind"] for each in board.machine.faults() if each.get("gpu", 0) == number}
    lost = "gpu-off-bus" in struck
    degrees = model["temperature"]
    hot = degrees["slowdown"] + 1 if "thermal-throttle" in struck else degrees["idle"]
    health = "Critical" if struck & {"gpu-off-bus", "remap-failed"} else "Warning" if struck & set(_XIDS) else "OK"
    place = f"{BASEBOARD}/Processors/{name}"
    case = f"{ROOT}/Chassis/HGX_{name}"
    if path == place:
        return {
            "Name": name, "ProcessorType": "GPU", "Manufacturer": "NVIDIA", "Model": f"{model['name']} (simulated)",
            "SerialNumber": slot.get("serial", ""), "UUID": str(slot.get("uuid", "")).removeprefix("GPU-"),
            "EnvironmentMetrics": _link(f"{place}/EnvironmentMetrics"), "Metrics": _link(f"{place}/ProcessorMetrics"),
            "Status": {"State": "Enabled", "Health": health}, "Links": {"Chassis": _link(case)}, "Oem": SIMULATED,
        }  # fmt: skip
    if path == f"{place}/EnvironmentMetrics":
        return {"Name": name, "TemperatureCelsius": {"Reading": None if lost else hot},
                "PowerWatts": {"Reading": None if lost else model["power"]["idle"]}, "Oem": SIMULATED}  # fmt: skip
    if path == f"{place}/ProcessorMetrics":
        failed = int(bool(struck & {"remap-pending", "remap-failed"}))
        errors = {"CorrectableECCErrorCount": 0, "UncorrectableECCErrorCount": None if lost else failed}
        return {"Name": name, "CacheMetricsTotal": {"LifeTime": errors}, "Oem": SIMULATED}
    if path == case:
        return {"Name": name, "ChassisType": "Module", "SerialNumber": slot.get("serial", ""),
                "Sensors": _link(f"{case}/Sensors"), "LogServices": _link(f"{case}/LogServices"), "Oem": SIMULATED,
                "Status": {"State": "Enabled", "Health": health}}  # fmt: skip
    if path == f"{case}/Sensors":
        return _collection(path, [f"{path}/HGX_{name}_TEMP_0"])
    if path == f"{case}/Sensors/HGX_{name}_TEMP_0":
        return {"Name": f"HGX {name} TEMP 0", "ReadingType": "Temperature", "ReadingUnits": "Cel",
                "Reading": None if lost else hot, "Oem": SIMULATED,
                "Status": {"State": "Enabled", "Health": health}}  # fmt: skip
    if path == f"{case}/LogServices":
        return _collection(path, [f"{path}/XID"])
    if path == f"{case}/LogServices/XID":
        return {"Name": "Xids", "Entries": _link(f"{path}/Entries")}
    return _xids(board, path, number) if path == f"{case}/LogServices/XID/Entries" else None


def _xids(board: Board, path: str, only: int | None) -> Body:
    """Entries of the baseboard's log, or of one GPU's; the GPU is named in the arguments, as on real ones."""
    rows = []
    for number, each in enumerate(board.machine.faults(), 1):
        gpu = each.get("gpu", 0)
        if each["kind"] not in _XIDS or (only is not None and only != gpu):
            continue
        xid, words = _XIDS[each["kind"]]
        at = datetime.fromtimestamp(each["at"], UTC).isoformat(timespec="seconds")
        rows.append(
            {
                "@odata.id": f"{path}/{number}", "Id": str(number), "Created": at, "Severity": "Critical",
                "MessageId": "ResourceEvent.1.0.ResourceErrorsDetected", "Oem": SIMULATED,
                "Message": f"The resource property GPU_SXM_{gpu + 1} Driver Event Message has detected errors of "
                           f"type '{words} (XID {xid})'.",
                "MessageArgs": [f"GPU_SXM_{gpu + 1} Driver Event Message", f"{words} (XID {xid})"],
                "Links": {"OriginOfCondition": _link(BASEBOARD)},
            }
        )  # fmt: skip
    return {"Name": "Entries", "Members": rows, "Members@odata.count": len(rows)}


def _port_values(board: Board, names: list[str]) -> list[Body]:
    model = board.machine.profile()["gpu"]
    slots = (model.get("nvlink") or {}).get("slots", 0)
    faults = {each.get("gpu", 0) for each in board.machine.faults() if each["kind"] == "nvlink-degraded"}
    return [
        {
            "MetricProperty": f"{BASEBOARD}/Processors/{name}/Ports/NVLink_{port}/Metrics#/Nvidia/LinkDownedCount",
            "MetricValue": str(int(number in faults and port >= slots - 2)),
        }
        for number, name in enumerate(names)
        for port in range(slots)
    ]
