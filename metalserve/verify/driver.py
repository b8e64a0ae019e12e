"""Checks of the driver stack: module, user space, nouveau, fabric manager."""

from __future__ import annotations

from metalserve.hardware.node import NodeHardware
from metalserve.verify.finding import Finding

INSTALL_GUIDE = "docs.nvidia.com/datacenter/tesla/driver-installation-guide"
FABRIC_GUIDE = "docs.nvidia.com/datacenter/tesla/fabric-manager-user-guide"

_SMI = {
    "absent": (
        "nvidia-smi is not installed",
        "no program can use the GPUs",
        "install the driver (role nvidia_driver)",
    ),
    "no-driver": (
        "nvidia-smi cannot reach the kernel driver",
        "no program can use the GPUs",
        "load the module (`modprobe nvidia`) and read `dmesg | grep NVRM`; reboot when nouveau holds the GPUs",
    ),
    "mismatch": (
        "user space and loaded kernel module have different versions",
        "every new program on the GPUs fails",
        "reload the modules or reboot; keep unattended upgrades away from the driver",
    ),
    "error": (
        "nvidia-smi fails",
        "the GPUs cannot be told healthy",
        "read `dmesg | grep -e NVRM -e Xid`; a GPU that fell off the bus needs a reboot",
    ),
}


def check_driver(hardware: NodeHardware) -> list[Finding]:
    """Check that one driver version, and only NVIDIA's, runs the GPUs."""
    findings = []
    if hardware.nouveau_loaded:
        findings.append(
            Finding(
                "nouveau",
                "fail",
                "host",
                "nouveau not loaded",
                "nouveau is loaded",
                "it holds the GPUs, NVIDIA's driver cannot take them",
                "blacklist nouveau, rebuild the initramfs, reboot (roles base and nvidia_driver do it)",
                INSTALL_GUIDE,
            )
        )
    findings.append(_smi(hardware))
    findings += _versions(hardware)
    if hardware.needs_fabric_manager:
        findings.append(_fabric_manager(hardware))
    return findings


def _smi(hardware: NodeHardware) -> Finding:
    if hardware.smi_state == "ok":
        version = hardware.driver_version or "unknown version"
        return Finding("driver", "ok", "host", "nvidia-smi answers", f"driver {version}", source=INSTALL_GUIDE)
    words, impact, remedy = _SMI[hardware.smi_state]
    said = f"{words} ({hardware.smi_message})" if hardware.smi_message else words
    evidence = hardware.smi_message
    return Finding("driver", "fail", "host", "nvidia-smi answers", said, impact, remedy, INSTALL_GUIDE, evidence)


def _versions(hardware: NodeHardware) -> list[Finding]:
    user, loaded, disk = hardware.driver_version, hardware.module_version, hardware.module_on_disk
    findings = []
    if hardware.smi_state == "ok" and user and loaded and user != loaded:
        findings.append(
            Finding(
                "driver-versions",
                "fail",
                "host",
                f"loaded module {user}",
                f"loaded module {loaded}, user space {user}",
                "programs fail with a version mismatch",
                "reload the modules or reboot",
                INSTALL_GUIDE,
            )
        )
    if loaded and disk and loaded != disk:
        findings.append(
            Finding(
                "driver-on-disk",
                "warn",
                "host",
                f"module on disk {loaded}, as loaded",
                f"module on disk {disk}",
                "the next boot brings another driver version",
                "reboot at a convenient time, or install the pinned version again",
                INSTALL_GUIDE,
                f"modinfo -F version nvidia: {disk}",
            )
        )
    return findings


def _fabric_manager(hardware: NodeHardware) -> Finding:
    check, subject = "fabric-manager", "host"
    wanted = hardware.module_version or hardware.driver_version
    found = hardware.fabric_manager_version
    expected = f"fabric manager {wanted or 'of the driver version'}"
    if found is None:
        return Finding(
            check,
            "fail",
            subject,
            expected,
            "fabric manager is not installed",
            "the GPUs cannot reach each other: CUDA fails with error 802",
            "install nvidia-fabricmanager of exactly the driver's version and start it (role fabric_manager)",
            FABRIC_GUIDE,
        )
    if wanted and found != wanted:
        return Finding(
            check,
            "fail",
            subject,
            expected,
            f"fabric manager {found}",
            "fabric manager refuses to start: its version must equal the driver's",
            f"install nvidia-fabricmanager {wanted}",
            FABRIC_GUIDE,
            f"nv-fabricmanager --version: {found}; loaded module: {wanted}",
        )
    return Finding(check, "ok", subject, expected, f"fabric manager {found}", source=FABRIC_GUIDE)
