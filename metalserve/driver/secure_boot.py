"""What Secure Boot leaves: modules that Ubuntu signed, DKMS' own key if the firmware knows it, or nothing."""

from __future__ import annotations

from metalserve.catalogue.loader import load_driver_packages
from metalserve.driver.packages import kernel_flavour
from metalserve.driver.plan import DriverRefused, Machine, Reason, Source
from metalserve.driver.platform import Platform


def source_under_secure_boot(machine: Machine, wanted: Source) -> tuple[Source, tuple[Reason, ...], tuple[str, ...]]:
    """Return whose driver a host gets that may have Secure Boot on, with reasons and warnings.

    Args:
        machine: the host.
        wanted: the setting `driver.source`.

    Raises:
        DriverRefused: Secure Boot is on and the kernel would refuse every module there is; with the steps of a MOK.
    """
    if not machine.secure_boot:
        return wanted, (), ()
    names, platform = load_driver_packages(), machine.platform
    key = names.signing_key(platform.family)
    if machine.key_enrolled and wanted == "nvidia":
        why = "Secure Boot is on, and the firmware knows the key that DKMS signs with"
        return wanted, (Reason("modules signed by DKMS", why, key.source),), ()
    archive = names.archive(platform.os_id)
    signed = archive is not None and platform.machine in archive.signed
    flavour = kernel_flavour(machine.kernel) if machine.kernel else "generic"
    if archive is not None and signed and flavour in archive.flavours:
        why = "Secure Boot is on, and only Ubuntu's archive has modules that the firmware trusts without a new key"
        warnings: tuple[str, ...] = ()
        if wanted == "nvidia":
            warnings = (
                "driver.source is 'nvidia', but Secure Boot is on: the driver is Ubuntu's, at the version that the "
                "archive has (the two repositories are never mixed)",
            )
        return "distro", (Reason("Ubuntu's signed modules", why, names.sources["ubuntu_signed"]),), warnings
    if machine.key_enrolled:
        why = "Secure Boot is on, and the firmware knows the key that DKMS signs with"
        return wanted, (Reason("modules signed by DKMS", why, key.source),), ()
    raise DriverRefused(
        f"Secure Boot is on, and the kernel would refuse the modules that DKMS builds{_no_signed(machine, signed)}",
        remedy=f"turn Secure Boot off in the firmware, or {enrol(platform)}",
    )


def enrol(platform: Platform) -> str:
    """Return in words how the firmware of a host is made to trust the key that DKMS signs with."""
    key = load_driver_packages().signing_key(platform.family)
    return (
        f"have it trust DKMS' key: `{key.make}`, `mokutil --import {key.path}` with a password of your choice, reboot, "
        "and at the console (BMC, serial over LAN) confirm 'Enroll MOK' with that password; then run again"
    )


def _no_signed(machine: Machine, signed: bool) -> str:
    platform = machine.platform
    if platform.family != "ubuntu":
        return f" (no archive of {platform.os_id} has signed ones)"
    if not signed:
        return f" (Ubuntu signs its modules on x86_64, not on {platform.machine})"
    return f" (Ubuntu has signed ones for its own kernels, not for {machine.kernel})"
