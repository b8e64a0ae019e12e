"""Role storage: its scripts on real loop devices. The array is not: mdadm needs a kernel with md, so a stand-in notes
what it was called with, and hands out a loop device as the array."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from roles.storage.choice import Volume
from roles.storage.drives import Drive
from roles.storage.scripts import assemble, create_array, erase, make_filesystem

SIZE = 2 * 1024**3 + 8 * 4096
"""A sparse file, no whole number of MiB; a striped XFS of less cannot have its log."""

Attach = Callable[[], str]
Run = Callable[..., "subprocess.CompletedProcess[str]"]

PRELUDE = 'set -eu\nms_fail() { printf "%s\\n" "$1" >&2; exit 1; }\n'
NEEDED = ("losetup", "mkfs.xfs", "mkfs.ext4", "blkid", "wipefs", "blkdiscard")

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or any(shutil.which(tool) is None for tool in NEEDED), reason="needs root and loop devices"
)


@pytest.fixture
def loops(tmp_path: Path) -> Iterator[Callable[[], str]]:
    attached: list[str] = []

    def attach() -> str:
        image = tmp_path / f"{len(attached)}.img"
        with image.open("wb") as stream:
            stream.truncate(SIZE)
        told = subprocess.run(["losetup", "--find", "--show", image], capture_output=True, text=True)
        if told.returncode:
            pytest.skip(f"no loop device: {told.stderr.strip()}")
        attached.append(told.stdout.strip())
        return attached[-1]

    yield attach
    for loop in attached:
        subprocess.run(["losetup", "--detach", loop], check=True)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    tools = tmp_path / "bin"
    tools.mkdir()
    # Serial numbers as nvme-cli prints them; mdadm notes its words.
    _tool(tools / "nvme", 'printf "sn        : S-%s   \\n" "${2##*/}"')
    _tool(tools / "mdadm", f'printf "%s\\n" "$*" >>{tmp_path}/mdadm; [ "$1" != --create ] || cat >>{tmp_path}/asked')

    def execute(script: str) -> subprocess.CompletedProcess[str]:
        script = script.replace("/dev/md/metalserve", str(tmp_path / "array"))
        path = f"{tools}:{os.environ['PATH']}"
        return subprocess.run(
            ["sh", "-c", PRELUDE + script], capture_output=True, text=True, env={**os.environ, "PATH": path}
        )

    return execute


def _tool(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def drive(device: str, **more: str) -> Drive:
    return Drive(device, serial=more.get("serial", f"S-{device.rpartition('/')[2]}"), size_bytes=SIZE)


def holds(device: str) -> dict[str, str]:
    told = subprocess.run(["blkid", "-p", "-o", "export", device], capture_output=True, text=True)
    return dict(line.split("=", 1) for line in told.stdout.splitlines() if "=" in line)


def test_an_erased_drive_is_empty_and_takes_a_file_system(loops: Attach, run: Run) -> None:
    device = loops()
    partitioned = bytearray(512)
    partitioned[446:462] = (
        bytes([0, 0, 2, 0, 0x83, 0, 2, 0]) + (2048).to_bytes(4, "little") + (99).to_bytes(4, "little")
    )
    partitioned[510:] = b"\x55\xaa"
    Path(device).write_bytes(partitioned)
    with Path(device).open("r+b") as stream:  # as far as a drive that is no whole number of MiB goes
        stream.seek(SIZE - 4096)
        stream.write(b"old data")
    assert holds(device)["PTTYPE"] == "dos"
    done = run(erase(drive(device)))
    assert done.returncode == 0, done.stderr
    assert holds(device) == {}
    with Path(device).open("rb") as stream:
        stream.seek(SIZE - 4096)
        assert stream.read(8) == bytes(8)
    single = Volume((drive(device),), device)
    done = run(make_filesystem(single, "xfs").replace("sleep 1", ":"))
    assert done.returncode == 0, done.stderr
    assert (holds(device)["TYPE"], holds(device)["LABEL"]) == ("xfs", "metalserve")
    again = run(make_filesystem(single, "xfs"))
    assert again.returncode == 1
    assert "is no longer empty (blkid: 0)" in again.stderr


def test_another_serial_number_or_a_mount_stops_it_on_the_spot(loops: Attach, run: Run, tmp_path: Path) -> None:
    device = loops()
    subprocess.run(["mkfs.ext4", "-q", "-L", "data", device], check=True)
    other = run(erase(drive(device, serial="ANOTHER")))
    assert other.returncode == 1
    assert "not ANOTHER -> run again" in other.stderr
    at = tmp_path / "mounted"
    at.mkdir()
    mounted = subprocess.run(["mount", device, at], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount: {mounted.stderr.strip()}")
    try:
        used = run(erase(drive(device)))
    finally:
        subprocess.run(["umount", at], check=True)
    assert used.returncode == 1
    assert f"is mounted on {at} -> umount it first; nothing was changed" in used.stderr
    assert holds(device)["LABEL"] == "data"


def test_an_array_is_made_of_empty_drives_and_mdadm_is_not_forced(loops: Attach, run: Run, tmp_path: Path) -> None:
    first, second = loops(), loops()
    done = run(create_array([drive(first), drive(second)]))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "mdadm").read_text() == (
        f"--create {tmp_path}/array --metadata=1.2 --level=0 --chunk=512 --raid-devices=2 --name=metalserve "
        f"{first} {second}\n"
    )
    assert (tmp_path / "asked").read_text() == ""  # a question of mdadm finds no answer, which is a no
    subprocess.run(["mkfs.ext4", "-q", second], check=True)
    held = run(create_array([drive(first), drive(second)]))
    assert held.returncode == 1
    assert f"{second} is no longer empty" in held.stderr
    assert (tmp_path / "mdadm").read_text().count("--create") == 1


@pytest.mark.parametrize(("filesystem", "layout"), [("xfs", "sunit=128    swidth=256 blks"), ("ext4", "RAID stride")])
def test_a_started_array_gets_the_file_system_that_was_left_out(
    filesystem: str,
    layout: str,
    loops: Attach,
    run: Run,
    tmp_path: Path,
) -> None:
    device = loops()
    (tmp_path / "array").symlink_to(device)
    volume = Volume((drive("/dev/a"), drive("/dev/b")), device, raid=True, array="1:2:3:4")
    script = assemble(volume, filesystem).replace("sleep 1", ":")
    done = run(script)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "mdadm").read_text() == f"--assemble {tmp_path}/array --uuid=1:2:3:4 /dev/a /dev/b\n"
    assert holds(device)["TYPE"] == filesystem
    look = ["xfs_info", device] if filesystem == "xfs" else ["dumpe2fs", "-h", device]
    told = subprocess.run(look, capture_output=True, text=True).stdout
    assert layout in told, told
    uuid = holds(device)["UUID"]
    assert run(script).returncode == 0
    assert holds(device)["UUID"] == uuid  # a second start leaves what is there
