"""A real image under firmware that has Microsoft's keys and Secure Boot on (emulated). Minutes each: no KVM."""

from __future__ import annotations

import json
import mmap
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from metalserve.templates.manifest import DISK
from metalserve.templates.qemu import Drive, Machine, MachineSpec, powered_on
from metalserve.templates.qemu_parts import free_port, overlay, seed
from metalserve.templates.qemu_ssh import Shell, new_key, user_data
from tests.real_templates.images import Image, image

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="needs mmdebstrap"),
]

BOOT_S = 3600.0
"""Seconds: a minute where the machine is calm."""

UPDATES = (
    ('dpkg-reconfigure "linux-image-$(uname -r)"', "Generating grub configuration file"),
    # what stands for older files, both of which each of the two packages renews
    (
        "cd /boot/efi/EFI; echo old | tee BOOT/grubx64.efi >debian/grubx64.efi\n"
        "dpkg-reconfigure grub-efi-amd64; dpkg --configure --pending",
        "Installation finished. No error reported.",
    ),
    (
        "cd /boot/efi/EFI; echo old | tee BOOT/BOOTX64.EFI >debian/shimx64.efi\n"
        "dpkg-reconfigure shim-signed; dpkg --configure --pending; sync",
        "Installation finished. No error reported.",
    ),
)
"""Script, what it says."""

STATE = """
mokutil --sb-state
sed 's/^/lockdown /' /sys/kernel/security/lockdown
cd /boot/efi && find EFI -type f | sort | sed 's/^/esp /'
sha256sum EFI/BOOT/* EFI/debian/*.efi | sed 's/^/sum /'
efibootmgr 2>/dev/null | grep -i debian | sed 's/^/entry /'
sed -n 's/^[[:space:]]*linux[[:space:]]/linux /p' /boot/grub/grub.cfg | head -n 1 | tr -s ' '
"""


@pytest.fixture(scope="module")
def made() -> Iterator[Image]:
    with image() as found:
        yield found


@contextmanager
def booted(made: Image, place: Path, drive: Drive) -> Iterator[tuple[Machine, Shell]]:
    """Switch on a machine with Secure Boot; its drive is in `place`, where its firmware's variables stay as well."""
    place.mkdir(exist_ok=True)
    key, public = new_key(place)
    said = "instance-id: secure\nlocal-hostname: secure\n"
    spec = MachineSpec(
        drives=(drive,),
        seed=seed(made.tools, place, user_data=user_data(public), meta_data=said),
        serial="SECURE1",
        ssh_port=free_port(),
        secure_boot=True,
    )
    with powered_on(made.tools, spec, place, [made.build.path]) as machine:
        yield machine, Shell(key, port=spec.ssh_port)


def state(shell: Shell) -> dict[str, list[str]]:
    """Return what the machine says of its boot, by the first word of each line."""
    found: dict[str, list[str]] = {}
    for line in shell.run(STATE, timeout_s=600).stdout.splitlines():
        kind, _, rest = line.partition(" ")
        found.setdefault(kind, []).append(rest.strip())
    return found


def test_the_image_boots_and_goes_on_booting_when_its_kernel_and_loader_are_updated(
    made: Image, tmp_path: Path
) -> None:
    place = tmp_path / "machine"
    place.mkdir()
    overlay(made.tools, made.build.path / "disk.qcow2", place / "root.qcow2", made.build.manifest.raw.size + (1 << 30))
    drive = Drive("root.qcow2", "ROOT1", "qcow2")
    with booted(made, place, drive) as (machine, shell):
        shell.wait(machine, BOOT_S)
        first = state(shell)
        assert first["SecureBoot"] == ["enabled"]
        assert "[integrity]" in first["lockdown"][0]
        assert "entry" not in first
        # what dpkg runs when a package of the kernel or of the loader gets a new version, its triggers last
        for script, expected in UPDATES:
            done = shell.run(f"set -e; export DEBIAN_FRONTEND=noninteractive\n{script}", timeout_s=BOOT_S)
            assert done.returncode == 0, done.stdout + done.stderr
            assert expected in done.stdout + done.stderr
        assert state(shell) == first
        machine.power_off(graceful_s=300)
    with booted(made, place, drive) as (machine, shell):
        shell.wait(machine, BOOT_S)
        second = state(shell)
    # grub-install puts the same files in the same places, makes no boot entry, and the command line is the template's
    assert second == first


def test_a_kernel_that_was_changed_is_not_started(made: Image, tmp_path: Path) -> None:
    place = tmp_path / "machine"
    place.mkdir()
    disk = place / "disk.raw"
    subprocess.run(["zstd", "-dqf", "--sparse", made.build.path / DISK, "-o", disk], check=True)
    kernel = _kernel(made, place, disk)
    middle = kernel[len(kernel) // 2 :][:4096]
    with disk.open("r+b") as stream, mmap.mmap(stream.fileno(), 0) as content:
        at = content.find(middle)
        assert at > 0 and content.find(middle, at + 1) < 0
        content[at] ^= 1
    with booted(made, place, Drive(disk.name, "ROOT1")) as (machine, _):
        machine.wait_for("bad shim signature", BOOT_S)
        assert "Linux version" not in machine.console()


def _kernel(made: Image, place: Path, disk: Path) -> bytes:
    """Return the kernel of a disk, taken out of its root partition."""
    table = json.loads(made.tools.run(["sfdisk", "--json", disk], binds={place: str(place)}).stdout)
    start = table["partitiontable"]["partitions"][1]["start"] * 512
    name = f"/boot/vmlinuz-{made.build.manifest.kernel.version}"
    words = ["debugfs", "-R", f"dump {name} {place}/kernel", f"{disk}?offset={start}"]
    made.tools.run(words, binds={place: str(place)})
    return (place / "kernel").read_bytes()
