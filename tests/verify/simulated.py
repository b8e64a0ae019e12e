"""A host of the lab without a lab: the simulated tools called in this process, their output as an observation."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from metalserve.hardware.commands import CSV_FIELDS
from metalserve.hardware.node import NodeHardware, node_hardware
from metalserve.hardware.section import Section
from metalserve.lab.profiles import load_profile
from metalserve.lab.sim import dmesg, fabric, lspci, nvme, smi
from metalserve.lab.sim.state import Lab

VERSION = "580.178.04"
TOOLS = {"lspci": lspci, "nvme": nvme, "nvidia-smi": smi, "dmesg": dmesg, "nv-fabricmanager": fabric}
CALLS = {
    "lspci": "lspci -Dnn",
    "nvme-links": "lspci -Dvv -d ::0108",
    "nvlink5-bridges": "lspci -Dvv -d 15b3:1021",
    "nvme-list": "nvme list -o json",
    "fm-version": "nv-fabricmanager --version",
    "smi-csv": f"nvidia-smi --query-gpu={','.join(CSV_FIELDS)} --format=csv",
    "smi-q": "nvidia-smi -q",
    "topo": "nvidia-smi topo -m",
    "nvlink-status": "nvidia-smi nvlink -s",
    "kernel-log": "dmesg",
}


class SimulatedHost(Lab):
    """A lab host's state with the driver stack installed, loaded and running."""

    def __init__(self, directory: Path, profile: str) -> None:
        super().__init__(str(directory), str(directory / "system"))
        (directory / "profile.json").write_text(json.dumps(load_profile(profile)))
        self.installed: str | None = VERSION
        self.loaded: str | None = VERSION
        self.running = {"fabricmanager": {"version": VERSION, "since": 0.0}, "persistenced": {"since": 0.0}}

    def stand_in(self, package: str) -> str | None:
        return self.installed

    def modules(self) -> dict[str, dict[str, str]]:
        return {"nvidia": {"version": self.loaded, "flavour": "open"}} if self.loaded else {}

    def daemon(self, name: str) -> dict[str, Any] | None:
        return self.running.get(name)

    def inject(self, kind: str, **fields: Any) -> None:
        """Put one fault in force."""
        fault = {"id": f"{kind}-1", "kind": kind, **fields}
        Path(self.path("faults.json")).write_text(json.dumps({"faults": [fault]}))

    def sections(self) -> dict[str, Section]:
        """What an observation of this host would bring."""
        found = {}
        for name, call in CALLS.items():
            tool, *args = shlex.split(call)
            lines: list[str] = []
            rc = TOOLS[tool].main(self, args, lines.append, lines.append)
            found[name] = Section("\n".join(lines), rc)
        loaded = self.module_version()
        found["modules"] = Section("nvidia\nnvidia_uvm" if loaded else "", 0)
        found["driver-module"] = (
            Section(f"NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {loaded}  Release Build  (simulated)\n")
            if loaded
            else Section("cat: /proc/driver/nvidia/version: No such file or directory", 1)
        )
        found["driver-disk"] = Section(f"{self.installed}\n") if self.installed else Section("", 1)
        return found

    def hardware(self) -> NodeHardware:
        """What the parsers make of it."""
        return node_hardware(self.sections())
