"""Role storage: which drives are preferred, erased only when told to, and joined into an array."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metalserve.desired.diff import difference
from metalserve.desired.model import Action, NotYetKnown
from metalserve.desired.node import Node
from metalserve.errors import MetalserveError
from metalserve.hardware.node import NvmeDrive
from metalserve.settings import StorageSettings
from roles.storage import desired as role
from roles.storage.choice import choose
from roles.storage.drives import parse_arrays, parse_drives
from roles.storage.queue import RULES
from tests.roles.helpers import after, changes
from tests.roles.storage_hosts import (
    DF,
    EMPTY,
    EXT4,
    MEMBER,
    OURS,
    UUID,
    findmnt,
    links,
    nvme_list,
    probe,
    smart,
    storage_host,
)

TWO: dict[str, list[str]] = {"nvme0n1": EMPTY, "nvme1n1": EMPTY}
GEN4 = ("0000:41:00.0", 4, 4, 4, 4)
GEN5 = ("0000:42:00.0", 5, 4, 5, 4)


def refused(node: Node) -> str:
    with pytest.raises(MetalserveError) as error:
        role.format_drive(node)
    return str(error.value)


def test_of_several_empty_drives_the_fastest_is_taken_and_its_link_is_said() -> None:
    node = storage_host(drives=TWO, sections=links(GEN4, GEN5))
    assert changes(role.format_drive(node), node) == [
        "make xfs on /dev/nvme1n1 (serial S-nvme1n1, empty, Gen5 x4)",
    ]
    one = storage_host(drives={"nvme0n1": EMPTY}, sections=links(GEN4))
    assert "Gen4 x4, the most that the drive can do; not Gen5 x4" in changes(role.format_drive(one), one)[0]
    same = storage_host(drives=TWO, sections=links(GEN4, ("0000:42:00.0", 4, 4, 4, 4)))
    assert "several NVMe drives are empty" in refused(same)


def test_a_drive_that_is_not_fit_is_passed_over_and_refused_by_name() -> None:
    sections = {**links(GEN4, GEN5), "drive-health": smart(nvme0={}, nvme1={"critical_warning": 8})}
    node = storage_host(drives=TWO, sections=sections)
    assert "make xfs on /dev/nvme0n1" in changes(role.format_drive(node), node)[0]
    named = storage_host({"device": "serial:S-nvme1n1"}, drives=TWO, sections=sections)
    assert "is not fit for models: the drive is read-only" in refused(named)
    none = storage_host(drives={"nvme1n1": EMPTY}, sections={"drive-health": smart(nvme1={"critical_warning": 4})})
    assert "no NVMe drive is fit for models" in refused(none)


def test_a_drive_is_erased_only_when_its_serial_is_named() -> None:
    drives = {"nvme0n1": EXT4}
    asked = storage_host({"device": "serial:S-nvme0n1"}, drives=drives)
    assert "storage.erase ['S-nvme0n1']" in refused(asked)
    node = storage_host({"erase": ["S-nvme0n1"]}, drives=drives)
    assert changes(role.format_drive(node), node) == [
        "ERASE /dev/nvme0n1: ext4 'data' (serial S-nvme0n1 is named in storage.erase: its content is lost)",
        "make xfs on /dev/nvme0n1 (serial S-nvme0n1, erased)",
    ]
    done = after(node, sections={"storage-drives": probe({"nvme0n1": OURS})})
    assert changes(role.format_drive(node), done) == []
    assert changes(role.format_drive(done), done) == []  # still named: it is metalserve's now, and is left alone
    assert [f.check for f in role.check(mounted(done)) if f.warning and "erase" in f.check] == ["storage-erase"]


def mounted(node: Node, **drives: list[str]) -> Node:
    told = drives or {"nvme0n1": [*OURS, "mounted=/srv/models"]}
    return after(node, sections={"storage-drives": probe(told), "storage-mount": findmnt()})


def test_an_empty_drive_goes_before_one_that_may_be_erased() -> None:
    node = storage_host({"erase": ["S-nvme0n1"]}, drives={"nvme0n1": EXT4, "nvme1n1": EMPTY})
    assert changes(role.format_drive(node), node) == ["make xfs on /dev/nvme1n1 (serial S-nvme1n1, empty)"]


IN_USE = {
    "mounted": ["mounted=/", *EXT4],
    "a partition is mounted": ["PTTYPE=gpt", "partition=/dev/nvme0n1p1", "used=/dev/nvme0n1p1 is mounted on /boot"],
    "swap": ["PTTYPE=gpt", "used=/dev/nvme0n1p3 is swap"],
    "LVM": ["TYPE=LVM2_member", "holder=dm-0"],
    "a partition in an array": ["PTTYPE=gpt", "used=/dev/nvme0n1p2 by md0"],
}


@pytest.mark.parametrize("use", IN_USE)
@pytest.mark.parametrize("device", ["auto", "serial:S-nvme0n1", "raid0", "raid0:S-nvme0n1,S-nvme1n1"])
def test_what_is_in_use_is_never_erased(use: str, device: str) -> None:
    drives = {"nvme0n1": [*IN_USE[use], "blkid=0", "zero=0"], "nvme1n1": EXT4}
    node = storage_host({"device": device, "erase": ["S-nvme0n1"]}, drives=drives)
    said = refused(node)
    assert "S-nvme0n1" in said
    if "S-nvme0n1" in device:
        assert "is in use, so it is not erased" in said


def test_two_drives_become_an_array_then_a_file_system_then_a_mount() -> None:
    node = storage_host({"device": "raid0"}, drives=TWO, sections=links(GEN4, ("0000:42:00.0", 4, 4, 4, 4)))
    assert [p.name for p in role.install(node).packages] == ["xfsprogs", "mdadm"]
    wish = role.format_drive(node)
    told = changes(wish, node)
    assert told[0].startswith("join /dev/nvme0n1, /dev/nvme1n1 into a RAID0, chunk 512 KiB (one drive that dies")
    assert told[1].startswith("make xfs on /dev/md/metalserve (2 drives) (serial S-nvme0n1, empty, Gen4 x4")
    with pytest.raises(NotYetKnown, match="has its file system"):
        role.mount(node)
    drives = {"nvme0n1": [*MEMBER, "holder=md127"], "nvme1n1": [*MEMBER, "holder=md127"]}
    array = ["member=/dev/nvme0n1", "member=/dev/nvme1n1", *OURS]
    made = after(node, sections={"storage-drives": probe(drives, {"md127": array})})
    assert changes(wish, made) == []
    assert changes(role.format_drive(made), made) == []
    wish = role.mount(made)
    files = {file.path: file.content or "" for file in wish.files}
    assert f"What=/dev/disk/by-uuid/{UUID}\n" in files["/etc/systemd/system/srv-models.mount"]
    assert (
        "ARRAY /dev/md/metalserve metadata=1.2 UUID=7e81a856:abb9c1c2:4b71237a:9778cc66\n"
        in files["/etc/mdadm/mdadm.conf.d/metalserve.conf"]
    )
    assert f'ENV{{ID_FS_UUID}}=="{UUID}", ATTR{{queue/read_ahead_kb}}="8192"' in files[RULES]
    assert files[RULES].count('ATTR{queue/scheduler}="none"') == 2
    now = after(
        made,
        wish,
        sections={
            "storage-drives": probe(drives, {"md127": [*array, "mounted=/srv/models"]}),
            "storage-mount": findmnt(),
        },
    )
    assert [changes(stage(now), now) for stage in (role.format_drive, role.mount)] == [[], []]
    assert role.in_words(now).endswith(", on RAID0 of 2 drives (Gen4 x4, the most that the drive can do; not Gen5 x4)")


def test_an_array_that_was_not_started_is_started_and_not_made_again() -> None:
    node = storage_host({"device": "raid0"}, drives={"nvme0n1": MEMBER, "nvme1n1": MEMBER})
    (change,) = difference(role.format_drive(node), node.observed)
    assert change.summary == ("start the array 7e81a856:abb9c1c2:4b71237a:9778cc66 of /dev/nvme0n1, /dev/nvme1n1")
    assert isinstance(change.resource, Action)
    assert "--create" not in change.resource.script
    assert "ms_empty /dev/md/metalserve" in change.resource.script  # before the file system that a cut-off run left out


def test_arrays_and_drives_that_are_not_meant_count_for_nothing() -> None:
    system = {"md0": ["member=/dev/sda1", "member=/dev/sdb1", *EXT4]}
    node = storage_host({"device": "raid0"}, drives={"nvme0n1": MEMBER, "nvme1n1": MEMBER}, arrays=system)
    assert [c.partition(" ")[0] for c in changes(role.format_drive(node), node)] == ["start"]
    fresh = storage_host({"device": "raid0"}, drives=TWO, arrays={"md0": ["member=/dev/sda1", *OURS]})
    assert [c.partition(" ")[0] for c in changes(role.format_drive(fresh), fresh)] == ["join", "make"]
    # another drive of metalserve's stands beside the one that was named
    other = storage_host({"device": "serial:S-nvme1n1"}, drives={"nvme0n1": OURS, "nvme1n1": EMPTY})
    assert [c.partition(" (")[0] for c in changes(role.format_drive(other), other)] == ["make xfs on /dev/nvme1n1"]


ARRAY_BLANK = {"md127": ["member=/dev/nvme0n1", "member=/dev/nvme1n1", *EMPTY]}
HELD = [*MEMBER, "holder=md127"]


def test_a_run_that_died_between_array_and_file_system_is_made_good() -> None:
    node = storage_host({"device": "raid0"}, drives={"nvme0n1": HELD, "nvme1n1": HELD}, arrays=ARRAY_BLANK)
    assert [c.partition(" (")[0] for c in changes(role.format_drive(node), node)] == ["make xfs on /dev/md127"]


@pytest.mark.parametrize(
    ("settings", "drives", "arrays", "words"),
    [
        ({}, {"nvme0n1": MEMBER}, {}, "has 1 of 2 drives: serial S-nvme0n1 are there"),
        ({}, {"nvme0n1": MEMBER, "nvme1n1": EMPTY}, {}, "it is not made anew"),
        ({"device": "raid0:S-nvme0n1,S-gone"}, {"nvme0n1": MEMBER}, {}, "(missing: S-gone)"),
        ({"device": "raid0:S-nvme0n1,S-gone"}, TWO, {}, "no NVMe drive has serial number S-gone"),
        ({"device": "raid0:S-nvme0n1,S-nvme2n1"}, {"nvme0n1": MEMBER, "nvme1n1": MEMBER, "nvme2n1": EMPTY}, {},
         "(missing: S-nvme2n1)"),
        ({"device": "auto"}, {"nvme0n1": MEMBER, "nvme1n1": MEMBER, "nvme2n1": EMPTY}, {}, "set storage.device: raid0"),
        ({}, {"nvme0n1": MEMBER, "nvme1n1": [*MEMBER[:2], "UUID=another", *MEMBER[3:]]}, {}, "members of 2 arrays"),
        ({}, {"nvme0n1": OURS, "nvme1n1": EMPTY}, {}, "the models lie on a drive of its own already"),
        ({}, {"nvme0n1": EMPTY}, {}, "an array needs two drives"),
        ({}, {"nvme0n1": EMPTY, "nvme1n1": EXT4}, {}, "an array needs two drives"),
        ({"device": "raid0:S-nvme0n1,S-nvme1n1"}, {"nvme0n1": EMPTY, "nvme1n1": EXT4}, {}, "is not empty: ext4 'data'"),
        ({}, {"nvme0n1": HELD, "nvme1n1": HELD},
         {"md127": ["member=/dev/nvme0n1", "member=/dev/nvme1n1", *EXT4]}, "is metalserve's array, but holds ext4"),
        ({"filesystem": "ext4"}, {"nvme0n1": HELD, "nvme1n1": HELD},
         {"md127": ["member=/dev/nvme0n1", "member=/dev/nvme1n1", *OURS]}, "has xfs, but storage.filesystem is ext4"),
        ({}, {"nvme0n1": HELD, "nvme1n1": HELD},
         {"md127": ["member=/dev/nvme0n1", "member=/dev/nvme1n1", *OURS, "mounted=/data"]}, "is mounted on /data"),
    ],
)  # fmt: skip
def test_arrays_that_are_not_made_and_why(
    settings: dict[str, Any], drives: dict[str, list[str]], arrays: dict[str, list[str]], words: str
) -> None:
    said = refused(storage_host({"device": "raid0", **settings}, drives=drives, arrays=arrays))
    assert words in said


@pytest.mark.parametrize(
    ("listed", "words"),
    [
        (nvme_list("nvme0n1", "nvme1n1", sizes={"nvme1n1": 1_920_000_000_000}), "M, 1.92 TB"),
        (nvme_list("nvme0n1", "nvme1n1", models={"nvme1n1": "N"}), "(serial S-nvme1n1): N, 3.84 TB"),
    ],
)
def test_drives_of_an_array_must_be_alike(listed: str, words: str) -> None:
    said = refused(storage_host({"device": "raid0"}, drives=TWO, listed=listed))
    assert "the drives of an array must be alike" in said
    assert words in said


def test_the_rest_of_a_broken_array_goes_when_it_is_named() -> None:
    drives = {"nvme0n1": MEMBER, "nvme1n1": EMPTY}
    node = storage_host({"device": "raid0", "erase": ["S-nvme0n1"]}, drives=drives)
    told = [c.partition(" (")[0] for c in changes(role.format_drive(node), node)]
    assert told == [
        "ERASE /dev/nvme0n1: linux_raid_member 'node:metalserve'",
        "join /dev/nvme0n1, /dev/nvme1n1 into a RAID0, chunk 512 KiB",
        "make xfs on /dev/md/metalserve",
    ]
    both = {"nvme0n1": HELD, "nvme1n1": HELD}
    named = {"device": "raid0", "erase": ["S-nvme0n1", "S-nvme1n1"]}
    whole = storage_host(named, drives=both, arrays=ARRAY_BLANK)
    assert not any("ERASE" in c for c in changes(role.format_drive(whole), whole))


def test_the_single_drive_of_before_becomes_a_member_when_it_is_named() -> None:
    drives = {"nvme0n1": OURS, "nvme1n1": EMPTY}
    node = storage_host({"device": "raid0", "erase": ["S-nvme0n1"]}, drives=drives)
    told = [c.partition(" ")[0] for c in changes(role.format_drive(node), node)]
    assert told == ["ERASE", "join", "make"]
    used = storage_host(
        {"device": "raid0", "erase": ["S-nvme0n1"]}, drives={**drives, "nvme0n1": [*OURS, "mounted=/srv/models"]}
    )
    assert "the models lie on a drive of its own already" in refused(used)


def test_members_are_judged_only_when_mdadm_is_there() -> None:
    unread = [line for line in MEMBER if not line.startswith("MD_")]
    node = storage_host({"device": "raid0"}, drives={"nvme0n1": unread, "nvme1n1": unread})
    with pytest.raises(NotYetKnown, match="only after mdadm"):
        role.format_drive(node)


WHATEVER = [EMPTY, OURS, MEMBER, HELD, EXT4, *([*lines, "blkid=0", "zero=0"] for lines in IN_USE.values())]


@given(
    st.lists(st.sampled_from(WHATEVER), max_size=4),
    st.sampled_from(["auto", "serial:S-0", "raid0", "raid0:S-0,S-1", "raid0:S-1,S-3"]),
    st.sets(st.sampled_from(["S-0", "S-1", "S-2"])),
    st.booleans(),
)
def test_nothing_is_written_to_what_is_neither_empty_nor_named(
    drives: list[list[str]], device: str, erase: set[str], assembled: bool
) -> None:
    names = {f"nvme{i}n1": lines for i, lines in enumerate(drives)}
    arrays = {"md127": [*(f"member=/dev/{n}" for n, lines in names.items() if lines is HELD), *OURS]}
    text = probe(names, arrays if assembled else None)
    listed = [NvmeDrive(f"/dev/{name}", model="M", serial=f"S-{i}", size_bytes=10**12) for i, name in enumerate(names)]
    try:
        volume = choose(
            parse_drives(text, listed), parse_arrays(text), StorageSettings(device=device, erase=sorted(erase))
        )
    except MetalserveError:
        return
    for drive in volume.drives:
        assert drive.empty or drive.ours or drive.ours_in_array or drive.serial in erase
    for drive in volume.erase:
        assert drive.serial in erase
        assert not drive.in_use
    if volume.array or volume.ours:
        assert not volume.erase


def test_free_space_is_told_for_an_array_too() -> None:
    drives = {"nvme0n1": HELD, "nvme1n1": HELD}
    arrays = {"md127": ["member=/dev/nvme0n1", "member=/dev/nvme1n1", *OURS, "mounted=/srv/models"]}
    node = storage_host(
        {"device": "raid0"}, drives=drives, arrays=arrays,
        sections={"storage-mount": findmnt(), "storage-space": DF.format(2**39) + "writable\n"},
    )  # fmt: skip
    told = {f.check: f.status for f in role.check(node)}
    assert (told["mounted"], told["writable"], told["free space"]) == ("ok", "ok", "ok")
