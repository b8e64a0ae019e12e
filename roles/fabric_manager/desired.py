"""What `fabric_manager` wants of a host: pure."""

from __future__ import annotations

from collections.abc import Sequence

from metalserve.desired.model import Desired, File, Module, Unit, Watch
from metalserve.desired.node import Node
from metalserve.driver.packages import fabric_packages
from metalserve.errors import MetalserveError
from metalserve.hardware.node import Gpu
from metalserve.releases import Release
from metalserve.settings import HostSettings
from metalserve.verify.finding import Finding

MANAGED_BY = "# Written by metalserve (roles/fabric_manager); changes here are undone by its next run.\n"
UNIT = "nvidia-fabricmanager.service"
CONFIG = "/usr/share/nvidia/nvswitch/fabricmanager.cfg"
LOAD_AT_BOOT = "/etc/modules-load.d/metalserve-nvlink5.conf"
NVLSM_MODULES = ("ib_umad", "mlx5_core")
DPKG_LISTS = "/var/lib/dpkg/info/"

HEALTHY = ("N/A", "Healthy", "")
"""Health summaries of a good fabric; H100 and H200 print none. Source: Fabric Manager User Guide."""


def watch(settings: HostSettings, release: Release) -> Watch:
    """What an observation must look at for this role."""
    lists = tuple(f"{DPKG_LISTS}{p.name}.list" for p in fabric_packages(release.driver.branch, "", nvlsm=True))
    return Watch(paths=(CONFIG, LOAD_AT_BOOT, *lists), units=(UNIT,))


def install(node: Node) -> Desired:
    """Fabric manager at exactly the driver's version, where GPUs need it; nothing elsewhere.

    Raises:
        MetalserveError: the release's fabric manager is not its driver's.
    """
    if not node.hardware.needs_fabric_manager:
        return Desired()
    release = node.release
    if release.fabric_manager.version != release.driver.version:
        raise MetalserveError(
            f"release {release.name}: fabric manager {release.fabric_manager.version} refuses driver "
            f"{release.driver.version}",
            remedy="give both the same version in files/releases",
        )
    nvlsm = node.hardware.needs_nvlsm
    files = (File(LOAD_AT_BOOT, MANAGED_BY + "".join(f"{m}\n" for m in NVLSM_MODULES)),) if nvlsm else ()
    return Desired(
        packages=fabric_packages(release.driver.branch, release.fabric_manager.version, nvlsm=nvlsm), files=files
    )


def activate(node: Node) -> Desired:
    """The service, which NVIDIA's package leaves disabled; started anew when its package changed under it."""
    hardware = node.hardware
    if not hardware.needs_fabric_manager:
        return Desired()
    package = fabric_packages(node.release.driver.branch, "", nvlsm=False)[0].name
    return Desired(
        modules=tuple(Module(m) for m in NVLSM_MODULES) if hardware.needs_nvlsm else (),
        units=(Unit(UNIT, restart_on=(CONFIG, f"{DPKG_LISTS}{package}.list")),),
    )


def findings(node: Node) -> Sequence[Finding]:
    """Prove the fabric of every GPU complete, and apart from it that the manager lives.

    The fabric's state is latched: it stays Completed after the manager has died, and the next GPU that is reset, or
    the next process that starts after a reset, then hangs.
    """
    hardware = node.hardware
    if not hardware.needs_fabric_manager:
        return ()
    node.need_driver("the state of the fabric")
    unit = node.observed.units.get(UNIT)
    alive = unit is not None and unit.active == "active"
    version, wanted = hardware.fabric_manager_version, node.release.driver.version
    return (
        Finding(
            check="fabric-manager-alive",
            status="ok" if alive else "fail",
            subject=node.name,
            expected=f"{UNIT} active",
            observed=f"{unit.active} ({unit.result or unit.sub})" if unit is not None else "absent",
            impact="GPUs of this host cannot reach each other after the next reset (CUDA error 802)",
            remedy=f"`journalctl -u {UNIT}` and /var/log/fabricmanager.log tell why it stopped",
            source="Fabric Manager User Guide",
        ),
        Finding(
            check="fabric-manager-version",
            status="ok" if version == wanted else "fail",
            subject=node.name,
            expected=f"the driver's own version {wanted}",
            observed=version or "unknown",
            impact="fabric manager stops when it meets another driver",
            remedy="run roles.fabric_manager",
            source="Fabric Manager User Guide",
        ),
        *(_fabric(node, gpu) for gpu in hardware.gpus),
    )


def _fabric(node: Node, gpu: Gpu) -> Finding:
    good = gpu.fabric_state == "Completed" and gpu.fabric_status == "Success" and (gpu.fabric_health or "") in HEALTHY
    words = f"{gpu.fabric_state or 'no state'}, {gpu.fabric_status or 'no status'}"
    return Finding(
        check="fabric-state",
        status="ok" if good else "fail",
        subject=f"{node.name} GPU {gpu.index}",
        expected="Completed, Success",
        observed=f"{words}, health {gpu.fabric_health}" if (gpu.fabric_health or "") not in HEALTHY else words,
        impact="CUDA error 802 (system not yet initialized) in every program that uses this GPU",
        remedy="read /var/log/fabricmanager.log; on NVLink5 boards see that nvlsm runs and ib_umad is loaded",
        source="nvidia-smi -q, Fabric",
    )
