"""What happens when a simulated host boots, and the watcher that runs afterwards."""

from __future__ import annotations

import glob
import os
import shutil
import stat
import subprocess
import time

from . import disks, effects, grub, kmod, proc
from .state import REBOOT_CURES, Lab

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Out = Callable[[str], None]

INTERVAL_S = 1.0
"""Seconds between two looks of the watcher."""


def main(lab: Lab, args: list[str], out: Out, err: Out) -> int:
    """`boot`: a fresh start of the simulated hardware."""
    shutil.rmtree(lab.boot(), ignore_errors=True)
    os.makedirs(lab.boot("proc", "driver"))
    lab.write("state/boot/started.json", {"at": time.time()})
    lab.cure(REBOOT_CURES)
    profile = lab.profile
    if lab.system == "/" and not lab.only_gpus:
        grub.prepare(lab)
    if not lab.only_gpus:
        lab.log(f"Linux version {grub.kernel(lab)} (simulated; the machine's is {os.uname().release})")
    lab.log(
        f"metalserve lab: simulated hardware, profile {profile['name']}: {profile['description']}",
    )
    for number, drive in enumerate(profile["nvme"]):
        lab.log(f"nvme nvme{number}: pci function {drive['bus']}")
    if lab.system == "/":
        _bind(lab)
        _controllers(lab)
        disks.sync(lab)
    load_at_boot(lab, err)
    proc.refresh(lab)
    if lab.system == "/":
        effects.sync(lab)
    return 0


def _bind(lab: Lab) -> None:
    """Lay the stand-ins over procfs. A kernel without modules has no /proc/modules, and nothing can be laid there."""
    if not os.path.ismount("/proc/driver"):
        subprocess.run(["mount", "--bind", lab.boot("proc", "driver"), "/proc/driver"], check=False)
    if lab.only_gpus:
        _bind_beside(lab)
    else:
        _bind_sysfs(lab)
    if os.path.exists("/proc/modules") and not os.path.ismount("/proc/modules"):
        with open("/proc/modules", encoding="utf-8") as stream:
            real = [line.rstrip("\n") for line in stream if not kmod.simulated(line.split(" ", 1)[0])]
        lab.write("state/boot/modules-real.json", real)
        with open(lab.boot("proc", "modules"), "w", encoding="utf-8") as stream:
            stream.write("".join(f"{line}\n" for line in real))
        subprocess.run(["mount", "--bind", lab.boot("proc", "modules"), "/proc/modules"], check=False)


def _bind_sysfs(lab: Lab) -> None:
    """Lay the stand-ins over the machine's PCI devices and NUMA nodes; a machine without PCI lacks the first place."""
    inner = ("/sys/bus/pci", lab.boot("sys", "bus", "pci"))
    outer = ("/sys/bus", lab.boot("sys", "bus"))
    nodes = ("/sys/devices/system/node", lab.boot("sys", "node"))
    for place, source in (inner if os.path.isdir(inner[0]) else outer, nodes):
        os.makedirs(source, exist_ok=True)
        if os.path.isdir(place) and not os.path.ismount(place):
            subprocess.run(["mount", "--bind", source, place], check=False)


def _bind_beside(lab: Lab) -> None:
    """Lay the stand-ins over the PCI devices so that the machine's own stay visible, and keep its own list of modules.

    `state/boot/pci-real.json` has the links of its own devices; its drivers are bound into the stand-in.
    """
    place, source = "/sys/bus/pci", lab.boot("sys", "bus", "pci")
    if os.path.ismount(place):
        return
    devices = os.path.join(place, "devices")
    real = {name: os.readlink(os.path.join(devices, name)) for name in sorted(os.listdir(devices))}
    lab.write("state/boot/pci-real.json", real)
    drivers = os.path.join(source, "drivers")
    for directory in (drivers, proc.OWN):
        os.makedirs(directory, exist_ok=True)
    commands = [
        ["mount", "--bind", os.path.join(place, "drivers"), drivers],
        ["mount", "--rbind", source, place],
        ["mount", "-t", "proc", "proc", proc.OWN],
    ]
    for command in commands:
        subprocess.run(command, check=False)


def _controllers(lab: Lab) -> None:
    """Character devices of the NVMe controllers; copies of /dev/null, like all simulated nodes."""
    for number, _ in enumerate(lab.profile["nvme"]):
        for name in (f"nvme{number}", f"ng{number}n1"):
            path = f"/dev/{name}"
            if os.path.exists(f"/dev/nvme{number}n1") and not os.path.exists(path):
                os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3))


def load_at_boot(lab: Lab, err: Out) -> None:
    """What udev and systemd-modules-load would load: nouveau or nvidia for the GPUs, then modules-load.d."""
    if lab.profile["gpus"]:
        if lab.profile["nouveau"] and not kmod.blacklisted(lab, "nouveau"):
            kmod.load(lab, "nouveau", err)
        elif kmod.module_file(lab, "nvidia") is not None and not kmod.blacklisted(lab, "nvidia"):
            kmod.load(lab, "nvidia", err)
    for directory in ("/etc/modules-load.d", "/usr/lib/modules-load.d"):
        for path in sorted(glob.glob(lab.file(f"{directory}/*.conf"))):
            with open(path, encoding="utf-8", errors="replace") as stream:
                names = [line.strip() for line in stream if line.strip() and line.strip()[0] not in "#;"]
            for name in names:
                if kmod.simulated(name):
                    kmod.load(lab, name, err)


def watch(lab: Lab, args: list[str], out: Out, err: Out) -> int:
    """`watch`: look once a second for new faults and new file systems. Cheap: a few stats and reads of one page."""
    seen: tuple[object, ...] = ()
    waited = 0
    while True:
        now = _signature(lab)
        waited += 1
        # A sticky fault such as container-stuck must also catch what starts later, so look again now and then.
        if now != seen or (waited >= 5 and lab.faults()) or lab.fault("fabric-manager-flapping"):
            seen, waited = now, 0
            try:
                effects.sync(lab)
                disks.sync(lab)
            except OSError as error:
                err(f"metalserve lab watcher: {error}")
        if lab.only_gpus:
            proc.refresh_modules(lab)
        time.sleep(INTERVAL_S)


def _signature(lab: Lab) -> tuple[object, ...]:
    parts: list[object] = []
    for name in ("faults.json", "profile.json"):
        try:
            parts.append(os.stat(lab.path(name)).st_mtime_ns)
        except OSError:
            parts.append(None)
    for number, _ in enumerate(lab.profile["nvme"]):
        parts.append(disks.identity(f"/dev/nvme{number}n1"))
    return tuple(parts)


def udevadm(lab: Lab, args: list[str], out: Out, err: Out) -> int | None:
    """`udevadm settle|trigger` make the links right at once; anything else is for the real tool."""
    if args[:1] in (["settle"], ["trigger"]):
        disks.sync(lab)
        return 0
    return None
