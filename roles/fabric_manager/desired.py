"""What `fabric_manager` wants of a host: pure. Trays of rack-scale systems get IMEX in its place (`imex.py`)."""

from __future__ import annotations

from collections.abc import Sequence

from metalserve.desired.model import Desired, Directory, File, Module, Unit, Watch
from metalserve.desired.node import Node
from metalserve.driver.packages import fabric_packages
from metalserve.errors import MetalserveError
from metalserve.hardware.node import Gpu
from metalserve.releases import Release
from metalserve.settings import HostSettings
from metalserve.verify.finding import Finding
from roles.fabric_manager import imex, liveness

MANAGED_BY = "# Written by metalserve (roles/fabric_manager); changes here are undone by its next run.\n"
UNIT = liveness.UNIT
CONFIG = "/usr/share/nvidia/nvswitch/fabricmanager.cfg"
LOAD_AT_BOOT = "/etc/modules-load.d/metalserve-nvlink5.conf"
ORDER = f"/etc/systemd/system/{UNIT}.d/metalserve-nvlink5.conf"
NVLSM_MODULES = ("ib_umad", "mlx5_core")
DPKG_LISTS = "/var/lib/dpkg/info/"

ORDER_TEXT = """\
[Unit]
# nvlsm, which the service starts first, needs ib_umad; openibd (DOCA, OFED) loads the InfiniBand modules anew at boot.
Wants=systemd-modules-load.service
After=systemd-modules-load.service openibd.service
"""

HEALTHY = ("N/A", "Healthy", "")
"""Health summaries of a good fabric; H100 and H200 print none. Source: Fabric Manager User Guide."""


def watch(settings: HostSettings, release: Release) -> Watch:
    """What an observation must look at for this role."""
    lists = tuple(f"{DPKG_LISTS}{p.name}.list" for p in fabric_packages(release.driver.branch, "", nvlsm=True))
    own = Watch(paths=(CONFIG, LOAD_AT_BOOT, ORDER, *lists), units=(UNIT,))
    return own | liveness.watch() | imex.watch(settings, release)


def install(node: Node) -> Desired:
    """Fabric manager at exactly the driver's version, where GPUs need it; IMEX on trays; nothing elsewhere.

    Raises:
        MetalserveError: the release's fabric manager is not its driver's, or a tray's domain is not named.
    """
    if node.hardware.needs_imex:
        return imex.install(node)
    if not node.hardware.needs_fabric_manager:
        return Desired()
    release = node.release
    if release.fabric_manager.version != release.driver.version:
        raise MetalserveError(
            f"release {release.name}: fabric manager {release.fabric_manager.version} refuses driver "
            f"{release.driver.version}",
            remedy="give both the same version in files/releases",
        )
    packages = fabric_packages(release.driver.branch, release.fabric_manager.version, nvlsm=node.hardware.needs_nvlsm)
    if not node.hardware.needs_nvlsm:
        return Desired(packages=packages)
    return Desired(
        packages=packages,
        directories=(Directory(ORDER.rpartition("/")[0]),),
        files=(
            File(LOAD_AT_BOOT, MANAGED_BY + "".join(f"{m}\n" for m in NVLSM_MODULES)),
            File(ORDER, MANAGED_BY + ORDER_TEXT),
        ),
    )


def activate(node: Node) -> Desired:
    """The service, which NVIDIA's package leaves disabled; started anew when its package changed under it."""
    hardware = node.hardware
    if hardware.needs_imex:
        return imex.activate(node)
    if not hardware.needs_fabric_manager:
        return Desired()
    package = fabric_packages(node.release.driver.branch, "", nvlsm=False)[0].name
    return Desired(
        modules=tuple(Module(m) for m in NVLSM_MODULES) if hardware.needs_nvlsm else (),
        units=(Unit(UNIT, restart_on=(CONFIG, f"{DPKG_LISTS}{package}.list")),),
    )


def findings(node: Node) -> Sequence[Finding]:
    """Prove the fabric of every GPU complete, and apart from it that the manager lives and does not flap.

    The fabric's state is latched: it stays Completed after the manager has died, and the next GPU that is reset, or
    the next process that starts after a reset, then hangs.
    """
    hardware = node.hardware
    if hardware.needs_imex:
        node.need_driver("the state of the IMEX domain")
        return (*imex.findings(node), *(_fabric(node, gpu) for gpu in hardware.gpus))
    if not hardware.needs_fabric_manager:
        return ()
    node.need_driver("the state of the fabric")
    version, wanted = hardware.fabric_manager_version, node.release.driver.version
    return (
        liveness.alive(node),
        liveness.flapping(node),
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
        *_modules(node),
        *(_fabric(node, gpu) for gpu in hardware.gpus),
    )


def _modules(node: Node) -> Sequence[Finding]:
    if not node.hardware.needs_nvlsm:
        return ()
    missing = [m for m in NVLSM_MODULES if m not in node.hardware.loaded_modules]
    return (
        Finding(
            check="fabric-modules",
            status="fail" if missing else "ok",
            subject=node.name,
            expected=f"{', '.join(NVLSM_MODULES)} loaded",
            observed=f"{', '.join(missing)} not loaded" if missing else "loaded",
            impact="the subnet manager of the NVLink5 switches cannot reach them (NV_WARN_NOTHING_TO_DO)",
            remedy="run roles.fabric_manager; with DOCA or OFED see that openibd loads them",
            source="Fabric Manager User Guide",
        ),
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
