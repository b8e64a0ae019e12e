"""Role storage: which drive is taken, and that nothing which holds anything ever is."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metalserve.desired.model import Action, Desired, NotYetKnown
from metalserve.desired.node import Node
from metalserve.errors import MetalserveError
from metalserve.hardware.node import NvmeDrive
from metalserve.hardware.section import Section
from metalserve.settings import StorageSettings
from roles.storage import desired as role
from roles.storage.choice import choose
from roles.storage.drives import Drive, parse_drives
from tests.roles.helpers import after, changes, make_node
from tests.roles.storage_hosts import DF, EMPTY, OURS, UUID, findmnt, nvme_list, probe


def host(storage: dict[str, Any] | None = None, mount: str = "", df: str = "", **drives: list[str]) -> Node:
    return make_node(
        settings={"storage": storage or {}},
        sections={
            "nvme-list": nvme_list(*drives),
            "storage-drives": probe(drives),
            "storage-mount": mount or findmnt("/", "ext4"),
            "storage-space": df,
        },
    )


def test_one_empty_drive_is_formatted_once_and_mounted_by_uuid() -> None:
    node = host(nvme0n1=EMPTY)
    assert changes(role.format_drive(node), node) == ["make xfs on /dev/nvme0n1 (serial S-nvme0n1, empty)"]
    with pytest.raises(NotYetKnown, match="after /dev/nvme0n1 has its file system"):
        role.mount(node)
    formatted = after(node, role.format_drive(node), sections={"storage-drives": probe({"nvme0n1": OURS})})
    assert changes(role.format_drive(node), formatted) == []  # the action of before sees that it is done
    assert role.format_drive(formatted) == Desired()
    wish = role.mount(formatted)
    assert f"What=/dev/disk/by-uuid/{UUID}\n" in (wish.files[0].content or "")
    assert "Where=/srv/models\n" in (wish.files[0].content or "")
    assert changes(wish, formatted) == [
        "file /etc/systemd/system/srv-models.mount: absent -> written",
        "file /etc/udev/rules.d/66-metalserve-storage.rules: absent -> written",
        "unit srv-models.mount: absent -> enable, start",
    ]
    mounted = after(
        formatted,
        wish,
        sections={
            "storage-drives": probe({"nvme0n1": [*OURS, "mounted=/srv/models"]}),
            "storage-mount": findmnt(),
            "storage-space": DF.format(900_000_000_000) + "writable\n",
        },
    )
    assert [changes(stage(mounted), mounted) for stage in (role.format_drive, role.mount)] == [[], []]
    told = {f.check: f.status for f in role.check(mounted)}
    # Nothing was told of its link and health: not proved, and no fault.
    assert told == {
        "mounted": "ok", "writable": "ok", "free space": "ok", "models-link": "inconclusive",
        "models-drive": "inconclusive", "read-ahead": "inconclusive",
    }  # fmt: skip
    assert role.in_words(mounted) == "/srv/models (xfs), 838.2 of 931.3 GiB free, on /dev/nvme0n1"


def test_the_script_never_forces_mkfs_and_asks_again() -> None:
    node = host(nvme0n1=EMPTY)
    action = role.format_drive(node).actions[0]
    assert isinstance(action, Action)
    assert "mkfs.xfs -q -L metalserve /dev/nvme0n1 </dev/null" in action.script
    made = action.script[action.script.index("ms_drive /dev") :]
    assert made.splitlines()[:2] == ["ms_drive /dev/nvme0n1 S-nvme0n1", "ms_empty /dev/nvme0n1"]
    assert " -f" not in made
    assert "--force" not in made


HOLDING = {
    "a file system": (["TYPE=ext4", "LABEL=data", "blkid=0", "zero=0"], "ext4 'data'"),
    "a partition table": (["PTTYPE=gpt", "blkid=0", "zero=0"], "partition table (gpt)"),
    "partitions": (["partition=/dev/nvme0n1p1", "partition=/dev/nvme0n1p2", "blkid=2", "zero=1"], "2 partition(s)"),
    "a RAID member": (["TYPE=linux_raid_member", "holder=md0", "blkid=0", "zero=0"], "used by md0"),
    "the root file system": (["TYPE=ext4", "mounted=/", "blkid=0", "zero=0"], "mounted on /"),
    "data without signature": (["blkid=2", "zero=0"], "data without a signature"),
    "several signatures": (["blkid=8", "zero=0"], "cannot be told"),
    "something unreadable": (["blkid=127", "zero=0"], "cannot be told"),
    "our label on another file system": (["LABEL=metalserve", "TYPE=btrfs", "blkid=0", "zero=0"], "btrfs"),
    "nothing that was told": ([], "cannot be told"),
}


@pytest.mark.parametrize("device", ["auto", "serial:S-nvme0n1"])
@pytest.mark.parametrize("holding", HOLDING)
def test_a_drive_that_holds_anything_is_refused_by_name(holding: str, device: str) -> None:
    lines, words = HOLDING[holding]
    node = host({"device": device}, nvme0n1=lines)
    with pytest.raises(MetalserveError) as refused:
        role.format_drive(node)
    assert words in refused.value.what
    assert "S-nvme0n1" in refused.value.what


@given(
    st.lists(
        st.tuples(st.sampled_from([EMPTY, OURS, *(lines for lines, _ in HOLDING.values())]), st.booleans()), max_size=5
    ),
    st.sampled_from(["auto", "serial:S-0", "serial:S-3", "serial:none"]),
)
def test_whatever_there_is_only_an_empty_drive_or_ours_is_chosen(
    drives: list[tuple[list[str], bool]], device: str
) -> None:
    text = "".join(f"drive=/dev/nvme{i}n1\n" + "\n".join(lines) + "\n" for i, (lines, _) in enumerate(drives))
    listed = [NvmeDrive(f"/dev/nvme{i}n1", serial=f"S-{i}") for i, (_, known) in enumerate(drives) if known]
    found = parse_drives(text, listed)
    assert len(found) == len(drives)
    try:
        (chosen,) = choose(found, (), StorageSettings(device=device)).drives
    except MetalserveError:
        return
    assert chosen.empty or chosen.ours
    if device == "auto":
        assert sum(d.ours for d in found) == 1 or (not any(d.ours for d in found) and sum(d.empty for d in found) == 1)
    else:
        assert chosen.serial == device.removeprefix("serial:")


def test_several_empty_drives_are_named_and_one_is_to_be_chosen() -> None:
    node = host(nvme0n1=EMPTY, nvme1n1=EMPTY)
    with pytest.raises(MetalserveError) as refused:
        role.format_drive(node)
    assert "several NVMe drives are empty: /dev/nvme0n1 (serial S-nvme0n1, 3.84 TB): empty; /dev/nvme1n1" in str(
        refused.value
    )
    assert "storage.device 'serial:S-nvme0n1'" in str(refused.value)
    chosen = host({"device": "serial:S-nvme1n1"}, nvme0n1=EMPTY, nvme1n1=EMPTY)
    assert "make xfs on /dev/nvme1n1" in changes(role.format_drive(chosen), chosen)[0]


def test_our_drive_is_found_again_beside_an_empty_one() -> None:
    node = host(nvme0n1=EMPTY, nvme1n1=OURS)
    assert role.chosen(node).device == "/dev/nvme1n1"
    assert role.format_drive(node) == Desired()


@pytest.mark.parametrize(
    ("storage", "lines", "words"),
    [
        ({"filesystem": "ext4"}, OURS, "has xfs, but storage.filesystem is ext4"),
        ({}, [*OURS, "mounted=/data"], "is mounted on /data, not on /srv/models"),
    ],
)
def test_our_drive_in_another_shape(storage: dict[str, Any], lines: list[str], words: str) -> None:
    with pytest.raises(MetalserveError, match=words):
        role.mount(host(storage, nvme0n1=lines))


def test_something_else_is_mounted_there() -> None:
    with pytest.raises(MetalserveError, match="already a mount of /dev/nvme0n1"):
        role.mount(host(mount=findmnt(), nvme0n1=EMPTY, nvme1n1=OURS))


def test_no_drive_and_no_tools() -> None:
    with pytest.raises(MetalserveError, match="no NVMe drive"):
        role.format_drive(host())
    node = make_node(sections={"nvme-list": Section("sh: nvme: not found", 127)})
    with pytest.raises(NotYetKnown, match="after nvme-cli"):
        role.format_drive(node)
    node = make_node(sections={"nvme-list": Section("something that is no list", 1)})
    with pytest.raises(MetalserveError, match="cannot be listed, so none is touched"):
        role.format_drive(node)


def test_an_existing_file_system_only_gets_its_directory() -> None:
    node = host({"device": "none"}, nvme0n1=EMPTY)
    assert role.install(node) == Desired() == role.format_drive(node)
    assert changes(role.mount(node), node) == ["directory /srv/models: absent -> created"]
    done = after(node, role.mount(node), sections={"storage-space": DF.format(5) + "writable\n"})
    assert changes(role.mount(done), done) == []
    assert [f.check for f in role.check(done)] == ["writable", "free space"]


@pytest.mark.parametrize(
    ("mount", "df", "failing"),
    [
        (findmnt("/", "ext4"), DF.format(2**40) + "writable", "mounted"),
        (findmnt(), DF.format(2**40), "writable"),
        (findmnt(), DF.format(2**30) + "writable", "free space"),
        (findmnt(), "df: /srv/models: Input/output error", "free space"),
    ],
)
def test_the_proof_sees_what_is_wrong(mount: str, df: str, failing: str) -> None:
    node = host({"min_free_gib": 100.0}, mount=mount, df=df, nvme0n1=OURS)
    assert failing in [f.check for f in role.check(node) if f.failing]


def test_a_file_system_that_is_nearly_full_is_a_warning() -> None:
    for free, status in ((9 * 10**9, "warn"), (11 * 10**9, "ok")):
        node = host(mount=findmnt(), df=DF.format(free) + "writable", nvme0n1=OURS)
        space = next(f for f in role.check(node) if f.check == "free space")
        assert space.status == status
        assert space.observed.endswith("of 931.3 GiB free")


@pytest.mark.parametrize("path", ["/srv/models", "/srv/my-models", "/data/a.b_c", "/srv/modèles", "/x/y:z@1"])
def test_the_units_name_is_systemds(path: str) -> None:
    if shutil.which("systemd-escape") is None:
        pytest.skip("needs systemd-escape")
    told = subprocess.run(["systemd-escape", "--path", "--suffix=mount", path], capture_output=True, text=True)
    assert role.unit_name(path) == told.stdout.strip()


def test_a_drive_in_words() -> None:
    drive = Drive("/dev/nvme0n1", serial="X1", size_bytes=3_840_000_000_000)
    assert str(drive) == "/dev/nvme0n1 (serial X1, 3.84 TB): empty"
    assert str(replace(drive, serial=None, size_bytes=None, holds="ext4")) == "/dev/nvme0n1 (serial unknown): ext4"
