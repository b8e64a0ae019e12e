"""The simulated nvme-cli: list, smart-log, id-ctrl. Drives of the profile that the lab gave the guest a device for."""

from __future__ import annotations

import json
import os

from .state import Lab

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from metalserve.lab.profiles import Drive

    Out = Callable[[str], None]

SECTOR = 512


def drives(lab: Lab) -> list[tuple[int, Drive]]:
    """Drives that exist in this guest: number and description."""
    listed = list(enumerate(lab.profile["nvme"]))
    if lab.system != "/":
        return listed
    return [(number, drive) for number, drive in listed if os.path.exists(f"/dev/nvme{number}n1")]


def main(lab: Lab, args: list[str], out: Out, err: Out) -> int | None:
    """Run `nvme ARGS`; None for a command that the real tool answers (`gen-hostnqn` in its own postinst)."""
    command = args[0] if args else "help"
    options = args[1:]
    as_json = any(word in ("-ojson", "--output-format=json") for word in options) or (
        ("-o" in options or "--output-format" in options) and "json" in options
    )
    if command in ("version", "--version"):
        out("nvme version 2.13 (git 2.13)\nlibnvme version 1.13 (simulated in the metalserve lab)")
        return 0
    if command == "list":
        return _list(lab, as_json, out)
    if command in ("smart-log", "id-ctrl"):
        device = next((word for word in options if word.startswith("/dev/nvme")), "")
        found = [drive for number, drive in drives(lab) if device.startswith(f"/dev/nvme{number}")]
        if not found:
            err(f"Failed to open {device or '(no device)'}: No such file or directory")
            return 2
        values = _smart(lab) if command == "smart-log" else _controller(found[0])
        if as_json:
            out(json.dumps(values, indent=2))
        else:
            for key, value in values.items():
                out(f"{key:<10}: {value}")
        return 0
    return None


def _list(lab: Lab, as_json: bool, out: Out) -> int:
    found = drives(lab)
    if as_json:
        nested = _release(lab) >= 13
        listed = [_nested(lab, found)] if nested and found else [] if nested else [_flat(n, d) for n, d in found]
        out(json.dumps({"Devices": listed}, indent=2))
        return 0
    out(
        f"{'Node':<21} {'Generic':<21} {'SN':<20} {'Model':<40} {'Namespace':<10} {'Usage':<26} {'Format':<16} FW Rev  "
    )
    out(" ".join("-" * width for width in (21, 21, 20, 40, 10, 26, 16, 8)))
    for number, drive in found:
        size = f"{drive['size_gb'] / 1000:.2f}  TB /   {drive['size_gb'] / 1000:.2f}  TB"
        out(
            f"/dev/nvme{number}n1".ljust(21)
            + f" /dev/ng{number}n1".ljust(22)
            + f" {drive.get('serial', ''):<20} {drive['model']:<40} 0x1        {size:<26} "
            + f"512   B +  0 B   {drive['firmware']}"
        )
    return 0


def _release(lab: Lab) -> int:
    """Debian release of the guest: 12 carries nvme-cli 2.4 (flat list), 13 carries 2.13 (nested list)."""
    try:
        with open(lab.file("/etc/os-release"), encoding="utf-8") as stream:
            for line in stream:
                if line.startswith("VERSION_ID="):
                    return int(line.partition("=")[2].strip().strip('"').split(".")[0])
    except (OSError, ValueError):
        pass
    return 12


def _flat(number: int, drive: Drive) -> dict[str, Any]:
    size = drive["size_gb"] * 10**9
    return {
        "NameSpace": 1,
        "DevicePath": f"/dev/nvme{number}n1",
        "GenericPath": f"/dev/ng{number}n1",
        "Firmware": drive["firmware"],
        "ModelNumber": drive["model"],
        "SerialNumber": drive.get("serial", ""),
        "UsedBytes": size,
        "MaximumLBA": size // SECTOR,
        "PhysicalSize": size,
        "SectorSize": SECTOR,
    }


def _nested(lab: Lab, found: list[tuple[int, Drive]]) -> dict[str, Any]:
    host = "00000000-0000-4000-8000-000000000000"
    subsystems = []
    for number, drive in found:
        size = drive["size_gb"] * 10**9
        serial = drive.get("serial", "")
        namespace = {
            "NameSpace": f"nvme{number}n1",
            "Generic": f"ng{number}n1",
            "NSID": 1,
            "UsedBytes": size,
            "MaximumLBA": size // SECTOR,
            "PhysicalSize": size,
            "SectorSize": SECTOR,
        }
        controller = {
            "Controller": f"nvme{number}",
            "Cntlid": "1",
            "SerialNumber": serial,
            "ModelNumber": drive["model"],
            "Firmware": drive["firmware"],
            "Transport": "pcie",
            "Address": drive["bus"],
            "Slot": "",
            "Namespaces": [namespace],
            "Paths": [],
        }
        subsystems.append(
            {
                "Subsystem": f"nvme-subsys{number}",
                "SubsystemNQN": f"nqn.2014.08.org.nvmexpress:{drive['pci_id'].replace(':', '')}{serial:<20}"
                f"{drive['model']}",
                "Controllers": [controller],
                "Namespaces": [],
            }
        )
    return {"HostNQN": f"nqn.2014-08.org.nvmexpress:uuid:{host}", "HostID": host, "Subsystems": subsystems}


def _smart(lab: Lab) -> dict[str, int]:
    worn = lab.fault("nvme-worn") is not None
    hot = lab.fault("nvme-hot") is not None
    names = (
        "data_units_read data_units_written host_read_commands host_write_commands controller_busy_time "
        "power_cycles power_on_hours unsafe_shutdowns media_errors num_err_log_entries warning_temp_time "
        "critical_comp_time"
    )
    return {
        # bit 0: spare blocks below the threshold, bit 1: temperature above it
        "critical_warning": (1 if worn else 0) | (2 if hot else 0),
        "temperature": 351 if hot else 310,  # kelvin
        "avail_spare": 6 if worn else 100,
        "spare_thresh": 10,
        "percent_used": 104 if worn else 1,
        "endurance_grp_critical_warning_summary": 0,
        **dict.fromkeys(names.split(), 0),
    }


def _controller(drive: Drive) -> dict[str, Any]:
    vendor = int(drive["pci_id"].split(":")[0], 16)
    return {
        "vid": vendor,
        "ssvid": vendor,
        "sn": f"{drive.get('serial', ''):<20}",
        "mn": f"{drive['model']:<40}",
        "fr": drive["firmware"],
        "cntlid": 1,
        "tnvmcap": drive["size_gb"] * 10**9,
        "unvmcap": 0,
    }
