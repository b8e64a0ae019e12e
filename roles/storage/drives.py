"""The NVMe drives and arrays of a host, and what each holds: pure. Text of `PROBE` in, values out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from metalserve.hardware.node import NvmeDrive

LABEL = "metalserve"
"""File system label, and array name, by which a drive is known as ours again."""

FILESYSTEMS = ("xfs", "ext4")
MEMBER = "linux_raid_member"

PROBE = r"""
holds() {
  blkid -p -o export "$1" 2>/dev/null | sed -n 's/^\(TYPE\|LABEL\|UUID\|PTTYPE\)=/&/p'
  printf 'blkid=%s\n' "$(blkid -p -o export "$1" >/dev/null 2>&1; echo $?)"
  mounts "$1" | sed 's/^/mounted=/'
  cmp -s -n 4194304 "$1" /dev/zero && echo zero=1 || echo zero=0
}
mounts() {
  n=$(stat -Lc '%t %T' "$1"); major=$((0x${n% *})) minor=$((0x${n#* }))
  awk -v n="$major:$minor" '$3==n{print $5}' /proc/self/mountinfo
}
for d in /dev/nvme*n[0-9] /dev/nvme*n[0-9][0-9]; do
  [ -b "$d" ] || continue
  printf 'drive=%s\n' "$d"
  holds "$d"
  for h in /sys/class/block/"${d##*/}"/holders/*; do [ -e "$h" ] && printf 'holder=%s\n' "${h##*/}"; done
  awk -v d="$d" '$1==d || index($1, d "p")==1{print "used=" $1 " is swap"}' /proc/swaps 2>/dev/null
  for p in "$d"p*; do [ -b "$p" ] || continue
    printf 'partition=%s\n' "$p"
    mounts "$p" | sed "s,^,used=$p is mounted on ,"
    for h in /sys/class/block/"${p##*/}"/holders/*; do [ -e "$h" ] && printf 'used=%s by %s\n' "$p" "${h##*/}"; done
  done
  command -v mdadm >/dev/null 2>&1 && mdadm --examine --export "$d" 2>/dev/null | grep -E '^MD_(LEVEL|DEVICES)='
done
for a in /dev/md[0-9]*; do
  [ -b "$a" ] || continue
  case $a in *p[0-9]*) continue;; esac
  printf 'array=%s\n' "$a"
  holds "$a"
  for s in /sys/class/block/"${a##*/}"/slaves/*; do [ -e "$s" ] && printf 'member=/dev/%s\n' "${s##*/}"; done
done; :
"""
"""Prints, for each NVMe namespace and each md array, what it holds. `blkid -p` reads the device itself: udev's memory
may be old."""


@dataclass(frozen=True, slots=True)
class Drive:
    """An NVMe namespace and what it holds.

    Attributes:
        device: `/dev/nvme0n1`.
        serial: as `nvme list` says; `None` when it does not name this drive.
        size_bytes: size, or `None`.
        filesystem: type of the signature found ("xfs", "LVM2_member" ...), "" when none.
        label: its label; of an array's member HOST:NAME.
        uuid: its UUID; of an array's member the array's.
        holds: in words, what makes it not empty; "" for an empty one.
        mounted: where it is mounted.
        model: model, "" when not known.
        in_use: in words, what uses it or a part of it now; it cannot be erased.
        members: drives of the array that its superblock names; `None` when not known.
        level: level of that array ("raid0").
        read_gb_s: what the narrowest PCIe link on its way carries, GB/s; 0 when not known.
        unfit: why it must not hold models; "" for a fit one.
    """

    device: str
    serial: str | None = None
    size_bytes: int | None = None
    filesystem: str = ""
    label: str = ""
    uuid: str = ""
    holds: str = ""
    mounted: tuple[str, ...] = ()
    model: str = ""
    in_use: tuple[str, ...] = ()
    members: int | None = None
    level: str = ""
    read_gb_s: float = 0.0
    unfit: str = ""

    @property
    def ours(self) -> bool:
        """Formatted by metalserve, as a drive of its own."""
        return self.label == LABEL and self.filesystem in FILESYSTEMS

    @property
    def ours_in_array(self) -> bool:
        """A member of an array that metalserve made."""
        return self.filesystem == MEMBER and self.label.rpartition(":")[2] == LABEL

    @property
    def empty(self) -> bool:
        """Whether nothing at all was found on it."""
        return not self.holds

    def __str__(self) -> str:
        """Return the drive in words, as error messages name it."""
        size = f", {self.size_bytes / 1e12:.2f} TB" if self.size_bytes else ""
        unfit = f"; not fit: {self.unfit}" if self.unfit else ""
        return f"{self.device} (serial {self.serial or 'unknown'}{size}): {self.holds or 'empty'}{unfit}"


@dataclass(frozen=True, slots=True)
class Array:
    """An assembled md array: its members' devices, and what lies on it.

    Attributes:
        device: `/dev/md127`.
        members: devices of its members.
        filesystem: type of the signature found, "" when none.
        label: its label.
        uuid: UUID of what lies on it.
        mounted: where it is mounted.
        blank: nothing lies on it.
    """

    device: str
    members: tuple[str, ...] = ()
    filesystem: str = ""
    label: str = ""
    uuid: str = ""
    mounted: tuple[str, ...] = ()
    blank: bool = False


def parse_drives(text: str, listed: Iterable[NvmeDrive]) -> tuple[Drive, ...]:
    """Read the drives that `PROBE` printed; serial numbers, models and sizes come from `listed`."""
    known = {drive.device: drive for drive in listed}
    return tuple(_drive(pairs, known) for pairs in _groups(text) if pairs[0][0] == "drive")


def parse_arrays(text: str) -> tuple[Array, ...]:
    """Read the arrays that `PROBE` printed."""
    return tuple(_array(pairs) for pairs in _groups(text) if pairs[0][0] == "array")


def digits(uuid: str) -> str:
    """Return an array's UUID as plain digits: mdadm writes colons where blkid writes dashes."""
    return re.sub(r"[^0-9a-f]", "", uuid.lower())


def _groups(text: str) -> Iterator[list[tuple[str, str]]]:
    pairs: list[tuple[str, str]] = []
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if not equals:
            continue
        if key in ("drive", "array"):
            if pairs:
                yield pairs
            pairs = [(key, value)] if value else []
        elif pairs:
            pairs.append((key, value))
    if pairs:
        yield pairs


def _every(pairs: list[tuple[str, str]], key: str) -> tuple[str, ...]:
    return tuple(value for name, value in pairs if name == key)


def _array(pairs: list[tuple[str, str]]) -> Array:
    one = dict(pairs)
    return Array(
        device=one["array"],
        members=_every(pairs, "member"),
        filesystem=one.get("TYPE", ""),
        label=one.get("LABEL", ""),
        uuid=one.get("UUID", ""),
        mounted=_every(pairs, "mounted"),
        blank=one.get("blkid") == "2" and one.get("zero") == "1",
    )


def _drive(pairs: list[tuple[str, str]], known: dict[str, NvmeDrive]) -> Drive:
    one = dict(pairs)
    device = one["drive"]
    listed = known.get(device)
    many = {key: _every(pairs, key) for key in ("partition", "holder", "mounted", "used")}
    members = one.get("MD_DEVICES", "")
    drive = Drive(
        device=device,
        serial=listed.serial if listed is not None else None,
        size_bytes=listed.size_bytes if listed is not None else None,
        model=(listed.model if listed is not None else None) or "",
        filesystem=one.get("TYPE", ""),
        label=one.get("LABEL", ""),
        uuid=one.get("UUID", ""),
        mounted=many["mounted"],
        in_use=(
            *(f"mounted on {place}" for place in many["mounted"]),
            *(f"used by {holder}" for holder in many["holder"]),
            *many["used"],
        ),
        members=int(members) if members.isdigit() else None,
        level=one.get("MD_LEVEL", ""),
    )
    return replace(drive, holds=_holds(drive, one, many))


def _holds(drive: Drive, one: dict[str, str], many: dict[str, tuple[str, ...]]) -> str:
    found: list[str] = []
    if drive.filesystem:
        found.append(f"{drive.filesystem} {drive.label!r}" if drive.label else drive.filesystem)
    if "PTTYPE" in one:
        found.append(f"partition table ({one['PTTYPE']})")
    if many["partition"]:
        found.append(f"{len(many['partition'])} partition(s)")
    if many["holder"]:
        found.append(f"used by {', '.join(many['holder'])}")
    if drive.mounted:
        found.append(f"mounted on {', '.join(drive.mounted)}")
    found += many["used"]
    # 2 is blkid's word for "nothing found"; 8 is "several signatures", anything else is a drive that cannot be read.
    if not found and one.get("blkid") != "2":
        found.append(f"cannot be told (blkid exit status {one.get('blkid', '?')})")
    if not found and one.get("zero") != "1":
        found.append("data without a signature that is known")
    return ", ".join(found)
