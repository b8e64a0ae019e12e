"""What `base` wants of a host: pure."""

from __future__ import annotations

import shlex

from metalserve.desired.model import Action, Desired, File, Package, Sysctl, Unit, Watch
from metalserve.desired.node import Node
from metalserve.desired.observed import Observation
from metalserve.driver.seen import CONTAINERS
from metalserve.errors import MetalserveError
from metalserve.releases import Release
from metalserve.settings import HostSettings

SUPPORTED = ("debian-12", "debian-13", "ubuntu-22.04", "ubuntu-24.04")
"""Operating systems that the roles know. The RHEL family comes with the driver-stack work."""

PACKAGES = ("ca-certificates", "curl", "gnupg", "pciutils", "kmod", "nvme-cli", "numactl", "tzdata", "chrony")

SYSCTLS = {
    "vm.max_map_count": "1048576",  # engines map thousands of weight and graph regions; Debian's 65530 is too few
    "vm.swappiness": "1",  # pinned host memory must not be pushed out
    "net.core.somaxconn": "4096",
    "kernel.panic": "30",  # a node that panicked at night comes back by itself
}

LIMITS = "/etc/security/limits.d/90-metalserve.conf"
SYSTEMD_LIMITS = "/etc/systemd/system.conf.d/90-metalserve.conf"
SYSCTL_FILE = "/etc/sysctl.d/90-metalserve.conf"
NOUVEAU = "/etc/modprobe.d/metalserve-nouveau.conf"
UNATTENDED = "/etc/apt/apt.conf.d/99metalserve-unattended-upgrades"
TIMEZONE = "/etc/timezone"
LOCALTIME = "/etc/localtime"

MANAGED_BY = "# Written by metalserve (roles/base); changes here are undone by its next run.\n"


def watch(settings: HostSettings, release: Release) -> Watch:
    """What an observation must look at for this role."""
    return Watch(
        paths=(LIMITS, SYSTEMD_LIMITS, SYSCTL_FILE, NOUVEAU, UNATTENDED, TIMEZONE, LOCALTIME),
        units=("chrony.service", "systemd-timesyncd.service"),
        sysctls=tuple(sorted({**SYSCTLS, **settings.base.sysctl})),
    )


def check_host(node: Node) -> None:
    """Refuse a host that no role can make right, before anything on it is touched.

    Raises:
        MetalserveError: unsupported operating system or architecture.
    """
    observed = node.observed
    if observed.os_id not in SUPPORTED:
        raise MetalserveError(
            f"{observed.os_release.get('PRETTY_NAME', observed.os_id)} is not supported",
            remedy=f"reinstall with one of: {', '.join(SUPPORTED)}",
        )
    arch = observed.facts.get("arch")
    if arch != "x86_64":
        raise MetalserveError(f"architecture {arch} is not supported yet", remedy="use x86_64 hosts")


def install(node: Node) -> Desired:
    """Packages that later roles and the observation itself need."""
    check_host(node)
    time_packages = PACKAGES if node.settings.base.ntp else tuple(p for p in PACKAGES if p != "chrony")
    names = dict.fromkeys((*time_packages, *node.settings.base.packages))
    return Desired(packages=tuple(Package(name) for name in names))


def configure(node: Node) -> Desired:
    """Limits, kernel settings, nouveau off, and no upgrade of the driver behind our back."""
    base = node.settings.base
    settings = {**SYSCTLS, **base.sysctl}
    return Desired(
        files=(
            File(LIMITS, _limits(base.nofile, base.memlock)),
            File(
                SYSTEMD_LIMITS,
                f"{MANAGED_BY}[Manager]\nDefaultLimitNOFILE={base.nofile}\n"
                f"DefaultLimitMEMLOCK={'infinity' if base.memlock == 'unlimited' else base.memlock}\n",
            ),
            File(SYSCTL_FILE, MANAGED_BY + "".join(f"{k} = {v}\n" for k, v in sorted(settings.items()))),
            # A loaded nouveau keeps the NVIDIA module from binding; NVIDIA's packages blacklist it too, but later.
            File(NOUVEAU, f"{MANAGED_BY}blacklist nouveau\noptions nouveau modeset=0\nblacklist nova_core\n"),
            File(UNATTENDED, _unattended()),
            File(TIMEZONE, f"{base.timezone}\n"),
        ),
        actions=(_local_time(base.timezone),),
    )


def activate(node: Node) -> Desired:
    """Live kernel settings and the clock."""
    base = node.settings.base
    return Desired(
        sysctls=tuple(Sysctl(k, v) for k, v in sorted({**SYSCTLS, **base.sysctl}.items())),
        # In a container the clock is the machine's and chrony refuses to start (ConditionCapability/virtualisation).
        units=(Unit("chrony.service"),) if base.ntp and not in_container(node) else (),
    )


def _local_time(timezone: str) -> Action:
    """The link that the C library reads; /etc/timezone alone changes no clock."""
    zone = f"/usr/share/zoneinfo/{timezone}"

    def linked(observed: Observation) -> bool:
        found = observed.files.get(LOCALTIME)
        return found is not None and found.target.endswith(zone)

    script = (
        f"[ -e {shlex.quote(zone)} ] || ms_fail 'the host knows no time zone {timezone} -> check base.timezone'\n"
        f"ln -sfnT {shlex.quote(zone)} {LOCALTIME}"
    )
    return Action(f"set the time zone to {timezone}", linked, script)


def in_container(node: Node) -> bool:
    """Whether the host shares its kernel and clock with a machine (systemd-nspawn, LXC ...)."""
    return node.observed.facts.get("virt") in CONTAINERS


def _limits(nofile: int, memlock: str) -> str:
    return (
        f"{MANAGED_BY}* soft nofile {nofile}\n* hard nofile {nofile}\n"
        f"root soft nofile {nofile}\nroot hard nofile {nofile}\n* soft memlock {memlock}\n* hard memlock {memlock}\n"
    )


def _unattended() -> str:
    # The field's most frequent outage: user space upgraded at night under a loaded kernel module (NVML error 18).
    patterns = (
        "nvidia-",
        "libnvidia-",
        "cuda-",
        "libcuda",
        "nvlsm",
        "datacenter-gpu-manager",
        "linux-image-",
        "linux-headers-",
    )
    lines = "".join(f'  "{p}";\n' for p in patterns)
    return MANAGED_BY.replace("#", "//") + f"Unattended-Upgrade::Package-Blacklist {{\n{lines}}};\n"


__all__ = ["activate", "check_host", "configure", "in_container", "install", "watch"]
