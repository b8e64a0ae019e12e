"""The driver chosen for a node; what no role can carry out yet is refused before anything on the host is touched."""

from __future__ import annotations

import json

from metalserve.catalogue.loader import load_cuda_drivers, load_gpus
from metalserve.desired.node import Node
from metalserve.driver import DriverPlan, Machine, Platform, expected_hardware, machine_seen, plan_driver, platform_of
from metalserve.driver.proven import check_plan, check_platform
from metalserve.driver.seen import Seen
from metalserve.errors import MetalserveError
from metalserve.hardware.node import NodeHardware
from roles.base.desired import check_host
from roles.nvidia_driver import distro


def platform(node: Node) -> Platform:
    """Return the platform of `node`.

    Raises:
        MetalserveError: an operating system or architecture that no role knows, or that is planned only.
    """
    try:
        found = platform_of(node.observed.os_id, node.observed.facts.get("arch", "x86_64"))
    except MetalserveError:
        check_host(node)  # its words name the system as the host does
        raise
    check_platform(found)
    return found


def machine(node: Node) -> Machine:
    """Return what the choice of the driver depends on."""
    return machine_seen(hardware_of(node), node.observed, platform(node))


def hardware_of(node: Node) -> NodeHardware:
    """Return the hardware that the driver is for: in an image, what the inventory says it will meet."""
    expect = node.settings.expect
    if node.observed.live or expect.gpu is None or node.hardware.smi_state == "ok":
        return node.hardware
    return expected_hardware(load_gpus().by_id(expect.gpu), expect.count or 1, expect.links)


def plan(node: Node) -> DriverPlan:
    """Return the driver chosen for `node`.

    Raises:
        MetalserveError: no driver of its release can serve it, or none that this role can install.
    """
    settings = node.settings
    chosen = plan_driver(
        machine(node),
        node.release,
        settings.driver.modules,
        load_gpus(),
        load_cuda_drivers(),
        source=settings.driver.source,
        toolkit=settings.cuda.toolkit,
    )
    check_plan(chosen)
    return chosen


def wanted_version(node: Node) -> str | None:
    """Return the driver version that the host is to run; None while the distribution's archive has yet to tell."""
    chosen = plan(node)
    return distro.version(chosen, node.observed) if chosen.source == "distro" else chosen.version


def seen(node: Node) -> str:
    """Return as JSON what the choice depends on, settings included, for `metalserve driver plan HOST`.

    Raises:
        MetalserveError: an operating system or architecture that is not even planned.
    """
    settings = {
        "release": node.release.name,
        "modules": node.settings.driver.modules,
        "source": node.settings.driver.source,
        "toolkit": node.settings.cuda.toolkit,
        "simulated": node.settings.simulated,
    }
    return json.dumps({**Seen.of(hardware_of(node), node.observed).as_dict(), "settings": settings})


__all__ = ["hardware_of", "machine", "plan", "platform", "seen", "wanted_version"]
