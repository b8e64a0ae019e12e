"""What the next boot of a host of `boots` would bring, as the checks see it."""

from __future__ import annotations

from datetime import date
from typing import Any

from metalserve.hardware.machine import HostState
from metalserve.hardware.node import NodeHardware, node_hardware
from metalserve.hardware.section import Section
from metalserve.releases import load_release
from metalserve.verify.finding import Finding
from metalserve.verify.next_boot import Outlook, next_boot
from tests.roles.helpers import lspci
from tests.verify.boots import DRIVER, NEW, Boot, Kernel

RELEASE = load_release("2026.11-lts")
TODAY = date(2026, 11, 25)
H100, B200 = "2330", "2901"
HEALTHY = Boot()
BARE = Kernel(NEW, headers=False, module="")


def hardware_of(boot: Boot, **fields: Any) -> NodeHardware:
    gpu = fields.pop("gpu", H100)
    sections = {"lspci": Section(lspci([gpu])), "next-boot": Section(boot.text)}
    found = node_hardware(sections)
    assert found.boot is not None, found.problems
    given = {"host": HostState(kernel=boot.running, virtual="none", secure_boot=False), **fields}
    for name, value in {"module_version": DRIVER, "smi_state": "ok", **given}.items():
        object.__setattr__(found, name, value)
    return found


def outlook(boot: Boot, **fields: Any) -> Outlook:
    return next_boot(hardware_of(boot, **fields), RELEASE, today=TODAY)


def found(outlook: Outlook, check: str) -> Finding:
    of_check = [f for f in outlook.findings if f.check == check]
    return next((f for f in of_check if f.status != "ok"), of_check[0])
