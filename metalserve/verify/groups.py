"""Which group each check belongs to; reports sort by it."""

from __future__ import annotations

from typing import Final

GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "identity": ("gpu-count", "gpu-model", "gpu-present", "observation"),
    "driver": ("nouveau", "driver", "driver-versions", "driver-on-disk", "persistence", "fabric-manager"),
    "fabric": ("nvswitch", "fabric-state"),
    "nvlink": ("pair-links", "nvlink-count"),
    "pcie": ("pcie-width", "pcie-generation", "pcie-path", "pcie-replays"),
    "memory": ("memory", "memory-remap", "memory-banks", "memory-pages", "memory-repair", "ecc", "ecc-mode"),
    "thermals": ("temperature", "power-limit"),
    "clocks": ("slowdown", "clock-limit"),
    "numa": ("numa", "iommu", "acs"),
    "storage": ("nvme-count", "nvme-link", "nvme-path", "nvme-health", "nvme-log", "raid"),
    "network": ("nic-link", "nic-speed", "nic-pcie"),
    "xid": ("xid", "xid-history"),
    "recovery": ("recovery-action",),
    "host": ("machine", "kernel-cmdline", "hugepages", "governor", "ulimits", "clock-sync", "secure-boot"),
}
"""Group -> its checks. What `check_node` says stands here; checks of roles and measurements have no group."""

_GROUP_OF: Final = {check: group for group, checks in GROUPS.items() for check in checks}


def group_of(check: str) -> str:
    """Return the group of a check, or an empty string for one that is not of the hardware."""
    return _GROUP_OF.get(check, "")
