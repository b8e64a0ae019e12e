"""A small tree that stands for a finished root file system, and the lab's cached base for what needs a real one."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from metalserve.lab.layout import Layout
from metalserve.lab.rootfs import base_path
from metalserve.templates.pack import Identity, fstab
from metalserve.trees.debian import remove_tree
from metalserve.trees.system import mount_overlay

KERNEL = "6.12.94+deb13-amd64"
MODULES = ("nvme", "ahci", "virtio_blk")
NETWORK = ("mlx5_core", "bnxt_en", "ice", "i40e", "ixgbe", "igb", "virtio_net")
SIGNED = (
    "usr/lib/shim/shimx64.efi.signed",
    "usr/lib/shim/mmx64.efi.signed",
    "usr/lib/shim/fbx64.efi.signed",
    "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed",
)
IDENTITY = Identity.of("0" * 64)


def small_tree(root: Path) -> Path:
    """Make what the checks ask for, and nothing that they refuse."""
    modules = root / "lib/modules" / KERNEL
    for directory in ("etc", "boot", "usr/lib", "var/log/apt", "var/lib/dpkg", str(modules.relative_to(root))):
        (root / directory).mkdir(parents=True, exist_ok=True)
    (root / "etc/machine-id").touch()
    (root / "etc/fstab").write_text(fstab(IDENTITY))
    (root / "etc/shadow").write_text("root:*:20000:0:99999:7:::\nsshd:!:20000::::::\n")
    (root / "usr/lib/os-release").write_text("ID=debian\nVERSION_ID=13\n")
    (root / f"boot/vmlinuz-{KERNEL}").write_bytes(efi_program())
    for name in SIGNED:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(efi_program() + name.encode())
    (root / "usr/lib/shim/BOOTX64.CSV").write_text("shimx64.efi,debian,,This is the boot entry for debian\n")
    (root / f"boot/initrd.img-{KERNEL}").write_bytes(b"ram disk")
    names = [f"kernel/drivers/net/{name.replace('_', '-')}.ko.xz:" for name in NETWORK]
    (modules / "modules.dep").write_text("\n".join(names) + "\n")
    (modules / "modules.builtin").write_text("kernel/drivers/ata/ahci.ko\n")
    return root


def efi_program(*, signed: bool = True, size: int = 1024) -> bytes:
    """Return what looks like an EFI program: its headers, and a table of signatures at its end or none."""
    content = bytearray(size)
    content[:2] = b"MZ"
    struct.pack_into("<I", content, 0x3C, 0x80)
    content[0x80:0x84] = b"PE\0\0"
    struct.pack_into("<H", content, 0x80 + 24, 0x20B)
    if signed:
        struct.pack_into("<II", content, 0x80 + 24 + 112 + 8 * 4, size - 64, 64)
    return bytes(content)


def listed(words: object) -> str:
    """Answer for `lsinitramfs`: the initial RAM disk of `small_tree`."""
    return "\n".join(f"usr/lib/modules/{KERNEL}/kernel/{name}.ko.xz" for name in MODULES)


@contextmanager
def real_tree(place: Path, suite: str = "trixie", layout: Layout | None = None) -> Iterator[Path]:
    """Give a copy-on-write view of the lab's base of a Debian release; skip where there is none."""
    base = base_path(layout or Layout.current(), suite)
    if os.geteuid() != 0 or not base.is_dir():
        pytest.skip("needs root, and the base of a lab that has been up")
    root, upper, work = place / "root", place / "upper", place / "work"
    for path in (root, upper, work):
        path.mkdir(parents=True)
    upper.chmod(0o755)
    mount_overlay(root, lower=[base], upper=upper, work=work)
    try:
        yield root
    finally:
        remove_tree(root)
