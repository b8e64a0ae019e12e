"""A simulated host without a guest: its state directory and a scrap of a file system, both in a temporary place."""

from __future__ import annotations

import os
from pathlib import Path

from metalserve.hardware.node import NodeHardware, node_hardware
from metalserve.hardware.section import Section
from metalserve.lab.sim import fabric, kmod, main
from metalserve.lab.sim.state import Lab
from metalserve.lab.sim_setup import prepare_host
from tests.verify.simulated import BARE_METAL, on_stand_ins

VERSION = "580.178.04"
MODULES = ("nvidia", "nvidia-uvm", "nvidia-modeset", "nvidia-drm")


class Machine:
    """One simulated host.

    Args:
        place: an empty directory.
        profile: machine profile.
    """

    def __init__(self, place: Path, profile: str) -> None:
        self.directory = place / "hosts" / "node1"
        self.system = place / "root"
        self.system.mkdir(parents=True)
        prepare_host(profile, self.directory / "sim")
        self.daemons: list[int] = []

    @property
    def lab(self) -> Lab:
        """The state as a newly started tool reads it."""
        return Lab(str(self.directory / "sim"), str(self.system))

    def install_user_space(self, version: str = VERSION) -> None:
        """What the user-space packages leave on disk."""
        place = self.system / "usr/share/metalserve-lab/stand-ins"
        place.mkdir(parents=True, exist_ok=True)
        for name in ("libnvidia-ml1", "nvidia-smi", "nvidia-fabricmanager", "nvlsm"):
            (place / name).write_text(f"{version}\n")

    def build_modules(self, version: str = VERSION, flavour: str = "open") -> None:
        """What the DKMS package leaves on disk."""
        place = self.system / f"lib/modules/{os.uname().release}/updates/dkms"
        place.mkdir(parents=True, exist_ok=True)
        for name in MODULES:
            (place / f"{name}.ko").write_text(f"version: {version}\nflavour: {flavour}\n")

    def ready(self, version: str = VERSION) -> None:
        """Driver installed and loaded, fabric manager running where the machine needs it."""
        self.install_user_space(version)
        self.build_modules(version)
        if self.lab.profile["gpus"]:
            said: list[str] = []
            assert kmod.load(self.lab, "nvidia-uvm", said.append) == 0, said
        if self.lab.profile["fabric"]["manager"]:
            assert self.start_fabric_manager() == (0, "")

    def start_fabric_manager(self) -> tuple[int, str]:
        """Start fabric manager; returns its exit status and what it said to stderr."""
        pids = self.system / "run/nvidia-fabricmanager/nv-fabricmanager.pid"
        (self.system / "var/log").mkdir(parents=True, exist_ok=True)
        said: list[str] = []
        status = fabric.start(self.lab, [], lambda _: None, said.append)
        if status == 0:
            self.daemons.append(int(pids.read_text()))
        return status, "\n".join(said)

    def stop(self) -> None:
        """End the daemons that were started."""
        for pid in self.daemons:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
        self.daemons.clear()

    def run(self, line: str, capture: list[str] | None = None) -> tuple[int, str]:
        """Run one tool; returns exit status and its stdout and stderr, folded together in order."""
        said: list[str] = [] if capture is None else capture
        tool, *args = line.split(" ")
        before = main._out, main._err
        main._out = main._err = said.append  # type: ignore[assignment]
        try:
            status = main.run(self.lab, tool, args)
        finally:
            main._out, main._err = before
        return status, "\n".join(said) + ("\n" if said else "")

    def hardware(self) -> NodeHardware:
        """The hardware as metalserve's own parsers read it from the simulated tools."""
        from metalserve.hardware.commands import CSV_FIELDS

        lines = {
            "lspci": "lspci -Dnn",
            "nvme-links": "lspci -Dvv -d ::0108",
            "pcie-acs": "lspci -Dvv -d ::0604",
            "nvlink5-bridges": "lspci -Dvv -d 15b3:1021",
            "nvme-list": "nvme list -o json",
            "modules": "lsmod",
            "driver-disk": "modinfo -F version nvidia",
            "fm-version": "nv-fabricmanager --version",
            "smi-csv": f"nvidia-smi --query-gpu={','.join(CSV_FIELDS)} --format=csv",
            "smi-q": "nvidia-smi -q",
            "topo": "nvidia-smi topo -m",
            "nvlink-status": "nvidia-smi nvlink -s",
        }
        sections = {}
        for key, line in lines.items():
            status, text = self.run(line)
            sections[key] = Section(text, status)
        kept = [text for text in self.run("dmesg")[1].splitlines() if "NVRM" in text or "nvidia" in text]
        sections["kernel-log"] = Section("\n".join(kept), 0)
        sections["nvme-controllers"] = Section("", 0)
        version = self.directory / "sim/state/boot/proc/driver/nvidia/version"
        if version.exists():
            sections["driver-module"] = Section(version.read_text(), 0)
        else:
            sections["driver-module"] = Section("cat: /proc/driver/nvidia/version: No such file or directory\n", 1)
        sections |= {**on_stand_ins(self.lab), "host-state": Section(BARE_METAL)}
        return node_hardware(sections)
