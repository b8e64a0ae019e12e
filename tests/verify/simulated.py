"""A host of the lab without a lab: the simulated tools called in this process, their output as an observation."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

from metalserve.hardware.commands import COMMANDS, CSV_FIELDS
from metalserve.hardware.node import NodeHardware, node_hardware
from metalserve.hardware.section import Section
from metalserve.lab.profiles import load_profile
from metalserve.lab.sim import dmesg, effects, fabric, lspci, nvme, smi, sysfs
from metalserve.lab.sim.state import Lab
from metalserve.lab.sim.view import LATCH

VERSION = "580.178.04"
TOOLS = {"lspci": lspci, "nvme": nvme, "nvidia-smi": smi, "dmesg": dmesg, "nv-fabricmanager": fabric}
CALLS = {
    "lspci": "lspci -Dnn",
    "pcie-acs": "lspci -Dvv -d ::0604",
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


BARE_METAL = """kernel=6.8.0-88-generic
cmdline=BOOT_IMAGE=/vmlinuz-6.8.0-88-generic root=UUID=0 ro iommu=pt intel_iommu=on
virt=none
hypervisor=0
product=Supermicro SYS-821GE-TNHR
cpus=192
governors=performance
memory_kib=2113929216
hugepages_total=0
hugepages_free=0
hugepage_kib=2048
thp=always [madvise] never
docker_memlock=infinity
docker_nofile=1048576
iommu_units=8
secure_boot=0
clock=Leap status     : Normal
"""
"""What `host-state` prints on a sound host; in the lab the state is that of a container."""


def on_stand_ins(lab: Lab) -> dict[str, Section]:
    """Run the real commands on what a lab host has bound over its sysfs."""
    sysfs.refresh(lab)
    found = {}
    for name, place, stand_in in (
        ("pcie-tree", "/sys/bus/pci/devices", lab.boot("sys", "bus", "pci", "devices")),
        ("numa", "/sys/devices/system/node", lab.boot("sys", "node")),
    ):
        command = COMMANDS[name].replace(place, shlex.quote(stand_in))
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=20)
        found[name] = Section(done.stdout + done.stderr, done.returncode)
    return found


class SimulatedHost(Lab):
    """A lab host's state with the driver stack installed, loaded and running."""

    def __init__(self, directory: Path, profile: str) -> None:
        super().__init__(str(directory), str(directory / "system"))
        described = load_profile(profile)
        (directory / "profile.json").write_text(json.dumps(described))
        self.installed: str | None = VERSION
        self.loaded: str | None = VERSION
        self.state = BARE_METAL
        self.write(LATCH, {"version": VERSION, "gpus": list(range(len(described["gpus"])))})
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
        self.log(*effects.log_lines(self, fault), level=4)

    def sections(self) -> dict[str, Section]:
        """What an observation of this host would bring."""
        found: dict[str, Section] = {}
        for name, call in CALLS.items():  # the tools that a lab host has in place of the real ones
            tool, *args = shlex.split(call)
            lines: list[str] = []
            rc = TOOLS[tool].main(self, args, lines.append, lines.append)
            found[name] = Section("\n".join(lines), rc)
        found["drive-health"] = Section(self._drive_health())
        found["host-state"] = Section(self.state)
        found["raid"] = Section("Personalities : \nunused devices: <none>\n")
        found |= on_stand_ins(self)
        loaded = self.module_version()
        found["modules"] = Section("nvidia\nnvidia_uvm" if loaded else "", 0)
        found["driver-module"] = (
            Section(f"NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {loaded}  Release Build  (simulated)\n")
            if loaded
            else Section("cat: /proc/driver/nvidia/version: No such file or directory", 1)
        )
        found["driver-disk"] = Section(f"{self.installed}\n") if self.installed else Section("", 1)
        return found

    def _drive_health(self) -> str:
        lines: list[str] = []
        for number, _ in enumerate(self.profile["nvme"]):
            lines.append(f"drive\t/dev/nvme{number}")
            nvme.main(self, ["smart-log", "-o", "json", f"/dev/nvme{number}"], lines.append, lines.append)
        return "\n".join(lines)

    def hardware(self) -> NodeHardware:
        """What the parsers make of it."""
        return node_hardware(self.sections())
