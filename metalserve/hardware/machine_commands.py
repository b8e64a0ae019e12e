"""The commands that read the machine around the GPUs from sysfs and procfs: few processes, no tool that a host lacks.

A host has hundreds of PCI devices: each of these reads all of them with one or two processes, not one a file.
"""

from __future__ import annotations

import shlex
from typing import Final

from metalserve.hardware.boot_commands import NEXT_BOOT

LIMIT_S: Final = 10
"""Seconds after which one of them is ended (guessed): sysfs answers in milliseconds, a dying device may block it."""


def _limited(script: str) -> str:
    return f"timeout -k 2 {LIMIT_S} sh -c {shlex.quote(script)}"


_PCIE_TREE = r"""cd /sys/bus/pci/devices || exit 3
readlink -f *
grep -sH . */class */vendor */device */numa_node */current_link_speed */current_link_width */max_link_speed \
*/max_link_width */iommu_group/type */physfn/class */net/*/operstate */net/*/speed */virtio*/net/*/operstate \
*/virtio*/net/*/speed */infiniband/*/ports/*/state */infiniband/*/ports/*/rate */infiniband/*/ports/*/link_layer
grep -sH ^DRIVER= */uevent
:"""

_ACS = "lspci -Dvv -d ::0604 | grep -aE '^[0-9a-f]+:|ACSCtl'"

_NUMA = r"""cd /sys/devices/system/node || exit 3
grep -sH . node[0-9]*/cpulist
grep -sH MemTotal node[0-9]*/meminfo
:"""

_HOST_STATE = r"""printf 'kernel=%s\n' "$(uname -r)"
read -r line </proc/cmdline && printf 'cmdline=%s\n' "$line"
virt=$(systemd-detect-virt 2>/dev/null)
printf 'virt=%s\n' "$virt"
grep -qm1 '^flags.* hypervisor' /proc/cpuinfo && echo hypervisor=1 || echo hypervisor=0
printf 'product=%s\n' "$(cat /sys/class/dmi/id/sys_vendor /sys/class/dmi/id/product_name 2>/dev/null | tr '\n' ' ')"
printf 'cpus=%s\n' "$(getconf _NPROCESSORS_ONLN 2>/dev/null || nproc)"
governors=$(cat /sys/devices/system/cpu/cpufreq/policy*/scaling_governor 2>/dev/null | sort -u | tr '\n' ' ')
printf 'governors=%s\n' "$governors"
awk '$1=="MemTotal:"{print "memory_kib=" $2} $1=="HugePages_Total:"{print "hugepages_total=" $2}
$1=="HugePages_Free:"{print "hugepages_free=" $2} $1=="Hugepagesize:"{print "hugepage_kib=" $2}' /proc/meminfo
printf 'thp=%s\n' "$(cat /sys/kernel/mm/transparent_hugepage/enabled 2>/dev/null)"
if timeout 3 systemctl is-enabled --quiet docker.service 2>/dev/null; then
timeout 3 systemctl show docker.service -p LimitMEMLOCK -p LimitNOFILE 2>/dev/null |
sed -n 's/^LimitMEMLOCK=/docker_memlock=/p; s/^LimitNOFILE=/docker_nofile=/p'; fi
set -- /sys/class/iommu/*
[ -e "$1" ] && echo "iommu_units=$#" || echo iommu_units=0
if [ -d /sys/firmware/efi ]; then
sb=$(od -An -t u1 -j4 -N1 /sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c 2>/dev/null)
printf 'secure_boot=%s\n' "$(printf %s "$sb" | tr -d ' ')"; else echo secure_boot=0; fi
case $virt in systemd-nspawn|lxc*|docker|podman) clock=;; # not its own: asking would only wake timedated
*) clock=$(timeout 3 chronyc -n tracking 2>/dev/null | grep '^Leap status')
[ -n "$clock" ] || clock=$(timeout 3 timedatectl show -p NTPSynchronized 2>/dev/null);; esac
printf 'clock=%s\n' "$clock"
:"""

_DRIVE_HEALTH = r"""for d in /dev/nvme[0-9] /dev/nvme[0-9][0-9]; do [ -c "$d" ] || continue
printf 'drive\t%s\n' "$d"; timeout 3 nvme smart-log -o json "$d"; printf '\n'; done; :"""

# The journal may be large: what a search of three seconds does not find is left, and that is said.
_XID_HISTORY = r"""command -v journalctl >/dev/null 2>&1 || { echo 'journalctl: not found'; exit 0; }
found=$(timeout 3 journalctl -q --no-pager -o short-iso --since=-30d -g 'NVRM: Xid|SXid \(|fallen off the bus' \
_TRANSPORT=kernel 2>/dev/null); [ $? = 124 ] && echo 'journalctl: not searched in time'
printf '%s\n' "$found" | tail -n 500"""

MACHINE_COMMANDS: Final[dict[str, str]] = {
    "pcie-tree": _limited(_PCIE_TREE),
    "pcie-acs": f"if command -v lspci >/dev/null 2>&1; then {_limited(_ACS)}; fi; :",
    "numa": _limited(_NUMA),
    "host-state": _limited(_HOST_STATE),
    "drive-health": f"if command -v nvme >/dev/null 2>&1; then {_limited(_DRIVE_HEALTH)}; else exit 127; fi",
    "xid-history": _limited(_XID_HISTORY),
    "raid": "cat /proc/mdstat",
    "next-boot": NEXT_BOOT,
}
"""Section name -> command, as in `metalserve.hardware.commands.COMMANDS`, which includes them."""
