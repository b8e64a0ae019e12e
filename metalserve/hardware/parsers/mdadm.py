"""`mdadm --detail` and `mdadm --examine`: state and members of software RAID arrays."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from metalserve.hardware.parsers.text import ParseError, clean, first_line, integer

_HEAD = re.compile(r"(/dev/[A-Za-z0-9_/.:-]{1,80}):\s*")
_PAIR = re.compile(r"\s*([A-Za-z][A-Za-z ]{1,30}?(?:\[\d{1,3}\])?) : {0,3}(.*?)\s*")
_MEMBER = re.compile(r"\s*(\d{1,4}|-)\s+\d{1,6}\s+\d{1,6}\s+(\d{1,4}|-)\s+(\S.{0,60}?)\s*")
_DEVICE = re.compile(r"(/dev/[A-Za-z0-9_/.:-]{1,80})$")


@dataclass
class MdArray:
    """One array, or what one member's superblock says (`--examine`).

    Attributes:
        device: the device at the head of the block.
        form: `detail` or `examine`.
        level: `raid0`, `raid1`, `container` ...
        state: words (`clean`, `degraded`, `recovering`).
        raid_devices: members it should have.
        active: active members.
        working: working members.
        failed: failed members.
        spare: spare members.
        members: device -> state in words (`active sync`, `faulty`), from `--detail`.
        missing: slots that are `removed`.
        progress: rebuild, resync or check as printed (`24% complete`).
        uuid: UUID of the array.
        device_role: role of this member (`--examine`).
        array_state: as printed, without its legend (`AA`, `A.`) (`--examine`).
    """

    device: str
    form: str = "detail"
    level: str | None = None
    state: list[str] = field(default_factory=list)
    raid_devices: int | None = None
    active: int | None = None
    working: int | None = None
    failed: int | None = None
    spare: int | None = None
    members: dict[str, str] = field(default_factory=dict)
    missing: int = 0
    progress: str | None = None
    uuid: str | None = None
    device_role: str | None = None
    array_state: str | None = None


def parse_mdadm(text: str) -> tuple[MdArray, ...]:
    """Read `mdadm --detail` or `--examine`, one or several arrays.

    Raises:
        ParseError: no array with a RAID level, or one named twice.
    """
    arrays: list[MdArray] = []
    in_members = False
    for line in clean(text).splitlines():
        head = _HEAD.fullmatch(line)
        if head:
            arrays.append(MdArray(head.group(1)))
            in_members = False
            continue
        if not arrays or not line.strip():
            continue
        if line.split()[:2] == ["Number", "Major"]:
            in_members = True
            continue
        member = _MEMBER.fullmatch(line) if in_members else None
        pair = _PAIR.fullmatch(line)
        if member:
            _member(member, arrays[-1])
        elif pair and not in_members:
            _pair(pair.group(1), pair.group(2), arrays[-1])
    for array in arrays:
        if array.level is None:
            raise ParseError(f"mdadm: {array.device} has no RAID level; the output is cut or of something else")
    if not arrays:
        raise ParseError(f"no array of mdadm; the text begins with {first_line(text)!r}")
    if len({a.device for a in arrays}) != len(arrays):
        raise ParseError("mdadm: an array comes twice")
    return tuple(arrays)


def _pair(key: str, value: str, array: MdArray) -> None:
    counts = {
        "Raid Devices": "raid_devices",
        "Active Devices": "active",
        "Working Devices": "working",
        "Failed Devices": "failed",
        "Spare Devices": "spare",
    }
    if key in counts:
        setattr(array, counts[key], integer(value))
    elif key == "Raid Level":
        array.level = value or None
    elif key.startswith("Raid Level["):  # a member of a DDF container tells of each array in it
        array.level = ", ".join(dict.fromkeys([*(array.level or "").split(", "), value.lower()])).removeprefix(", ")
    elif key.startswith("state["):
        array.state = list(dict.fromkeys([*array.state, *(part.strip().lower() for part in value.split(","))]))
    elif key == "State":
        array.state = [part.strip() for part in value.split(",") if part.strip()]
    elif key.endswith(" Status") and "%" in value:
        array.progress = value
    elif key in ("UUID", "Array UUID"):
        array.uuid = value
    elif key == "Magic":
        array.form = "examine"
    elif key == "Device Role":
        array.form, array.device_role = "examine", value
    elif key == "Array State":
        array.form, array.array_state = "examine", value.split(" ")[0]


def _member(found: re.Match[str], array: MdArray) -> None:
    words = found.group(3)
    device = _DEVICE.search(words)
    if words.startswith("removed"):
        array.missing += 1
    elif device:
        array.members[device.group(1)] = words[: device.start()].strip() or "member"
