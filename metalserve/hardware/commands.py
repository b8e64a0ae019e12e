"""The commands whose output `node_hardware` reads: POSIX shell, no tool that a bare host lacks is required.

Each ends by itself: a GPU that hangs makes nvidia-smi hang, and one dead host must not hold a fleet.
"""

from __future__ import annotations

from typing import Final

from metalserve.hardware.machine_commands import MACHINE_COMMANDS

LIMIT_S: Final = 20
"""Seconds after which one command is ended; nvidia-smi on a healthy 8-GPU host without persistence mode takes
several seconds, a hung one never returns (guessed, not measured)."""

CSV_FIELDS: Final = (
    "index",
    "name",
    "uuid",
    "pci.bus_id",
    "pci.device_id",
    "driver_version",
    "memory.total",
    "power.limit",
    "temperature.gpu",
    "pcie.link.gen.current",
    "pcie.link.gen.max",
    "pcie.link.width.current",
    "pcie.link.width.max",
    "persistence_mode",
    "mig.mode.current",
)
"""Fields asked of `--query-gpu`. All exist since branch 470: one unknown field makes the whole query fail,
so what newer drivers added (fabric, recovery action, event reasons) is read from `-q` instead."""


def _limited(command: str) -> str:
    return f"timeout -k 2 {LIMIT_S} {command}"


# `read` and not `cat`: a host has hundreds of devices, and a process a file would take seconds.
_SYSFS_LSPCI = r"""for d in /sys/bus/pci/devices/*; do [ -r "$d/class" ] || continue
r=; read -r c <"$d/class"; read -r v <"$d/vendor"; read -r i <"$d/device"
[ -r "$d/revision" ] && read -r r <"$d/revision"
c=${c#0x}; c=${c%??}
printf '%s Class [%s]: Device [%s:%s] (rev %s)\n' "${d##*/}" "$c" "${v#0x}" "${i#0x}" "${r#0x}"; done"""

_SYSFS_NVME_LINKS = r"""for d in /sys/bus/pci/devices/*; do [ -r "$d/class" ] || continue
case $(cat "$d/class") in 0x0108*) printf 'link\t%s\t%s\t%s\t%s\t%s\n' "${d##*/}" \
"$(cat "$d/current_link_speed" 2>/dev/null)" "$(cat "$d/current_link_width" 2>/dev/null)" \
"$(cat "$d/max_link_speed" 2>/dev/null)" "$(cat "$d/max_link_width" 2>/dev/null)";; esac; done"""

_SYSFS_NVLINK5_BRIDGES = r"""for d in /sys/bus/pci/devices/*; do
[ "$(cat "$d/vendor" 2>/dev/null)" = 0x15b3 ] && [ "$(cat "$d/device" 2>/dev/null)" = 0x1021 ] || continue
timeout 2 grep -aq SW_MNG "$d/vpd" 2>/dev/null && printf '%s\nSW_MNG\n' "${d##*/}"; done; :"""

_NVLINK5_BRIDGES = (
    "if command -v lspci >/dev/null 2>&1; then "
    f"{_limited('lspci -Dvv -d 15b3:1021')} | grep -aE '^[0-9a-f]+:|SW_MNG'; else {_SYSFS_NVLINK5_BRIDGES}; fi; :"
)

_NVME_CONTROLLERS = r"""for d in /sys/class/nvme/nvme*; do [ -r "$d/address" ] || continue
printf '%s\t%s\n' "${d##*/}" "$(cat "$d/address")"; done; :"""

# A kernel built without module support has no /proc/modules; a lab host on such a machine answers through lsmod.
_MODULES = r"""{ cat /proc/modules 2>/dev/null || lsmod 2>/dev/null; } | while read -r m _; do
case $m in nvidia*|nouveau|nova_core|ib_umad|mlx5_core) printf '%s\n' "$m";; esac; done"""

# What the next modprobe would load. Debian's own archive calls the files otherwise and makes `nvidia` an alias, which
# modinfo does not follow.
_DRIVER_DISK = f"""for m in nvidia nvidia-current-open nvidia-current; do
{_limited('modinfo -k "${MS_KERNEL:-$(uname -r)}" -F version "$m"')} 2>/dev/null && exit 0; done
echo 'modinfo: no module nvidia'; exit 1"""

_LOG_WORDS = "NVRM|[Nn]vidia|NVIDIA|Xid|nouveau|fallen off the bus|nvme[0-9]"
_KERNEL_LOG = f"{_limited('dmesg')} | grep -aE '{_LOG_WORDS}' | tail -n 4000"

COMMANDS: Final[dict[str, str]] = {
    "lspci": f"if command -v lspci >/dev/null 2>&1; then {_limited('lspci -Dnn')}; else {_SYSFS_LSPCI}; fi",
    "nvme-links": (
        f"if command -v lspci >/dev/null 2>&1; then {_limited('lspci -Dvv -d ::0108')}; else {_SYSFS_NVME_LINKS}; fi"
    ),
    "nvme-controllers": _NVME_CONTROLLERS,
    "nvme-list": _limited("nvme list -o json"),
    "nvlink5-bridges": _NVLINK5_BRIDGES,
    "modules": _MODULES,
    "driver-module": "cat /proc/driver/nvidia/version",
    "driver-disk": _DRIVER_DISK,
    "fm-version": _limited("nv-fabricmanager --version"),
    "smi-csv": _limited(f"nvidia-smi --query-gpu={','.join(CSV_FIELDS)} --format=csv"),
    "smi-q": _limited("nvidia-smi -q"),
    "topo": _limited("nvidia-smi topo -m"),
    "nvlink-status": _limited("nvidia-smi nvlink -s"),
    "kernel-log": _KERNEL_LOG,
    **MACHINE_COMMANDS,
}
"""Section name -> command. The observation script runs each, folds stderr in and notes the exit status."""
