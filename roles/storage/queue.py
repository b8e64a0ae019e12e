"""How the kernel reads from the models' drives: read-ahead and scheduler, now and after a boot. Pure."""

from __future__ import annotations

from functools import partial

from metalserve.desired.model import Action, File
from metalserve.desired.node import Node
from metalserve.desired.observed import Observation
from roles.storage.choice import Volume

RULES = "/etc/udev/rules.d/66-metalserve-storage.rules"
"""After 60 and 63, which read the file system's UUID from drives and arrays."""

SECTION = "storage-queue"
COMMAND = r"""for q in /sys/class/block/nvme*n[0-9]*/queue /sys/class/block/md[0-9]*/queue; do
[ -r "$q/read_ahead_kb" ] || continue; n=${q%/queue}
printf '%s\t%s\t%s\n' "${n##*/}" "$(cat "$q/read_ahead_kb")" "$(cat "$q/scheduler" 2>/dev/null)"; done; :"""


def read_ahead_kib(volume: Volume, each: int) -> int:
    """Return the read-ahead of the device that the file system lies on: an array's has to keep all its drives busy.

    vLLM's default loader maps the files and touches one page after the other: all that is under way at a drive is what
    the kernel reads ahead. A Gen5 drive needs 14 GB/s x 100 us, about 1.4 MB, under way to be busy; 4 MiB leave room
    for its worse moments. The kernel's default is 128 KiB (Documentation/ABI/stable/sysfs-block, read_ahead_kb).
    Measured on a virtual drive of 2.4 GB/s (8.6 GB of safetensors to an H100, 2026-11-25): 1.84 to 1.87 GB/s with
    128 KiB, 2.13 to 2.20 with 4 MiB, no more with 16 MiB.
    """
    return each * len(volume.drives)


def rules(volume: Volume, each: int) -> File:
    """Return the udev rules: by UUID and serial number, since names change between boots."""
    ahead = read_ahead_kib(volume, each)
    lines = [
        "# Written by metalserve (roles/storage); changes here are undone by its next run.",
        'SUBSYSTEM!="block", GOTO="metalserve_end"',
        'ACTION!="add|change", GOTO="metalserve_end"',
        'ENV{DEVTYPE}!="disk", GOTO="metalserve_end"',
        f'KERNEL=="nvme*|md*", ENV{{ID_FS_UUID}}=="{volume.uuid}", ATTR{{queue/read_ahead_kb}}="{ahead}"',
        # An NVMe drive orders its requests itself; a scheduler only costs CPU time at millions of requests a second.
        *(
            f'KERNEL=="nvme*", ATTRS{{serial}}=="{drive.serial}", ATTR{{queue/scheduler}}="none"'
            for drive in volume.drives
            if drive.serial
        ),
        'LABEL="metalserve_end"',
    ]
    return File(RULES, "\n".join(lines) + "\n")


def observed(seen: Observation) -> dict[str, tuple[int, str]]:
    """Return device name -> (read-ahead in KiB, scheduler in use, "" when there is none)."""
    found: dict[str, tuple[int, str]] = {}
    for line in seen.text(SECTION).splitlines():
        name, _, rest = line.partition("\t")
        ahead, _, schedulers = rest.partition("\t")
        if ahead.strip().isdigit():
            chosen = next((w.strip("[]") for w in schedulers.split() if w.startswith("[")), schedulers.strip())
            found[name] = int(ahead), chosen
    return found


def live(node: Node, volume: Volume, each: int) -> tuple[Action, ...]:
    """Return what sets it on the running kernel; nothing where the host does not own its kernel's settings."""
    if not node.observed.kernel_settings_writable:
        return ()
    name, ahead = volume.device.rpartition("/")[2], read_ahead_kib(volume, each)
    seen = observed(node.observed)
    wanted = {f"{name}/queue/read_ahead_kb": str(ahead)} if name in seen else {}
    members = [drive.device.rpartition("/")[2] for drive in volume.drives]
    wanted |= {f"{one}/queue/scheduler": "none" for one in members if one in seen and seen[one][1] not in ("none", "")}
    if not wanted:
        return ()
    return (
        Action(
            name=f"read ahead {ahead} KiB on {name}, no scheduler",
            why=f"now {seen[name][0]} KiB" if name in seen else "",
            phase="late",
            done=partial(_as_wanted, name=name, ahead=ahead, members=members),
            script="".join(f"echo {value} >/sys/class/block/{path}\n" for path, value in wanted.items()),
        ),
    )


def _as_wanted(seen: Observation, name: str, ahead: int, members: list[str]) -> bool:
    found = observed(seen)
    ahead_right = name not in found or found[name][0] == ahead
    return ahead_right and all(found[one][1] in ("none", "") for one in members if one in found)
