"""dcgm-exporter: the simulated GPUs under DCGM's metric names, as the real exporter prints them; it says what it is."""

from __future__ import annotations

import os
import socket
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from .container import driver_works
from .smi_query import values
from .state import Lab
from .view import Gpu, gpus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Out = Callable[[str], None]

FROM_SMI = {
    "DCGM_FI_DEV_SM_CLOCK": "clocks.current.sm",
    "DCGM_FI_DEV_MEM_CLOCK": "clocks.current.memory",
    "DCGM_FI_DEV_MEMORY_TEMP": "temperature.memory",
    "DCGM_FI_DEV_GPU_TEMP": "temperature.gpu",
    "DCGM_FI_DEV_GPU_TEMP_LIMIT": "temperature.gpu.tlimit",
    "DCGM_FI_DEV_POWER_USAGE": "power.draw",
    "DCGM_FI_DEV_ENFORCED_POWER_LIMIT": "enforced.power.limit",
    "DCGM_FI_DEV_GPU_UTIL": "utilization.gpu",
    "DCGM_FI_DEV_FB_FREE": "memory.free",
    "DCGM_FI_DEV_FB_USED": "memory.used",
    "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS": "remapped_rows.uncorrectable",
    "DCGM_FI_DEV_ROW_REMAP_FAILURE": "remapped_rows.failure",
    "DCGM_FI_DEV_ROW_REMAP_PENDING": "remapped_rows.pending",
}
"""Field -> what nvidia-smi calls it."""

NVLINK_ERRORS_A_SECOND = 5
"""How fast a degraded link's counters grow."""


def main(lab: Lab, args: list[str], out: Out, err: Out) -> int:
    """Run `dcgm-exporter -a ADDRESS:PORT -f COUNTERS.csv`; others of its options are not simulated."""
    if args[:1] in (["--version"], ["-v"]):
        out(f"DCGM Exporter version 4.6.0-{lab.stand_in('datacenter-gpu-manager-exporter') or ''} (simulated)")
        return 0
    address, counters = ":9400", "/etc/dcgm-exporter/default-counters.csv"
    words = list(args)
    while words:
        word = words.pop(0)
        if word in ("-a", "--address") and words:
            address = words.pop(0)
        elif word in ("-f", "--collectors") and words:
            counters = words.pop(0)
        else:
            err(f"dcgm-exporter {word}: not simulated in the metalserve lab")
            return 1
    try:
        wanted = read_counters(lab.file(counters))
    except (OSError, ValueError) as error:
        err(f'level=FATAL msg="could not read the counters" error="{error}"')
        return 1
    if not driver_works(lab):
        err('level=FATAL msg="Failed to initialize NVML: the driver does not answer"')
        return 1
    return _serve(lab, address, wanted)


def read_counters(path: str) -> list[tuple[str, str, str]]:
    """Fields of a file of counters: (name, type, help); comments and empty lines are left out."""
    found = []
    with open(path, encoding="utf-8") as stream:
        for line in stream:
            if not line.strip() or line.startswith("#"):
                continue
            parts = [part.strip() for part in line.split(",", 2)]
            if len(parts) != 3 or parts[1] not in ("gauge", "counter", "label"):
                raise ValueError(f"malformed CSV record: {line.strip()}")
            found.append((parts[0], parts[1], parts[2]))
    return found


def render(lab: Lab, wanted: list[tuple[str, str, str]]) -> str:
    """Everything in Prometheus' text format. A GPU that is lost has no values, as in DCGM."""
    rows = [gpu for gpu in gpus(lab) if not gpu.lost] if driver_works(lab) else []
    told = {gpu.index: values(gpu, len(rows), True) for gpu in rows}
    host, driver = socket.gethostname(), lab.module_version() or ""
    lines = ["# SIMULATED: metalserve's stand-in for dcgm-exporter; these GPUs do not exist"]
    for name, kind, text in wanted:
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
        for gpu in rows:
            value = field(lab, gpu, name, told[gpu.index])
            if value is not None:
                labels = (
                    f'gpu="{gpu.index}",UUID="{gpu.uuid}",pci_bus_id="{gpu.smi_bus}",device="nvidia{gpu.index}",'
                    f'modelName="{gpu.model["name"]}",Hostname="{host}",DCGM_FI_DRIVER_VERSION="{driver}"'
                )
                lines.append(f"{name}{{{labels}}} {value:g}")
    return "\n".join(lines) + "\n"


def field(lab: Lab, gpu: Gpu, name: str, told: dict[str, tuple[str, str]]) -> float | None:
    """Value of one field, None where the GPU does not have it or the lab does not simulate it."""
    if name == "DCGM_FI_DEV_CLOCKS_EVENT_REASONS":
        return gpu.event_mask
    if name == "DCGM_FI_DEV_XID_ERRORS":
        return _last_xid(lab, gpu)
    if name == "DCGM_FI_DEV_PCIE_REPLAY_COUNTER":
        return 0
    if name.startswith("DCGM_FI_DEV_NVLINK_") and name.endswith("_COUNT_TOTAL"):
        return _nvlink_errors(lab, gpu)
    said = told.get(FROM_SMI.get(name, ""), ("", ""))[0]
    if said in ("Yes", "No"):
        return float(said == "Yes")
    try:
        return float(said)
    except ValueError:
        return None


def _nvlink_errors(lab: Lab, gpu: Gpu) -> float | None:
    if not gpu.model["nvlink"]:
        return None
    fault = lab.fault("nvlink-degraded", gpu.position)
    return 0 if fault is None else int(max(0.0, time.time() - float(fault["at"])) * NVLINK_ERRORS_A_SECOND)


def _last_xid(lab: Lab, gpu: Gpu) -> float:
    last = 0
    for line in lab.log_lines():
        words = line["text"].partition(f"Xid (PCI:{gpu.xid_bus}): ")[2]
        number = words.partition(",")[0]
        last = int(number) if number.isdigit() else last
    return last


def _serve(lab: Lab, address: str, wanted: list[tuple[str, str, str]]) -> int:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path in ("/metrics", "/health", "/")
            body = render(Lab(lab.root, lab.system), wanted).encode() if self.path == "/metrics" else b"OK\n"
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            return

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        address_family = socket.AF_INET6 if address.startswith("[") else socket.AF_INET

        def server_bind(self) -> None:  # without the look-up of the host's name, which has no answer here
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.socket.bind(self.server_address)

    place, _, port = address.rpartition(":")
    Server((place.strip("[]"), int(port)), Handler).serve_forever()
    return os.EX_OK
