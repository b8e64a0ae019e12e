from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest

from metalserve.errors import MetalserveError
from metalserve.templates.clean import settle_times
from metalserve.templates.kernels import kernel_release
from metalserve.templates.machine import describe
from metalserve.templates.pack import (
    QCOW2,
    RAW,
    ROOT_TAR,
    UKI,
    Identity,
    Packer,
    command_line,
    disk_mib,
    fstab,
    partition_script,
)
from metalserve.templates.spec import TemplateSpec, load_spec
from metalserve.templates.toolroot import ToolRoot, recipe_path
from metalserve.trees.system import read_json
from tests.templates.trees import IDENTITY, KERNEL, small_tree

EPOCH = 1_795_486_335


@pytest.fixture
def tools() -> ToolRoot:
    """The tool root, where one has been made: making it takes a minute and a mirror."""
    path = recipe_path()
    packages = read_json(path.with_name(path.name + ".json"))
    if os.geteuid() != 0 or not path.is_dir() or packages is None:
        pytest.skip("needs root, and a tool root that `metalserve template build` has made")
    return ToolRoot(path, packages)


def small_spec(root_mib: int = 512, chain: str = "uki") -> TemplateSpec:
    value = load_spec("debian-13-base").model_dump(mode="json")
    disk = {"esp_mib": 64, "root_mib": root_mib}
    return TemplateSpec.model_validate({**value, "disk": disk, "boot": {"chain": chain}})


def packed(place: Path, tools: ToolRoot, spec: TemplateSpec) -> Packer:
    place.mkdir()
    root = small_tree(place / "root")
    (root / "etc/link").symlink_to("/outside")
    (root / "etc/shadow").chmod(0o640)
    os.chown(root / "etc/shadow", 0, 42)
    packer = Packer(spec, IDENTITY, EPOCH, tools, place)
    settle_times(root, EPOCH)
    if spec.chain == "uki":
        (place / UKI).write_bytes(b"unified kernel image" * 1000)
        os.utime(place / UKI, (EPOCH, EPOCH))
    packer.disk()
    return packer


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_disk_has_its_partitions_its_loader_and_the_tree_and_is_the_same_twice(
    tmp_path: Path, tools: ToolRoot
) -> None:
    spec = small_spec()
    packer, again = packed(tmp_path / "a", tools, spec), packed(tmp_path / "b", tools, spec)
    raw = packer.place / RAW
    assert raw.stat().st_size == disk_mib(spec) << 20
    assert raw.stat().st_blocks * 512 < 64 << 20, "a hole stays a hole"
    table = json.loads(packer.run("sfdisk", "--json", RAW))["partitiontable"]
    assert table["label"] == "gpt"
    assert table["id"].lower() == IDENTITY.disk
    assert [part["name"] for part in table["partitions"]] == ["ESP", "root"]
    assert [part["uuid"].lower() for part in table["partitions"]] == [IDENTITY.esp, IDENTITY.root]
    start = table["partitions"][1]["start"] * 512
    with raw.open("rb") as stream:
        stream.seek((1 << 20) + 0x43)  # FAT32's volume id, little-endian
        assert stream.read(4)[::-1].hex() == IDENTITY.volume, "fstab names this one"
        stream.seek(start)
        (packer.place / "root.ext4").write_bytes(stream.read(spec.disk.root_mib << 20))
    assert IDENTITY.file_system in packer.run("dumpe2fs", "-h", "root.ext4")
    assert packer.run("debugfs", "-R", "cat /etc/fstab", "root.ext4") == fstab(IDENTITY)
    shown = packer.run("debugfs", "-R", "stat /etc/shadow", "root.ext4")
    assert "Mode:  0640" in shown, shown
    assert "Group:    42" in shown, shown
    assert packer.run("mdir", "-b", "-i", f"{RAW}@@1M", "::EFI/BOOT").strip() == "::/EFI/BOOT/BOOTX64.EFI"

    whole = packer.compress()
    assert whole.sha256 == sha256(raw)
    packer.qcow2()
    packer.tar()
    again.compress()
    again.qcow2()
    again.tar()
    for name in (RAW, "disk.raw.zst", QCOW2, ROOT_TAR):
        assert sha256(packer.place / name) == sha256(again.place / name), name
    listed = subprocess.run(
        ["tar", "--zstd", "-tvf", packer.place / ROOT_TAR], capture_output=True, text=True, check=True
    ).stdout
    assert "etc/link -> /outside" in listed
    assert "-rw-r----- 0/42" in listed


def test_the_distribution_s_chain_lies_where_grub_install_puts_it_and_is_the_same_twice(
    tmp_path: Path, tools: ToolRoot
) -> None:
    spec = small_spec(chain="distribution")
    packer, again = packed(tmp_path / "a", tools, spec), packed(tmp_path / "b", tools, spec)
    partition = f"{RAW}@@1M"
    found = packer.run("mdir", "-b", "-/", "-i", partition, "::").split()
    assert sorted(name for name in found if not name.endswith("/")) == [
        "::/EFI/BOOT/BOOTX64.EFI",
        "::/EFI/BOOT/grubx64.efi",
        "::/EFI/BOOT/mmx64.efi",
        "::/EFI/debian/BOOTX64.CSV",
        "::/EFI/debian/fbx64.efi",
        "::/EFI/debian/grub.cfg",
        "::/EFI/debian/grubx64.efi",
        "::/EFI/debian/mmx64.efi",
        "::/EFI/debian/shimx64.efi",
    ]
    shown = packer.run("mtype", "-i", partition, "::EFI/debian/grub.cfg")
    assert shown.startswith(f"search.fs_uuid {IDENTITY.file_system} root\n")
    assert "shimx64.efi.signed" in packer.run("mtype", "-i", partition, "::EFI/BOOT/BOOTX64.EFI")
    assert not (packer.place / UKI).exists()
    assert sha256(packer.place / RAW) == sha256(again.place / RAW)


def test_a_tree_that_does_not_fit_says_which_setting_to_raise(tmp_path: Path, tools: ToolRoot) -> None:
    place = tmp_path / "a"
    place.mkdir()
    root = small_tree(place / "root")
    for number in range(330):  # the file system has 32768 inodes: full without a single byte written
        (root / f"var/{number}").mkdir()
        for each in range(100):
            os.mknod(root / f"var/{number}/{each}")
    (place / UKI).write_bytes(b"x")
    with pytest.raises(MetalserveError, match=r"raise disk\.root_mib"):
        Packer(small_spec(), IDENTITY, EPOCH, tools, place).disk()


def test_a_kernel_image_that_does_not_fit_says_which_setting_to_raise(tmp_path: Path) -> None:
    small_tree(tmp_path / "root")
    with (tmp_path / UKI).open("wb") as stream:
        stream.truncate(70 << 20)
    with pytest.raises(MetalserveError, match=r"raise disk\.esp_mib"):
        Packer(small_spec(), IDENTITY, EPOCH, ToolRoot(Path("/nonexistent"), {}), tmp_path).disk()


def test_what_a_disk_is_called_follows_from_its_inputs() -> None:
    one, two = Identity.of("a" * 64), Identity.of("b" * 64)
    assert one == Identity.of("a" * 64)
    assert len({*vars(one).values(), *vars(two).values()}) == 12
    assert f"UUID={one.file_system} / ext4" in fstab(one)
    esp = next(line.split() for line in fstab(one).splitlines() if line.startswith(f"UUID={one.volume_id} "))
    assert esp[1:3] == ["/boot/efi", "vfat"]
    # nothing waits for it, and a machine that is slow to find it has it mounted all the same
    assert {"nofail", "x-systemd.device-timeout=600"} <= set(esp[3].split(","))
    assert len(one.volume_id) == 9
    spec = load_spec("debian-13-base")
    assert command_line(spec, one).startswith(f"root=UUID={one.file_system} ro console=")
    script = partition_script(spec, one)
    assert script.index("name=ESP") < script.index("name=root"), "the root is the last one, so that it can grow"


def test_the_newest_kernel_is_the_images(tmp_path: Path) -> None:
    (tmp_path / "boot").mkdir()
    with pytest.raises(MetalserveError, match="no kernel"):
        kernel_release(tmp_path)
    for name in ("6.1.0-9-amd64", "6.1.0-51-amd64", "6.1.0-50-amd64"):
        (tmp_path / f"boot/vmlinuz-{name}").touch()
    assert kernel_release(tmp_path) == "6.1.0-51-amd64"
    (tmp_path / f"boot/vmlinuz-{KERNEL}").touch()
    assert kernel_release(tmp_path) == KERNEL


def test_an_image_says_what_it_is_and_not_when_it_was_built() -> None:
    spec = load_spec("debian-13-base")
    value = json.loads(describe(spec, "d" * 64, EPOCH))
    assert value == {
        "name": "debian-13-base", "inputs": "d" * 64, "release": "2026.11-lts", "roles": ["base"], "epoch": EPOCH,
    }  # fmt: skip
