"""The driver chosen for a node; what is planned and this role cannot install yet is refused before it is touched."""

from __future__ import annotations

from metalserve.catalogue.loader import load_cuda_drivers, load_gpus
from metalserve.desired.node import Node
from metalserve.driver import DriverPlan, Machine, Platform, expected_hardware, plan_driver, platform_of
from metalserve.errors import MetalserveError
from metalserve.hardware.node import NodeHardware
from roles.base.desired import SUPPORTED, check_host, in_container

SHOW = "`metalserve driver plan` shows what it would be"


def platform(node: Node) -> Platform:
    """Return the platform of `node`; refuses operating systems that no role knows."""
    _refuse_system(node)
    check_host(node)
    return platform_of(node.observed.os_id, node.observed.facts.get("arch", "x86_64"))


def machine(node: Node) -> Machine:
    """Return what the choice of the driver depends on."""
    hardware = hardware_of(node)
    return Machine(
        platform=platform(node),
        gpus=hardware.pci_gpus,
        # A container has no kernel of its own to load modules into; the machine's firmware is not its business.
        secure_boot=node.observed.facts.get("secure_boot") == "1" and not in_container(node),
        needs_fabric_manager=hardware.needs_fabric_manager,
        needs_nvlsm=hardware.needs_nvlsm,
        needs_imex=hardware.needs_imex,
        kernel=kernel_of(node),
    )


def kernel_of(node: Node) -> str:
    """Return the kernel that packages are chosen for; "" in a container, whose kernel is none of its packages."""
    return "" if node.observed.live and in_container(node) else node.observed.kernel


def hardware_of(node: Node) -> NodeHardware:
    """Return the hardware that the driver is for: in an image, what the inventory says it will meet."""
    expect = node.settings.expect
    if node.observed.live or expect.gpu is None or node.hardware.smi_state == "ok":
        return node.hardware
    return expected_hardware(load_gpus().by_id(expect.gpu), expect.count or 1, expect.links)


def plan(node: Node) -> DriverPlan:
    """Return the driver chosen for `node`.

    Raises:
        MetalserveError: no driver of its release can serve it.
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
    _refuse_plan(node, chosen)
    return chosen


def _refuse_system(node: Node) -> None:
    """Refuse systems whose driver is planned but cannot be installed yet.

    Raises:
        MetalserveError: in words that say so; systems that are not even planned are left to `base.check_host`.
    """
    os_id, arch = node.observed.os_id, node.observed.facts.get("arch", "x86_64")
    try:
        platform = platform_of(os_id, arch)
    except MetalserveError:
        return
    if platform.os_id not in SUPPORTED:
        raise MetalserveError(
            f"the driver of {platform.os_id} is planned, but the role cannot install it yet ({SHOW})",
            remedy=f"install it by hand, or reinstall the host with one of: {', '.join(SUPPORTED)}",
        )
    if platform.machine != "x86_64":
        raise MetalserveError(
            f"the driver of {platform.machine} hosts is planned, but the role cannot install it yet ({SHOW})",
            remedy="install it by hand, or use x86_64 hosts",
        )


def _refuse_plan(node: Node, plan: DriverPlan) -> None:
    """Refuse plans that this role cannot carry out to the end.

    Raises:
        MetalserveError: in words that say which part is missing.
    """
    if hardware_of(node).needs_imex:
        raise MetalserveError(
            f"rack-scale systems (GB200, GB300 NVL72) need IMEX, which is planned, but the role cannot set it up yet "
            f"({SHOW})",
            remedy="use HGX hosts",
        )
    if plan.source == "distro" and plan.build != "dkms":
        raise MetalserveError(
            f"the driver of {plan.origin.name} is planned, but the role cannot install it yet ({SHOW})",
            remedy="set driver.source to 'nvidia'"
            if not _secure_boot(node)
            else "turn Secure Boot off in the firmware",
        )


def _secure_boot(node: Node) -> bool:
    return node.observed.facts.get("secure_boot") == "1"


__all__ = ["hardware_of", "kernel_of", "machine", "plan", "platform"]
