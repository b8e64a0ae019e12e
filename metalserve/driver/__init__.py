"""Which driver a host gets, from what it is: kernel modules, packages, repository. Pure, every choice with a reason."""

from __future__ import annotations

from metalserve.driver.choice import plan_driver
from metalserve.driver.expected import expected_hardware
from metalserve.driver.gpu_access import GpuAccess, docker_version, gpu_access
from metalserve.driver.plan import DriverPlan, DriverRefused, Machine, Reason
from metalserve.driver.platform import Platform, platform_of
from metalserve.driver.repository import repository_wish
from metalserve.driver.seen import machine_seen

__all__ = [
    "DriverPlan",
    "DriverRefused",
    "GpuAccess",
    "Machine",
    "Platform",
    "Reason",
    "docker_version",
    "expected_hardware",
    "gpu_access",
    "machine_seen",
    "plan_driver",
    "platform_of",
    "repository_wish",
]
