"""The scripts that erase, join and format drives. Each asks the host again on the spot before it writes anything."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from roles.storage.choice import ARRAY_DEVICE, Volume
from roles.storage.drives import LABEL, Drive

CHUNK_KIB = 512
"""Chunk of an array. One request of a read-ahead of 4 MiB then keeps several drives busy, and none is cut into pieces
smaller than what NVMe drives take in one command (128 KiB to 1 MiB); it is mdadm's own default, too."""

LOG_KIB = 256
"""Largest stripe unit that an XFS log may have, and the largest buffer it is mounted with (mkfs.xfs, xfs(5))."""

GUARDS = r"""
# ms_drive DEVICE SERIAL: the device is still that drive (names change between boots), and nothing uses it.
ms_drive() {
  ms_has=$(nvme id-ctrl "$1" 2>/dev/null | sed -n 's/^sn *: *//p')
  ms_has=$(printf '%s' "${ms_has:-$(cat "/sys/class/block/${1##*/}/device/serial" 2>/dev/null)}" | tr -d ' ')
  [ -z "$2" ] || [ "$ms_has" = "$2" ] || ms_fail "$1 is serial ${ms_has:-unknown}, not $2 -> run again: it has changed"
  for ms_part in "$1" "$1"p*; do
    [ -b "$ms_part" ] || continue
    for ms_h in /sys/class/block/"${ms_part##*/}"/holders/*; do
      [ ! -e "$ms_h" ] || ms_fail "$ms_part is used by ${ms_h##*/} -> take it out of use first; nothing was changed"
    done
    ms_n=$(stat -Lc '%t %T' "$ms_part")
    ms_at=$(awk -v n="$((0x${ms_n% *})):$((0x${ms_n#* }))" '$3==n{print $5; exit}' /proc/self/mountinfo)
    [ -z "$ms_at" ] || ms_fail "$ms_part is mounted on $ms_at -> umount it first; nothing was changed"
    ! grep -qs "^$ms_part " /proc/swaps || ms_fail "$ms_part is swap -> swapoff it first; nothing was changed"
  done
}
# ms_empty DEVICE: no signature, and zeros where one would stand.
ms_empty() {
  ms_rc=0; blkid -p "$1" >/dev/null 2>&1 || ms_rc=$?
  [ "$ms_rc" -eq 2 ] || ms_fail "$1 is no longer empty (blkid: $ms_rc) -> look at it"
  cmp -s -n 4194304 "$1" /dev/zero || ms_fail "$1 is no longer empty (its first 4 MiB are not zeros) -> look at it"
}
# Links by UUID and name come from udev; where none answers this waits for nothing.
ms_settle() { if command -v udevadm >/dev/null 2>&1; then udevadm settle --timeout=20 2>/dev/null || :; fi; }
"""


def _same(drive: Drive) -> str:
    serial = (drive.serial or "").replace(" ", "")
    return f"ms_drive {shlex.quote(drive.device)} {shlex.quote(serial)}\n"


def erase(drive: Drive) -> str:
    """Return what takes everything off a drive that nothing uses.

    wipefs opens the drive for itself alone: the kernel refuses what is in use, whatever was seen before.
    """
    device = shlex.quote(drive.device)
    return (
        f"{GUARDS}{_same(drive)}"
        f'for ms_part in {device}p*; do [ ! -b "$ms_part" ] || wipefs -q -a "$ms_part"; done\n'
        f"wipefs -q -a {device}\n"
        f"blkdiscard {device} 2>/dev/null || :\n"
        # What a drive gives for discarded blocks is its own choice: both ends, where signatures stand, are written.
        f"ms_end=$(( $(blockdev --getsize64 {device}) / 4096 - 1024 ))\n"
        f"dd if=/dev/zero of={device} bs=4096 count=1024 conv=fsync,notrunc status=none\n"
        f"dd if=/dev/zero of={device} bs=4096 count=1024 seek=$ms_end conv=fsync,notrunc status=none\n"
        f"blockdev --rereadpt {device} 2>/dev/null || :\n"
        f"ms_settle\nms_empty {device}\n"
    )


def create_array(drives: Sequence[Drive]) -> str:
    """Return what joins empty drives into a RAID0. mdadm is never forced: what it doubts it refuses by itself."""
    checks = "".join(f"{_same(drive)}ms_empty {shlex.quote(drive.device)}\n" for drive in drives)
    devices = " ".join(shlex.quote(drive.device) for drive in drives)
    return (
        f"{GUARDS}{checks}"
        f"[ ! -e {ARRAY_DEVICE} ] || ms_fail '{ARRAY_DEVICE} is there already -> run again: the host has changed'\n"
        f"mdadm --create {ARRAY_DEVICE} --metadata=1.2 --level=0 --chunk={CHUNK_KIB} --raid-devices={len(drives)} "
        f"--name={LABEL} {devices} </dev/null ||\n"
        f"  ms_fail 'mdadm could not make the array -> see its lines above'\n"
        f"ms_settle\n"
    )


def assemble(volume: Volume, filesystem: str) -> str:
    """Return what starts an array that is there; its file system is made only where a run ended before it was."""
    devices = " ".join(shlex.quote(drive.device) for drive in volume.drives)
    return (
        f"{GUARDS}mdadm --assemble {ARRAY_DEVICE} --uuid={shlex.quote(volume.array)} {devices} ||\n"
        "  ms_fail 'mdadm could not start the array -> mdadm --examine on its drives; none of them was changed'\n"
        "ms_settle\n"
        f"rc=0; blkid -p {ARRAY_DEVICE} >/dev/null 2>&1 || rc=$?\n"
        f'[ "$rc" -ne 2 ] || {{\n{_made(ARRAY_DEVICE, filesystem, len(volume.drives))}}}\n'
    )


def make_filesystem(volume: Volume, filesystem: str) -> str:
    """Return what makes the file system on an empty device."""
    device = shlex.quote(volume.device)
    checks = "" if volume.raid else _same(volume.drives[0])
    return f"{GUARDS}{checks}{_made(device, filesystem, len(volume.drives) if volume.raid else 1)}"


def _made(device: str, filesystem: str, stripes: int) -> str:
    return (
        f"ms_empty {device}\n"
        f"{' '.join(_mkfs(filesystem, stripes))} -L {LABEL} {device} </dev/null\n"
        f"ms_settle\n"
        f"uuid=$(blkid -p -s UUID -o value {device})\n"
        'for i in 1 2 3 4 5 6 7 8 9 10; do [ -e "/dev/disk/by-uuid/$uuid" ] && break; sleep 1; done\n'
    )


def _mkfs(filesystem: str, stripes: int) -> list[str]:
    """Return the command without label and device. Allocation groups are left to mkfs: it makes more on an array."""
    if filesystem == "xfs":
        layout = ["-d", f"su={CHUNK_KIB}k,sw={stripes}", "-l", f"su={LOG_KIB}k"] if stripes > 1 else []
        return ["mkfs.xfs", "-q", *layout]
    blocks = CHUNK_KIB // 4  # of 4 KiB
    layout = ["-b", "4096", "-E", f"stride={blocks},stripe-width={blocks * stripes}"] if stripes > 1 else []
    return ["mkfs.ext4", "-q", "-m", "0", *layout]
