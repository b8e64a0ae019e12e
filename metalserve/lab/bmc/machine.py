"""What a lab BMC has its hands on: the power and disks of one host."""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path
from typing import Any, Protocol

from metalserve.lab import faults, hosts, power
from metalserve.lab.fleet import RunningHost
from metalserve.lab.layout import Layout
from metalserve.lab.system import read_json

SYSTEM_DISK_BYTES = 480 * 10**9
"""Size that the system's disk says it has."""


class Machine(Protocol):
    """A host, as its BMC is wired to it."""

    name: str

    def running(self) -> bool:
        """Tell whether an operating system runs."""

    def boot_disk(self) -> None:
        """Boot the system's disk."""

    def cut(self) -> None:
        """Cut the power."""

    def press(self) -> None:
        """Ask the operating system to shut down, and return at once."""

    def write(self, root: Path | None) -> None:
        """Write the system's disk anew: from a root file system packed as tar.zst, or the lab's own."""

    def host_keys(self) -> list[str]:
        """Return the public SSH host keys on the system's disk: type and Base64 each."""

    def profile(self) -> dict[str, Any]:
        """Return the simulated hardware."""

    def faults(self) -> list[dict[str, Any]]:
        """Return the faults of the simulated hardware."""


class LabMachine:
    """A host of the lab."""

    def __init__(self, layout: Layout, host: RunningHost, fleet: list[RunningHost]) -> None:
        """Name the host; `fleet` are all hosts of its lab."""
        self.layout = layout
        self.host = host
        self.fleet = fleet
        self.name = host.name

    def running(self) -> bool:
        """Tell whether its processes run."""
        return bool(power.processes(self.layout, self.name))

    def boot_disk(self) -> None:
        """Boot it."""
        hosts.start(self.layout, self.host)

    def cut(self) -> None:
        """Cut the power."""
        hosts.stop(self.layout, self.host, grace_s=0)

    def press(self) -> None:
        """Ask its systemd to power off."""
        hosts.shut_down(self.layout, self.host)

    def write(self, root: Path | None) -> None:
        """Write the system's disk anew; its other drives, its hardware and its faults stay."""
        hosts.reinstall(self.layout, self.host, self.fleet, root=root)

    def host_keys(self) -> list[str]:
        """Return the public SSH host keys on the system's disk."""
        found = sorted((self.layout.host(self.name) / "root" / "etc/ssh").glob("ssh_host_*_key.pub"))
        return [" ".join(path.read_text().split()[:2]) for path in found]

    def profile(self) -> dict[str, Any]:
        """Return the profile with this host's serial numbers."""
        return read_json(self.layout.host(self.name) / "sim" / "profile.json") or {}

    def faults(self) -> list[dict[str, Any]]:
        """Return the faults of its simulated hardware."""
        return faults.active(self.layout.host(self.name))


def serial_of(name: str) -> str:
    """Return the serial number of a lab host: always the same for the same name."""
    return f"MSL{hashlib.sha256(f'{name} system'.encode()).hexdigest()[:9].upper()}"


def uuid_of(name: str) -> str:
    """Return the UUID of a lab host."""
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, f"system.{name}.metalserve.invalid"))


def mac_of(name: str) -> str:
    """Return the MAC address that its firmware boots from: locally administered."""
    digits = hashlib.sha256(f"{name} mac".encode()).hexdigest()[:10]
    return ":".join(["02", *(digits[at : at + 2] for at in range(0, 10, 2))])


def disk_of(name: str) -> str:
    """Return the serial number of the disk that the system is on."""
    return f"S{hashlib.sha256(f'{name} system disk'.encode()).hexdigest()[:13].upper()}"
