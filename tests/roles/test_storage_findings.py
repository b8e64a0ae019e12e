"""Role storage: what is said of link, health, place, read-ahead and /etc/fstab."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from metalserve.desired.node import Node
from metalserve.errors import MetalserveError
from metalserve.verify.finding import Finding
from roles.storage import desired as role
from roles.storage import fstab
from tests.roles.helpers import after, changes
from tests.roles.storage_hosts import EXT4, OURS, UUID, findmnt, links, smart, storage_host, tree

BUS = "0000:41:00.0"
MOUNTED = {"nvme0n1": [*OURS, "mounted=/srv/models"]}


def host(sections: dict[str, str], storage: dict[str, Any] | None = None, facts: dict[str, str] | None = None) -> Node:
    return storage_host(storage, drives=MOUNTED, facts=facts, sections={"storage-mount": findmnt(), **sections})


def said(node: Node, check: str) -> Finding:
    return next(f for f in role.check(node) if f.check == check)


@pytest.mark.parametrize(
    ("now", "own", "port", "status", "words"),
    [
        ((5, 4), (5, 4), (5, 4), "ok", "Gen5 x4"),
        ((4, 4), (4, 4), (5, 4), "ok", "Gen4 x4, the most that the drive can do; not Gen5 x4"),
        ((4, 4), (5, 4), (4, 4), "ok", "all that its port can do, the drive itself can do Gen5 x4; not Gen5 x4"),
        ((3, 4), (4, 4), (5, 4), "warn", "Gen3 x4, though drive and port can do Gen4 x4"),
        ((4, 1), (4, 4), (4, 4), "warn", "Gen4 x1, though drive and port can do Gen4 x4"),
        ((4, 2), (4, 4), (4, 2), "ok", "Gen4 x2: all that its port can do, the drive itself can do Gen4 x4"),
    ],
)
def test_the_link_and_what_limits_it(
    now: tuple[int, int], own: tuple[int, int], port: tuple[int, int], status: str, words: str
) -> None:
    sections = {**links((BUS, *now, *own)), "pcie-tree": tree((BUS, *now, own[0], *port, 0))}
    found = said(host(sections), "models-link")
    assert (found.status, words in found.observed) == (status, True), found.observed
    assert f"port at most Gen{port[0]} x{port[1]}" in found.evidence


def test_a_narrow_link_above_the_drives_port_is_what_limits_it() -> None:
    root, up, down = "0000:40:01.0", "0000:50:00.0", "0000:51:00.0"
    lines = [f"/sys/devices/pci0000:40/{root}/{up}/{down}/{BUS}"]
    for bus, code, width, width_max in (
        (root, "0x060400", 1, 16), (up, "0x060400", 1, 16), (down, "0x060400", 4, 4), (BUS, "0x010802", 4, 4),
    ):  # fmt: skip
        lines += [f"{bus}/class:{code}", f"{bus}/current_link_speed:32.0 GT/s PCIe", f"{bus}/numa_node:0",
                  f"{bus}/max_link_speed:32.0 GT/s PCIe", f"{bus}/current_link_width:{width}",
                  f"{bus}/max_link_width:{width_max}"]  # fmt: skip
    found = said(host({**links((BUS, 5, 4, 5, 4)), "pcie-tree": "\n".join(lines)}), "models-link")
    assert found.status == "warn"
    assert "held back by the link above it: 0000:40:01.0 to 0000:50:00.0: Gen5 x1" in found.observed
    assert "3.9 GB/s at most" in found.impact


@pytest.mark.parametrize(
    ("log", "status", "words"),
    [
        ({}, "ok", "1 % of its endurance used, 100 % spare, 37 C"),
        ({"percent_used": 104}, "warn", "104 % of its endurance is used"),
        ({"avail_spare": 5}, "warn", "5 % spare blocks left, the drive warns below 10 %"),
        ({"media_errors": 3}, "warn", "3 media error(s)"),
        ({"temperature": 273 + 74}, "warn", "74 C: it slows itself down"),
        ({"critical_warning": 8}, "fail", "the drive is read-only"),
        ({"percent_used": None}, "inconclusive", "could not be read"),
    ],
)
def test_health(log: dict[str, Any], status: str, words: str) -> None:
    found = said(host({"drive-health": smart(nvme0=log)}), "models-drive")
    assert (found.status, words in found.observed) == (status, True), found.observed


@pytest.mark.parametrize(
    ("gpus", "status", "words"),
    [
        ((0, 0), None, ""),  # one node: nothing crosses a socket
        ((1, 1), "warn", "/dev/nvme0n1 on 0; 0 of 2 GPUs are on the same node, GPUs are on 1"),
        ((0, 1), "ok", "1 of 2 GPUs are on the same node"),
    ],
)
def test_the_drives_place_against_that_of_the_gpus(gpus: tuple[int, ...], status: str | None, words: str) -> None:
    sections = {**links((BUS, 5, 4, 5, 4)), "pcie-tree": tree((BUS, 5, 4, 5, 5, 4, 0), gpus=gpus)}
    found = [f for f in role.check(host(sections)) if f.check == "models-numa"]
    assert [f.status for f in found] == ([status] if status else [])
    assert all(words in f.observed for f in found)


def test_read_ahead_now_and_after_a_boot() -> None:
    node = host({"storage-queue": "nvme0n1\t128\t[none] mq-deadline\n"})
    assert said(node, "read-ahead").status == "warn"
    wish = role.mount(node)
    told = changes(wish, node)
    assert "read ahead 4096 KiB on nvme0n1, no scheduler (now 128 KiB)" in told
    action = next(a for a in wish.actions if a.name.startswith("read ahead"))
    assert action.script == "echo 4096 >/sys/class/block/nvme0n1/queue/read_ahead_kb\n"
    done = after(node, wish, sections={"storage-queue": "nvme0n1\t4096\t[none] mq-deadline\n"})
    assert changes(role.mount(done), done) == []
    assert said(done, "read-ahead").status == "ok"
    scheduled = host({"storage-queue": "nvme0n1\t4096\tnone [mq-deadline]\n"})
    (action,) = role.mount(scheduled).actions
    assert "echo none >/sys/class/block/nvme0n1/queue/scheduler" in action.script
    assert not action.done(scheduled.observed)
    assert action.done(done.observed)


def test_a_container_writes_the_rules_and_leaves_the_machines_kernel_alone() -> None:
    node = host({"storage-queue": "nvme0n1\t128\t[mq-deadline]\n"}, facts={"proc_sys_rw": "0"})
    assert role.mount(node).actions == ()
    assert not [f for f in role.check(node) if f.check == "read-ahead"]


FSTAB = {
    "the same by UUID": (f"UUID={UUID}\t/srv/models\txfs\n", True),
    "the same by label": ("LABEL=metalserve\t/srv/models/\txfs\n", True),
    "another one": ("UUID=other\t/srv/models\text4\n", False),
    "another target": ("UUID=other\t/srv\text4\n", None),
    "none": ("", None),
}


@pytest.mark.parametrize("case", FSTAB)
def test_an_entry_of_fstab_is_taken_over_or_refused(case: str) -> None:
    text, taken = FSTAB[case]
    node = host({"storage-fstab": text})
    if taken is False:
        with pytest.raises(MetalserveError, match=r"/etc/fstab: mounts UUID=other on /srv/models"):
            role.mount(node)
        return
    told = [c for c in changes(role.mount(node), node) if "fstab" in c]
    assert len(told) == (1 if taken else 0)
    gone = after(node, role.mount(node), sections={"storage-fstab": ""})
    assert not [c for c in changes(role.mount(gone), gone) if "fstab" in c]


def test_an_entry_in_the_way_is_refused_before_a_drive_is_erased() -> None:
    node = storage_host(
        {"erase": ["S-nvme0n1"]}, drives={"nvme0n1": EXT4}, sections={"storage-fstab": "UUID=old\t/srv/models\text4\n"}
    )
    with pytest.raises(MetalserveError, match=r"/etc/fstab: mounts UUID=old on /srv/models"):
        role.format_drive(node)


def test_the_script_turns_off_that_line_and_no_other(tmp_path: Path) -> None:
    file = tmp_path / "fstab"
    file.write_text("# old\nUUID=a / ext4 defaults 0 1\nUUID=b /srv/models/ xfs noatime 0 2\nUUID=c /srv/models2 xfs\n")
    node = host({"storage-fstab": f"UUID={UUID}\t/srv/models\txfs\n"})
    (action,) = (a for a in role.mount(node).actions if "fstab" in a.name)
    script = action.script.replace("/etc/fstab", str(file)).replace("/etc/.fstab", f"{tmp_path}/.fstab")
    subprocess.run(["sh", "-eu", "-c", script], check=True)
    assert file.read_text().splitlines() == [
        "# old",
        "UUID=a / ext4 defaults 0 1",
        "# metalserve mounts it by a unit: UUID=b /srv/models/ xfs noatime 0 2",
        "UUID=c /srv/models2 xfs",
    ]
    listed = subprocess.run(
        ["sh", "-c", fstab.COMMAND.replace("/etc/fstab", str(file))], capture_output=True, text=True, check=True
    )
    assert listed.stdout == "UUID=a\t/\text4\nUUID=c\t/srv/models2\txfs\n"
