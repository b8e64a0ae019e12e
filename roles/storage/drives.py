"""Which drive may hold the models: pure. Nothing that holds anything is ever chosen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from metalserve.errors import MetalserveError
from metalserve.hardware.node import NvmeDrive
from metalserve.settings import StorageSettings

LABEL = "metalserve"
"""File system label by which a drive is known as ours again."""

PROBE = r"""
for d in /dev/nvme*n[0-9] /dev/nvme*n[0-9][0-9]; do
  [ -b "$d" ] || continue
  printf 'drive=%s\n' "$d"
  blkid -p -o export "$d" 2>/dev/null | sed -n 's/^\(TYPE\|LABEL\|UUID\|PTTYPE\)=/&/p'
  printf 'blkid=%s\n' "$(blkid -p -o export "$d" >/dev/null 2>&1; echo $?)"
  for p in "$d"p*; do [ -b "$p" ] && printf 'partition=%s\n' "$p"; done
  for h in /sys/class/block/"${d##*/}"/holders/*; do [ -e "$h" ] && printf 'holder=%s\n' "${h##*/}"; done
  n=$(stat -Lc '%t %T' "$d"); major=$((0x${n% *})) minor=$((0x${n#* }))
  awk -v n="$major:$minor" '$3==n{print "mounted=" $5}' /proc/self/mountinfo
  cmp -s -n 4194304 "$d" /dev/zero && echo zero=1 || echo zero=0
done; :
"""
"""Prints, for each NVMe namespace, what it holds. `blkid -p` reads the drive itself: udev's memory may be old."""


@dataclass(frozen=True, slots=True)
class Drive:
    """An NVMe namespace and what it holds.

    Attributes:
        device: `/dev/nvme0n1`.
        serial: as `nvme list` says; `None` when it does not name this drive.
        size_bytes: size, or `None`.
        filesystem: type of the signature found ("xfs", "LVM2_member" ...), "" when none.
        label: its label.
        uuid: its UUID.
        holds: in words, what makes it not empty; "" for an empty one.
        mounted: where it is mounted.
    """

    device: str
    serial: str | None = None
    size_bytes: int | None = None
    filesystem: str = ""
    label: str = ""
    uuid: str = ""
    holds: str = ""
    mounted: tuple[str, ...] = ()

    @property
    def ours(self) -> bool:
        """Whether metalserve made its file system."""
        return self.label == LABEL and self.filesystem in ("xfs", "ext4")

    @property
    def empty(self) -> bool:
        """Whether nothing at all was found on it."""
        return not self.holds

    def __str__(self) -> str:
        """Return the drive in words, as error messages name it."""
        size = f", {self.size_bytes / 1e12:.2f} TB" if self.size_bytes else ""
        return f"{self.device} (serial {self.serial or 'unknown'}{size}): {self.holds or 'empty'}"


def parse_drives(text: str, listed: Iterable[NvmeDrive]) -> tuple[Drive, ...]:
    """Read what `PROBE` printed; serial numbers and sizes come from `listed`."""
    known = {drive.device: drive for drive in listed}
    drives: list[Drive] = []
    pairs: list[tuple[str, str]] = []
    for line in [*text.splitlines(), "drive="]:
        key, equals, value = line.partition("=")
        if not equals:
            continue
        if key == "drive":
            if pairs:
                drives.append(_drive(pairs, known))
            pairs = [(key, value)] if value else []
        elif pairs:
            pairs.append((key, value))
    return tuple(drives)


def _drive(pairs: list[tuple[str, str]], known: dict[str, NvmeDrive]) -> Drive:
    one = dict(pairs)
    device = one["drive"]
    listed = known.get(device)
    many = {key: tuple(v for k, v in pairs if k == key) for key in ("partition", "holder", "mounted")}
    drive = Drive(
        device=device,
        serial=listed.serial if listed is not None else None,
        size_bytes=listed.size_bytes if listed is not None else None,
        filesystem=one.get("TYPE", ""),
        label=one.get("LABEL", ""),
        uuid=one.get("UUID", ""),
        mounted=many["mounted"],
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
    # 2 is blkid's word for "nothing found"; 8 is "several signatures", anything else is a drive that cannot be read.
    if not found and one.get("blkid") != "2":
        found.append(f"cannot be told (blkid exit status {one.get('blkid', '?')})")
    if not found and one.get("zero") != "1":
        found.append("data without a signature that is known")
    return ", ".join(found)


def choose(drives: tuple[Drive, ...], storage: StorageSettings) -> Drive:
    """Return the drive that holds, or is to hold, the models.

    Raises:
        MetalserveError: there is none, or several, or the one that was named holds something else.
    """
    if storage.device.startswith("serial:"):
        chosen = _by_serial(drives, storage.device.removeprefix("serial:"))
    else:
        chosen = _automatic(drives)
    if chosen.ours and chosen.filesystem != storage.filesystem:
        raise MetalserveError(
            f"{chosen} has {chosen.filesystem}, but storage.filesystem is {storage.filesystem}",
            remedy=f"set storage.filesystem to {chosen.filesystem}; metalserve never formats a drive twice",
        )
    elsewhere = [place for place in chosen.mounted if place != storage.mount]
    if elsewhere:
        raise MetalserveError(
            f"{chosen.device} is mounted on {', '.join(elsewhere)}, not on {storage.mount}",
            remedy=f"umount {elsewhere[0]}, or set storage.mount to it",
        )
    return chosen


def _by_serial(drives: tuple[Drive, ...], serial: str) -> Drive:
    found = [drive for drive in drives if drive.serial == serial]
    if not found:
        raise MetalserveError(
            f"no NVMe drive has serial number {serial}; the host has: {_listed(drives)}",
            remedy="correct storage.device, or see whether the drive has died",
        )
    chosen = found[0]
    if len(found) > 1:
        raise MetalserveError(
            f"serial number {serial} has several namespaces: {_listed(found)}",
            remedy="leave one namespace on the drive for the models",
        )
    if not (chosen.ours or chosen.empty):
        raise MetalserveError(
            f"{chosen.device} (serial {serial}) is not empty: {chosen.holds}",
            remedy=f"metalserve erases nothing: if its content may go, run `blkdiscard {chosen.device}` by hand",
        )
    return chosen


def _automatic(drives: tuple[Drive, ...]) -> Drive:
    ours = [drive for drive in drives if drive.ours]
    empty = [drive for drive in drives if drive.empty]
    for candidates, what in ((ours, "formatted by metalserve"), (empty, "empty")):
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            raise MetalserveError(
                f"several NVMe drives are {what}: {_listed(candidates)}",
                remedy=f"choose one: storage.device 'serial:{candidates[0].serial or 'XYZ'}'",
            )
    if not drives:
        raise MetalserveError(
            "the host has no NVMe drive",
            remedy="set storage.device to 'none' to keep the models on an existing file system",
        )
    raise MetalserveError(
        f"no NVMe drive is empty: {_listed(drives)}",
        remedy="empty one by hand (blkdiscard), or set storage.device to 'none' to use an existing file system",
    )


def _listed(drives: Iterable[Drive]) -> str:
    return "; ".join(str(drive) for drive in drives) or "none"
