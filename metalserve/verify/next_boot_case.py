"""What the checks of the next boot share: the case, and what one of them says."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from typing import Final

from metalserve.hardware.boot import BootState, DiskKernel
from metalserve.hardware.node import NodeHardware
from metalserve.releases import Release
from metalserve.verify.finding import Finding
from metalserve.verify.next_kernel import NextKernel

HOST: Final = "host"
NVIDIA_DKMS = re.compile(r"nvidia(-(current|srv|open|kernel|tesla|legacy|server)[\w.-]*)?")
"""Names under which packages register the driver with DKMS: `nvidia` (CUDA repository), `nvidia-current` and
`nvidia-current-open` (Debian), `nvidia-srv` (Ubuntu's server packages); not `nvidia-fs` or `nvidia-peermem`."""


@dataclass(frozen=True)
class Case:
    """A host before its next boot.

    Attributes:
        hardware: all that was observed of it.
        boot: what the next boot will find.
        release: what it is held against.
        chosen: the kernel that boots next.
        kernel: that kernel on disk, or `None` when it is not known or not there.
        today: for ends of life.
        persistence: nvidia-persistenced is to run.
    """

    hardware: NodeHardware
    boot: BootState
    release: Release
    chosen: NextKernel
    kernel: DiskKernel | None
    today: date
    persistence: bool = True

    @property
    def name(self) -> str:
        """The kernel in words."""
        return self.chosen.release or "of the next boot"

    @property
    def container(self) -> bool:
        """Whether the kernel, and what it takes of modules, is the machine's beneath."""
        return self.hardware.host is not None and self.hardware.host.container

    @property
    def built_here(self) -> bool:
        """Whether the driver's modules are built on the host, by DKMS."""
        dkms = any(NVIDIA_DKMS.fullmatch(e.module) for e in self.boot.dkms or ())
        return dkms or any("nvidia" in p.name and "dkms" in p.name for p in self.boot.packages)

    @property
    def user_space(self) -> str | None:
        """Version of the driver's user space on disk."""
        if self.boot.library:
            return self.boot.library
        for package in self.boot.packages:
            if re.fullmatch(r"libnvidia-(ml1|compute(-\d{3})?(-server)?)", package.name):
                return upstream(package.version)
        return self.hardware.driver_version if self.hardware.smi_state == "ok" else None


@dataclass(frozen=True)
class Look:
    """What one check says.

    Attributes:
        finding: for reports. None of them fails a host that serves: what they tell of is yet to come.
        breaks: why the next reboot breaks the node, in words; "" when this check knows of nothing.
        unsure: why it cannot be told; "" when it can.
    """

    finding: Finding
    breaks: str = ""
    unsure: str = ""


def good(check: str, expected: str, observed: str, source: str, evidence: str = "") -> Look:
    """Return a look at something that is as it should be."""
    return Look(Finding(check, "ok", HOST, expected, observed, source=source, evidence=evidence))


def without(check: str, expected: str, why: str, source: str) -> Look:
    """Return a look that does not apply."""
    return Look(Finding(check, "skipped", HOST, expected, why, source=source))


def unclear(check: str, expected: str, why: str, remedy: str, source: str, *, unsure: bool = True) -> Look:
    """Return a look that gave no answer; `unsure` when the verdict depends on it."""
    impact = "whether the node comes back from a reboot is not known" if unsure else ""
    return Look(
        Finding(check, "inconclusive", HOST, expected, why, impact, remedy, source), unsure=why if unsure else ""
    )


def upstream(version: str) -> str:
    """Return a package's version without epoch and revision: `1:580.178.04-0ubuntu1` gives `580.178.04`."""
    return version.rpartition(":")[2].split("-")[0].split("+")[0].split("~")[0]
