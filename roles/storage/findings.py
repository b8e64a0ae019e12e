"""What is said of the drives that hold the models: link, health, place, and how the kernel reads from them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from metalserve.catalogue.loader import threshold
from metalserve.desired.node import Node
from metalserve.hardware.node import NodeHardware
from metalserve.verify.drives import NVME
from metalserve.verify.finding import Finding
from metalserve.verify.measurement_rules import DRIVE_HOT_C
from metalserve.verify.pcie import SYSFS
from roles.storage import queue
from roles.storage.choice import Volume
from roles.storage.drives import Drive
from roles.storage.fitness import Link, gpu_numa, health_of, link_of, numa_of, unfit, worries

_RESEAT = (
    "reseat drive and cable, look at the slot's speed setting in the firmware (`lspci -vv`, LnkSta against LnkCap)"
)


def about(node: Node, volume: Volume) -> Sequence[Finding]:
    """Return the findings about the drives of a volume."""
    found: list[Finding] = []
    for drive in volume.drives:
        found += [_link(drive, node.hardware), _health(drive, node.hardware)]
    found += _place(volume, node.hardware)
    found += _queue(node, volume)
    found += _left_to_erase(node, volume)
    return found


def link_words(link: Link) -> str:
    """Return a link in words, and what keeps it from being the best one."""
    if link.best:
        return str(link)
    if link.above:
        return f"{link}, held back by the link above it: {'; '.join(map(str, link.above))}"
    able = f"Gen{link.able[0]} x{link.able[1]}"
    if link.below_able:
        return f"{link}, though drive and port can do {able}"
    own = f"Gen{link.gen_max} x{link.width_max}"
    if (link.gen_max, link.width_max) != link.able:
        return f"{link}: all that its port can do, the drive itself can do {own}; not Gen5 x4"
    return f"{link}, the most that the drive can do; not Gen5 x4"


def _link(drive: Drive, hardware: NodeHardware) -> Finding:
    link = link_of(drive.device, hardware)
    subject = f"{drive.device} (serial {drive.serial or 'unknown'})"
    if link is None:
        return Finding(
            "models-link",
            "inconclusive",
            subject,
            "Gen5 x4",
            "its PCIe link could not be read",
            "how fast models load is not known",
            "read `lspci -vv` and `nvme list` on the host",
            SYSFS,
        )
    bad = link.below_able or bool(link.above)
    # A port that can do less than the drive, and a drive that can do no more, are said and are no fault.
    impact = "" if link.best else f"models load at {link.gb_s:.1f} GB/s at most, Gen5 x4 carries 15.8"
    return Finding(
        "models-link", "warn" if bad else "ok", subject, "Gen5 x4", link_words(link), impact,
        _RESEAT if bad else "", SYSFS,
        f"now {link}, drive at most Gen{link.gen_max} x{link.width_max}, port at most "
        f"Gen{link.port_gen or '?'} x{link.port_width or '?'}",
    )  # fmt: skip


def _health(drive: Drive, hardware: NodeHardware) -> Finding:
    health = health_of(drive.device, hardware)
    subject = f"{drive.device} (serial {drive.serial or 'unknown'})"
    limit = threshold("drive-wear")
    wanted = f"below {DRIVE_HOT_C.value:g} C, less than {limit.value:g} % worn, spare blocks, no media error"
    if health is None or health.percent_used is None:
        return Finding(
            "models-drive", "inconclusive", subject, wanted, "its SMART log could not be read",
            "how much life it has left is not known", f"run `nvme smart-log {drive.device}` as root", NVME,
        )  # fmt: skip
    dead, said = unfit(health), worries(health)
    heat = health.temperature_c
    if heat is not None and heat >= DRIVE_HOT_C.value:
        said.append(f"{heat:g} C: it slows itself down")
    told = f"{health.percent_used} % of its endurance used, {health.spare} % spare"
    told += f", {heat:g} C" if heat is not None else ""
    return Finding(
        "models-drive",
        "fail" if dead else "warn" if said else "ok",
        subject,
        wanted,
        "; ".join(said) or told,
        "" if not said else "models on it cannot be written anew" if dead else "it may fail, or read slowly",
        "" if not said else "replace it" if dead else "watch it, plan its replacement; air over the drive bays",
        NVME,
        told,
    )


def _place(volume: Volume, hardware: NodeHardware) -> Iterator[Finding]:
    gpus, drives = gpu_numa(hardware), numa_of(volume.drives, hardware)
    known = {node for node in drives.values() if node is not None}
    if not gpus or not known or len({*gpus, *known}) < 2:
        return  # one node, or none that the firmware names: nothing crosses a socket
    near = sum(count for node, count in gpus.items() if node in known)
    total = sum(gpus.values())
    where = ", ".join(f"{device} on {node if node is not None else '?'}" for device, node in sorted(drives.items()))
    split = f"; the array's drives are on nodes {', '.join(map(str, sorted(known)))}" if len(known) > 1 else ""
    yield Finding(
        "models-numa",
        "ok" if near else "warn",
        str(volume),
        "on the NUMA node of GPUs",
        f"{where}; {near} of {total} GPUs are on the same node, GPUs are on {', '.join(map(str, sorted(gpus)))}{split}",
        "" if near else "all that is read for the GPUs crosses the link between the sockets",
        "" if near else "move the drive to a bay of the GPUs' socket, where the chassis has one",
        "numa_node of sysfs",
    )


def _queue(node: Node, volume: Volume) -> Iterator[Finding]:
    if not node.observed.kernel_settings_writable:
        return  # the kernel is another's: nothing was set
    name = volume.device.rpartition("/")[2]
    wanted = queue.read_ahead_kib(volume, node.settings.storage.read_ahead_kib)
    found = queue.observed(node.observed).get(name)
    right = found is not None and found[0] == wanted
    yield Finding(
        "read-ahead",
        "ok" if right else "inconclusive" if found is None else "warn",
        volume.device,
        f"{wanted} KiB",
        f"{found[0]} KiB" if found is not None else "the kernel does not tell",
        "" if right else "models load more slowly than the drive reads",
        "" if right else f"udevadm test /sys/class/block/{name}; see what else writes read_ahead_kb",
        f"/sys/class/block/{name}/queue/read_ahead_kb",
    )


def _left_to_erase(node: Node, volume: Volume) -> Iterator[Finding]:
    left = [drive.serial for drive in volume.drives if drive.serial in node.settings.storage.erase]
    if left:
        yield Finding(
            "storage-erase",
            "warn",
            ", ".join(map(str, left)),
            "no drive of the models in storage.erase",
            "storage.erase still names it",
            "were it formatted by something else one day, a run would erase it again",
            "remove it from the inventory: it is metalserve's now",
            "inventory (storage.erase)",
        )
