"""Which drives hold, or are to hold, the models: pure. What holds anything is taken only when its serial says so."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from metalserve.errors import MetalserveError
from metalserve.settings import StorageSettings
from roles.storage.drives import FILESYSTEMS, LABEL, Array, Drive, digits

ARRAY_DEVICE = f"/dev/md/{LABEL}"
"""Name that udev gives the array; its number (md127) changes between boots."""


@dataclass(frozen=True, slots=True)
class Volume:
    """What the models' file system lies on, or will.

    Attributes:
        drives: one drive, or the members of an array in the order of their serial numbers.
        device: the block device of the file system.
        raid: whether it is an array.
        array: UUID of the array as mdadm writes it, "" while there is none.
        assembled: the array runs.
        filesystem: type of the file system, "" while there is none.
        uuid: its UUID.
        mounted: where it is mounted.
        erase: drives whose content must go first.
    """

    drives: tuple[Drive, ...]
    device: str
    raid: bool = False
    array: str = ""
    assembled: bool = False
    filesystem: str = ""
    uuid: str = ""
    mounted: tuple[str, ...] = ()
    erase: tuple[Drive, ...] = field(default=())

    @property
    def ours(self) -> bool:
        """Whether the file system is there."""
        return bool(self.filesystem)

    def __str__(self) -> str:
        """Return it in words."""
        return f"{self.device} ({len(self.drives)} drives)" if self.raid else self.device


def choose(drives: Sequence[Drive], arrays: Sequence[Array], storage: StorageSettings) -> Volume:
    """Return what the models are to lie on.

    Raises:
        MetalserveError: there is no drive, or several, or one that was named holds something else.
    """
    volume = _raid(drives, arrays, storage) if storage.raid else _single(drives, storage)
    if volume.ours and volume.filesystem != storage.filesystem:
        raise MetalserveError(
            f"{volume} has {volume.filesystem}, but storage.filesystem is {storage.filesystem}",
            remedy=f"set storage.filesystem to {volume.filesystem}; metalserve never formats a drive twice",
        )
    elsewhere = [place for place in volume.mounted if place != storage.mount]
    if elsewhere:
        raise MetalserveError(
            f"{volume} is mounted on {', '.join(elsewhere)}, not on {storage.mount}",
            remedy=f"umount {elsewhere[0]}, or set storage.mount to it",
        )
    return volume


def _single(drives: Sequence[Drive], storage: StorageSettings) -> Volume:
    drive = _by_serial(drives, storage) if storage.serials else _automatic(drives, storage)
    if drive.ours:
        return Volume((drive,), drive.device, filesystem=drive.filesystem, uuid=drive.uuid, mounted=drive.mounted)
    return Volume((drive,), drive.device, erase=() if drive.empty else (drive,))


def named(drives: Sequence[Drive], serial: str) -> Drive:
    """Return the drive with a serial number.

    Raises:
        MetalserveError: there is none, or several namespaces.
    """
    found = [drive for drive in drives if drive.serial == serial]
    if not found:
        raise MetalserveError(
            f"no NVMe drive has serial number {serial}; the host has: {listed(drives)}",
            remedy="correct storage.device, or see whether the drive has died",
        )
    if len(found) > 1:
        raise MetalserveError(
            f"serial number {serial} has several namespaces: {listed(found)}",
            remedy="leave one namespace on the drive for the models",
        )
    return found[0]


def may_erase(drive: Drive, storage: StorageSettings) -> bool:
    """Tell whether a drive's content may go: its serial says so, and nothing uses it or a part of it."""
    return drive.serial is not None and drive.serial in storage.erase and not drive.in_use


def _takeable(drive: Drive, storage: StorageSettings) -> None:
    """Refuse a drive by name.

    Raises:
        MetalserveError: it is not fit, or holds something that must stay.
    """
    if drive.unfit:
        raise MetalserveError(
            f"{drive.device} (serial {drive.serial}) is not fit for models: {drive.unfit}",
            remedy="replace the drive, or name another one in storage.device",
        )
    if drive.empty or may_erase(drive, storage):
        return
    if drive.serial in storage.erase:
        raise MetalserveError(
            f"{drive.device} (serial {drive.serial}) is in use, so it is not erased: {', '.join(drive.in_use)}",
            remedy="take it out of use first (umount, swapoff, vgchange -an, mdadm --stop); never the system's drive",
        )
    raise MetalserveError(
        f"{drive.device} (serial {drive.serial}) is not empty: {drive.holds}",
        remedy=f"if its content may go: storage.erase ['{drive.serial}'], or `blkdiscard {drive.device}` by hand",
    )


def _by_serial(drives: Sequence[Drive], storage: StorageSettings) -> Drive:
    chosen = named(drives, storage.serials[0])
    if not chosen.ours:
        _takeable(chosen, storage)
    return chosen


def _automatic(drives: Sequence[Drive], storage: StorageSettings) -> Drive:
    ours = [drive for drive in drives if drive.ours]
    if len(ours) == 1:
        return ours[0]
    if ours:
        raise _several(ours, "formatted by metalserve")
    if any(drive.ours_in_array for drive in drives):
        raise MetalserveError(
            f"an array that metalserve made lies on these drives: {listed(d for d in drives if d.ours_in_array)}",
            remedy="set storage.device: raid0, which uses it as it is",
        )
    fit = [drive for drive in drives if not drive.unfit]
    # What must be erased first is taken only where no drive is empty.
    for candidates, what in (
        ([d for d in fit if d.empty], "empty"),
        ([d for d in fit if may_erase(d, storage)], "named in storage.erase"),
    ):
        best = [d for d in candidates if d.read_gb_s == max(c.read_gb_s for c in candidates)]
        if len(best) == 1:
            return best[0]
        if best:
            raise _several(best, what)
    if not drives:
        raise MetalserveError(
            "the host has no NVMe drive",
            remedy="set storage.device to 'none' to keep the models on an existing file system",
        )
    raise MetalserveError(
        f"no NVMe drive is {'empty' if fit else 'fit for models'}: {listed(drives)}",
        remedy="name a drive whose content may go in storage.erase, or set storage.device to 'none' to use an existing "
        "file system",
    )


def _several(drives: Sequence[Drive], what: str) -> MetalserveError:
    return MetalserveError(
        f"several NVMe drives are {what}: {listed(drives)}",
        remedy=f"choose one: storage.device 'serial:{drives[0].serial or 'XYZ'}'; or all: 'raid0'",
    )


def _raid(drives: Sequence[Drive], arrays: Sequence[Array], storage: StorageSettings) -> Volume:
    ours = [drive for drive in drives if drive.ours_in_array]
    # What is left of a broken array may be erased like anything else; a whole one never is.
    if ours and not (_lacks(ours) and all(may_erase(drive, storage) for drive in ours)):
        return _existing(ours, arrays, storage)
    single = [drive for drive in drives if drive.ours and not may_erase(drive, storage)]
    if single:
        raise MetalserveError(
            f"the models lie on a drive of its own already: {listed(single)}",
            remedy="an array begins empty: move nothing, set storage.device: auto; or stop the engines, umount it and "
            f"name it in storage.erase ['{single[0].serial}']: the models are staged anew",
        )
    if storage.serials:
        taken = [named(drives, serial) for serial in storage.serials]
        for drive in taken:
            _takeable(drive, storage)
    else:
        taken = [d for d in drives if not d.unfit and d.serial and (d.empty or may_erase(d, storage))]
    taken.sort(key=lambda drive: drive.serial or "")
    if len(taken) < 2:
        raise MetalserveError(
            f"an array needs two drives that are empty or named in storage.erase; the host has: {listed(drives)}",
            remedy="name them with raid0:SERIAL,SERIAL, or set storage.device: auto",
        )
    sizes = {drive.size_bytes for drive in taken}
    models = {drive.model for drive in taken}
    if len(sizes) > 1 or None in sizes or len(models) > 1:
        kinds = "; ".join(f"{d.device} (serial {d.serial}): {d.model or 'unknown model'}, {_size(d)}" for d in taken)
        raise MetalserveError(
            f"the drives of an array must be alike, the slowest sets its pace: {kinds}",
            remedy="name drives of one model and size: storage.device 'raid0:SERIAL,SERIAL'",
        )
    return Volume(tuple(taken), ARRAY_DEVICE, raid=True, erase=tuple(d for d in taken if not d.empty))


def _existing(ours: Sequence[Drive], arrays: Sequence[Array], storage: StorageSettings) -> Volume:
    uuids = sorted({digits(drive.uuid) for drive in ours})
    if len(uuids) > 1:
        raise MetalserveError(
            f"members of {len(uuids)} arrays of metalserve: {listed(ours)}",
            remedy="take out the drives of the other host; none of them is touched",
        )
    members = sorted(ours, key=lambda drive: drive.serial or "")
    serials = [drive.serial or "unknown" for drive in members]
    wanted = _members(members)
    missing = sorted(set(storage.serials) - set(serials))
    if _lacks(members) or missing:
        which = f" (missing: {', '.join(missing)})" if missing else ""
        raise MetalserveError(
            f"the models' array has {len(members)} of {wanted or len(storage.serials)} drives: serial "
            f"{', '.join(serials)} are there{which}; without one of them it cannot be read, and it is not made anew",
            remedy="reseat the missing drive (`nvme list`, dmesg); if it is dead: replace it, and name the drives that "
            "are left in storage.erase: the models are staged anew",
        )
    others = sorted(set(serials) - set(storage.serials)) if storage.serials else []
    if others:
        raise MetalserveError(
            f"the models' array has more drives than storage.device names: {', '.join(others)}",
            remedy=f"set storage.device to 'raid0:{','.join(serials)}': an array keeps the drives it was made of",
        )
    devices = {drive.device for drive in members}
    array = next((array for array in arrays if set(array.members) == devices), None)
    volume = Volume(tuple(members), ARRAY_DEVICE, raid=True, array=_with_colons(uuids[0]))
    if array is None:
        return volume
    if array.filesystem in FILESYSTEMS and array.label == LABEL:
        return Volume(
            volume.drives, array.device, raid=True, array=volume.array, assembled=True,
            filesystem=array.filesystem, uuid=array.uuid, mounted=array.mounted,
        )  # fmt: skip
    if not array.blank:
        raise MetalserveError(
            f"{array.device} is metalserve's array, but holds {array.filesystem or 'data without a known signature'}"
            + (f" {array.label!r}" if array.label else ""),
            remedy="it is not touched: move the data away and wipe it by hand (wipefs -a), or set storage.device: none",
        )
    return Volume(volume.drives, array.device, raid=True, array=volume.array, assembled=True)


def _members(ours: Iterable[Drive]) -> int | None:
    return next((drive.members for drive in ours if drive.members is not None), None)


def _lacks(ours: Sequence[Drive]) -> bool:
    wanted = _members(ours)
    return wanted is not None and len(ours) < wanted


def _with_colons(uuid: str) -> str:
    return ":".join(uuid[place : place + 8] for place in range(0, len(uuid), 8))


def _size(drive: Drive) -> str:
    return f"{drive.size_bytes / 1e12:.2f} TB" if drive.size_bytes else "unknown size"


def listed(drives: Iterable[Drive]) -> str:
    """Return drives in words, as error messages name them."""
    return "; ".join(str(drive) for drive in drives) or "none"
