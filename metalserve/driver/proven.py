"""What the roles can carry out, and what is planned only: a plan says so, and roles/nvidia_driver refuses it."""

from __future__ import annotations

from metalserve.driver.plan import DriverPlan
from metalserve.driver.platform import Platform
from metalserve.driver.secure_boot import enrol
from metalserve.errors import MetalserveError

PROVEN = ("debian-12", "debian-13", "ubuntu-22.04", "ubuntu-24.04")
"""Systems whose packages the roles install (roles/base.SUPPORTED)."""

SHOW = "`metalserve driver plan` shows it; "


class PlannedOnly(MetalserveError):
    """The choice is made, and no role can carry it out yet."""


def check_platform(platform: Platform) -> None:
    """Raise for a system whose driver can only be planned.

    Raises:
        PlannedOnly: what is planned, and what to do instead.
    """
    if platform.os_id not in PROVEN:
        raise PlannedOnly(
            f"the driver of {platform.os_id} is planned, but the role cannot install it yet",
            remedy=f"{SHOW}install it by hand, or reinstall the host with one of: {', '.join(PROVEN)}",
        )
    if platform.machine != "x86_64":
        raise PlannedOnly(
            f"the driver of {platform.machine} hosts is planned, but the role cannot install it yet",
            remedy=f"{SHOW}install it by hand, or use x86_64 hosts",
        )


def check_plan(plan: DriverPlan) -> None:
    """Raise for a plan that no role can carry out to its end; the host is then not touched at all.

    Raises:
        PlannedOnly: which part is missing, and what to do instead.
    """
    check_platform(plan.platform)
    if any("imex" in package.name for package in plan.fabric):
        raise PlannedOnly(
            "rack-scale systems (GB200, GB300 NVL72) need IMEX, which is planned, but the role cannot set it up yet",
            remedy=f"{SHOW}set it up by hand, or use HGX hosts",
        )
    if plan.source == "distro" and plan.platform.family != "debian":
        raise PlannedOnly(
            f"the driver of {plan.origin.name} is planned, but the role cannot install it yet",
            remedy=f"turn Secure Boot off in the firmware, or {enrol(plan.platform)}"
            if plan.signed
            else "set driver.source to 'nvidia'",
        )
    if plan.kept.by == "hold" and plan.source == "nvidia":
        raise PlannedOnly(
            f"driver branch {plan.branch} has no pinning package: its packages must be held, which is planned, but the "
            f"role cannot do it yet",
            remedy="give this host a release with a newer branch",
        )
