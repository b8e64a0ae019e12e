"""What `storage` wants of a host: pure. One NVMe drive or one array of them, one file system, mounted by UUID."""

from __future__ import annotations

import shlex
from functools import partial

from metalserve.desired.model import Action, Desired, Directory, File, NotYetKnown, Package, Unit, Watch
from metalserve.desired.node import Node
from metalserve.desired.observed import Observation
from metalserve.errors import MetalserveError
from metalserve.releases import Release
from metalserve.settings import HostSettings
from roles.storage import findings, fstab, queue, scripts
from roles.storage.choice import ARRAY_DEVICE, Volume
from roles.storage.chosen import chosen
from roles.storage.drives import FILESYSTEMS, LABEL, PROBE, Drive, parse_arrays, parse_drives
from roles.storage.fitness import link_of
from roles.storage.mounted import mounted_at, space, unit_name, unit_path, unit_text
from roles.storage.proof import check, in_words

TOOLS = {"xfs": "xfsprogs", "ext4": "e2fsprogs"}
TRIM = "fstrim.timer"
ARRAYS = "/etc/mdadm/mdadm.conf.d/metalserve.conf"
"""mdadm reads it beside mdadm.conf (mdadm.conf(5)). The initial RAM disk needs none of it: a boot needs no models."""


def watch(settings: HostSettings, release: Release) -> Watch:
    """What an observation must look at for this role."""
    mount = settings.storage.mount
    quoted = shlex.quote(mount)
    commands = {
        "storage-mount": f"findmnt -J -o TARGET,SOURCE,FSTYPE,OPTIONS --target {quoted}",
        "storage-space": f"df -P -B1 {quoted} && if [ -w {quoted} ]; then echo writable; fi",
    }
    if settings.storage.device == "none":
        return Watch(paths=(mount,), commands=commands)
    return Watch(
        paths=(mount, unit_path(mount), queue.RULES, ARRAYS),
        units=(unit_name(mount), TRIM),
        commands={
            **commands,
            "storage-drives": PROBE,
            queue.SECTION: queue.COMMAND,
            fstab.SECTION: fstab.COMMAND,
        },
    )


def install(node: Node) -> Desired:
    """The tools that make and mend the file system, and the array."""
    storage = node.settings.storage
    if storage.device == "none":
        return Desired()
    names = [TOOLS[storage.filesystem], *(["mdadm"] if storage.raid else [])]
    return Desired(packages=tuple(map(Package, names)))


def format_drive(node: Node) -> Desired:
    """The file system, made on empty drives, or on those whose serial number says that their content may go.

    Raises:
        NotYetKnown: the tools that list drives are not installed yet.
        MetalserveError: no drive can be taken.
    """
    storage = node.settings.storage
    if storage.device == "none":
        return Desired()
    volume = chosen(node)
    fstab.refuse_other(node.observed, volume, storage.mount)
    members = frozenset(drive.device for drive in volume.drives)
    actions = [
        Action(
            name=f"ERASE {drive.device}: {drive.holds}",
            why=f"serial {drive.serial} is named in storage.erase: its content is lost",
            done=partial(_erased, device=drive.device, array=members if volume.raid else frozenset()),
            script=scripts.erase(drive),
        )
        for drive in volume.erase
    ]
    if volume.raid and not volume.assembled:
        actions.append(_array(volume, storage.filesystem))
    if not volume.ours and not (volume.array and not volume.assembled):
        actions.append(
            Action(
                name=f"make {storage.filesystem} on {volume}",
                why=", ".join(f"serial {d.serial or 'unknown'}, {_before(d)}{_worth(node, d)}" for d in volume.drives),
                done=partial(_holds_ours, devices=members, raid=volume.raid),
                # Asked again on the spot, and mkfs is never forced: the drive may have come into use since.
                script=scripts.make_filesystem(volume, storage.filesystem),
            )
        )
    return Desired(actions=tuple(actions))


def _array(volume: Volume, filesystem: str) -> Action:
    devices = ", ".join(drive.device for drive in volume.drives)
    if volume.array:
        return Action(
            name=f"start the array {volume.array} of {devices}",
            done=partial(_runs, devices=frozenset(drive.device for drive in volume.drives)),
            script=scripts.assemble(volume, filesystem),
        )
    return Action(
        name=f"join {devices} into a RAID0, chunk {scripts.CHUNK_KIB} KiB",
        why="one drive that dies takes all of it along: models are staged anew",
        done=partial(_joined, devices=frozenset(drive.device for drive in volume.drives)),
        script=scripts.create_array(volume.drives),
    )


def _before(drive: Drive) -> str:
    return "empty" if drive.empty else "erased"


def _worth(node: Node, drive: Drive) -> str:
    link = link_of(drive.device, node.hardware)
    return f", {findings.link_words(link)}" if link is not None else ""


def mount(node: Node) -> Desired:
    """The mount unit, by UUID, enabled at every boot; the array's line for mdadm; how the kernel reads from it.

    Raises:
        NotYetKnown: the file system does not exist yet.
        MetalserveError: something else is mounted there.
    """
    storage = node.settings.storage
    if storage.device == "none":
        return Desired(directories=(Directory(storage.mount),))
    volume = chosen(node)
    if not volume.ours:
        raise NotYetKnown(f"mount unit of {storage.mount}: known only after {volume} has its file system")
    there = mounted_at(node.observed, storage.mount)
    if there and storage.mount not in volume.mounted:
        raise MetalserveError(
            f"{storage.mount} is already a mount of {there.get('source', 'something else')}",
            remedy="umount it and remove it from /etc/fstab, or set storage.device to 'none' to use it as it is",
        )
    array = (File(ARRAYS, _arrays(volume)),) if volume.raid else ()
    return Desired(
        files=(
            File(unit_path(storage.mount), unit_text(storage.mount, volume.uuid, storage.filesystem)),
            queue.rules(volume, storage.read_ahead_kib),
            *array,
        ),
        # The timer does not start in a container (ConditionVirtualization); there it is only enabled.
        units=(
            Unit(unit_name(storage.mount)),
            Unit(TRIM, running=True if node.observed.kernel_settings_writable else None, optional=True),
        ),
        actions=(
            *fstab.taken_over(node.observed, volume, storage.mount),
            *queue.live(node, volume, storage.read_ahead_kib),
        ),
    )


def _arrays(volume: Volume) -> str:
    return (
        "# Written by metalserve (roles/storage); changes here are undone by its next run.\n"
        f"ARRAY {ARRAY_DEVICE} metadata=1.2 UUID={volume.array}\n"
    )


def _holds_ours(observed: Observation, devices: frozenset[str], raid: bool) -> bool:
    probe = observed.text("storage-drives")
    if not raid:
        return any(drive.ours and drive.device in devices for drive in parse_drives(probe, ()))
    arrays = [array for array in parse_arrays(probe) if set(array.members) == devices]
    return any(array.label == LABEL and array.filesystem in FILESYSTEMS for array in arrays)


def _runs(observed: Observation, devices: frozenset[str]) -> bool:
    return any(set(array.members) == devices for array in parse_arrays(observed.text("storage-drives")))


def _joined(observed: Observation, devices: frozenset[str]) -> bool:
    """Tell whether these drives, and no others, are the members of one array of metalserve."""
    drives = [d for d in parse_drives(observed.text("storage-drives"), ()) if d.ours_in_array]
    wanted = {drive.members for drive in drives}
    return (
        {drive.device for drive in drives} == devices
        and len({drive.uuid for drive in drives}) == 1
        and wanted <= {None, len(devices)}
    )


def _erased(observed: Observation, device: str, array: frozenset[str]) -> bool:
    found = next((d for d in parse_drives(observed.text("storage-drives"), ()) if d.device == device), None)
    if found is None:
        return False
    return found.empty or (_joined(observed, array) if array else found.ours)


__all__ = [
    "check",
    "chosen",
    "format_drive",
    "in_words",
    "install",
    "mount",
    "mounted_at",
    "space",
    "unit_name",
    "unit_path",
    "watch",
]
