"""From a tree to a disk, by file alone: nothing is mounted, no loop device is needed, and twice the same comes out.

GPT; an EFI system partition with what boots (`boot_chain`); the root. The tools are the tool root's.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path

from metalserve.errors import MetalserveError
from metalserve.templates.boot_chain import EspFile, esp_files, grub_stub
from metalserve.templates.kernels import initrd, kernel_release
from metalserve.templates.manifest import DISK, FileEntry, Manifest
from metalserve.templates.spec import TemplateSpec
from metalserve.templates.toolroot import ToolRoot
from metalserve.trees.inside import MORTAL

RAW, QCOW2, ROOT_TAR, UKI = "disk.raw", "disk.qcow2", "root.tar.zst", "uki.efi"
ZSTD_LEVEL = "-3"
"""Level 19 makes 281 MB into 234 MB and takes 470 s instead of 2 s (measured on two cores)."""

ESP_TYPE = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
ROOT_TYPE = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"
"""GPT types of both partitions. Source: UEFI; Discoverable Partitions Specification (root, x86-64)."""

_ESP_S = 600
"""Seconds that a node looks for its EFI system partition; nothing waits for it (`nofail`). Within systemd's 90 a slow
machine (an emulated one, above all) does not always find it: then it is not mounted, and an update of shim or GRUB goes
no further than /usr, without a word."""

_FIRST_MIB = 1
_MIB = 1 << 20


@dataclass(frozen=True)
class Identity:
    """What the disk is called: made of its inputs, so that the same inputs give the same disk.

    Attributes:
        disk: GPT's identifier of the disk.
        esp: of the EFI system partition.
        root: of the root's partition.
        file_system: UUID of the root file system; the kernel finds it by this.
        hash_seed: of its directories.
        volume: serial number of the EFI system partition's file system, 8 hexadecimal digits.
    """

    disk: str
    esp: str
    root: str
    file_system: str
    hash_seed: str
    volume: str

    @classmethod
    def of(cls, inputs: str) -> Identity:
        """Return the identity that follows from a digest of the inputs."""

        def name(what: str) -> str:
            digest = hashlib.sha256(f"{inputs} {what}".encode()).digest()
            return str(uuid.UUID(bytes=digest[:16], version=4))

        return cls(name("disk"), name("esp"), name("root"), name("file system"), name("hash seed"), name("volume")[:8])

    @classmethod
    def of_build(cls, manifest: Manifest) -> Identity:
        """Return the identity of the disk of a build."""
        return cls.of(f"{manifest.name} {manifest.inputs.digest}")

    @property
    def volume_id(self) -> str:
        """The EFI system partition's file system as `blkid` and fstab name it: 1234-ABCD."""
        return f"{self.volume[:4]}-{self.volume[4:]}".upper()


def fstab(identity: Identity) -> str:
    """Return /etc/fstab."""
    return (
        "# Written by metalserve template build.\n"
        f"UUID={identity.file_system} / ext4 errors=remount-ro 0 1\n"
        f"UUID={identity.volume_id} /boot/efi vfat umask=0077,nofail,x-systemd.device-timeout={_ESP_S} 0 2\n"
    )


def command_line(spec: TemplateSpec, identity: Identity) -> str:
    """Return the kernel's command line."""
    return f"root=UUID={identity.file_system} ro {spec.kernel.command_line}".strip()


def partition_script(spec: TemplateSpec, identity: Identity) -> str:
    """Return what sfdisk is told; the last partition is the root, so that a first boot can grow it."""
    first = _FIRST_MIB * 2048
    second = first + spec.disk.esp_mib * 2048
    return (
        f"label: gpt\nlabel-id: {identity.disk}\nfirst-lba: {first}\n"
        f"start={first}, size={spec.disk.esp_mib}MiB, type={ESP_TYPE}, uuid={identity.esp}, name=ESP\n"
        f"start={second}, size={spec.disk.root_mib}MiB, type={ROOT_TYPE}, uuid={identity.root}, name=root\n"
    )


def disk_mib(spec: TemplateSpec) -> int:
    """Return the size of the image in MiB: two partitions, and a MiB at each end for the two partition tables."""
    return _FIRST_MIB + spec.disk.esp_mib + spec.disk.root_mib + 1


def artefacts(spec: TemplateSpec) -> tuple[str, ...]:
    """Return the files that a build hands on, beside those that describe it."""
    return (DISK, QCOW2, ROOT_TAR, *((UKI,) if spec.chain == "uki" else ()))


class Packer:
    """Packs one tree.

    Args:
        spec: the template.
        identity: what the disk is called.
        epoch: SOURCE_DATE_EPOCH, seconds since 1970.
        tools: the tool root.
        place: directory that holds `root` (the tree), and gets everything else.
    """

    def __init__(self, spec: TemplateSpec, identity: Identity, epoch: int, tools: ToolRoot, place: Path) -> None:
        self.spec = spec
        self.identity = identity
        self.epoch = epoch
        self.tools = tools
        self.place = place
        self.root = place / "root"

    def run(self, *argv: str, give: str | None = None) -> str:
        """Run a program of the tool root in the directory that it sees as /work."""
        done = self.tools.run(
            argv, binds={self.place: "/work"}, directory="/work", input=give,
            environment={"SOURCE_DATE_EPOCH": str(self.epoch), "TZ": "UTC"},
        )  # fmt: skip
        return done.stdout

    def uki(self) -> Path:
        """Make the unified kernel image: kernel, initial RAM disk and command line in one file that firmware starts."""
        kernel = kernel_release(self.root)
        self.run(
            "ukify", "build", f"--linux=root/boot/vmlinuz-{kernel}", f"--initrd={initrd(kernel, self.spec)}",
            f"--cmdline={command_line(self.spec, self.identity)}", "--os-release=@root/usr/lib/os-release",
            f"--uname={kernel}", f"--output={UKI}",
        )  # fmt: skip
        os.utime(self.place / UKI, (self.epoch, self.epoch))
        return self.place / UKI

    def esp(self) -> list[EspFile]:
        """Return the files of the EFI system partition, which `uki` has made or the tree has."""
        if self.spec.chain == "uki":
            return [EspFile(self.place / UKI, "EFI/BOOT/BOOTX64.EFI")]
        stub = self.place / "grub.cfg"
        stub.write_text(grub_stub(self.identity.file_system))
        os.utime(stub, (self.epoch, self.epoch))
        return esp_files(self.spec, self.root, stub)

    def disk(self) -> Path:
        """Make the disk (`disk.raw`, sparse) from the tree and what boots it."""
        raw, spec = self.place / RAW, self.spec
        files = self.esp()
        needed = sum(each.source.stat().st_size for each in files) // _MIB + 4
        if needed > spec.disk.esp_mib:
            raise MetalserveError(
                f"the EFI system partition of {spec.disk.esp_mib} MiB is too small for what boots ({needed} MiB)",
                where=spec.name,
                remedy="raise disk.esp_mib",
            )
        esp, first = self.place / "esp.part", _FIRST_MIB + spec.disk.esp_mib
        for path, mib in ((esp, spec.disk.esp_mib), (raw, disk_mib(spec))):
            path.unlink(missing_ok=True)
            with path.open("wb") as stream:
                stream.truncate(mib * _MIB)
        # `--invariant` sets a volume id of its own: the one that fstab names must come after it
        self.run("mkfs.vfat", "-F32", "--invariant", "-i", self.identity.volume, "-n", "ESP", esp.name)
        above = {str(path) for each in files for path in Path(each.target).parents if path != Path()}
        self.run("mmd", "-i", esp.name, *(f"::{path}" for path in sorted(above)))
        for each in files:
            self.run("mcopy", "-m", "-i", esp.name, str(each.source.relative_to(self.place)), f"::{each.target}")
        try:  # in its place on the disk: copying 3 GiB there costs seconds
            self.run(
                "mke2fs", "-q", "-F", "-t", "ext4", "-L", "root", "-U", self.identity.file_system, "-E",
                f"offset={first * _MIB},hash_seed={self.identity.hash_seed},root_owner=0:0,nodiscard",
                "-d", "root", raw.name, f"{spec.disk.root_mib}M",
            )  # fmt: skip
        except MetalserveError as error:
            raise MetalserveError(
                f"the tree does not fit into a root of {spec.disk.root_mib} MiB, or {error.what}",
                where=spec.name,
                remedy="raise disk.root_mib",
            ) from error
        self.run("sfdisk", "-q", raw.name, give=partition_script(spec, self.identity))
        self.run("dd", f"if={esp.name}", f"of={raw.name}", "bs=1M", f"seek={_FIRST_MIB}", "conv=notrunc,sparse")
        esp.unlink()
        return raw

    def compress(self) -> FileEntry:
        """Make the compressed disk, and return size and SHA-256 of the disk as it is uncompressed."""
        raw = self.place / RAW
        hashed = hashlib.sha256()
        with raw.open("rb") as stream:
            while piece := stream.read(4 * _MIB):
                hashed.update(piece)
        self.run("zstd", "-q", "-f", ZSTD_LEVEL, "-T2", RAW, "-o", DISK)
        return FileEntry(size=raw.stat().st_size, sha256=hashed.hexdigest())

    def qcow2(self) -> Path:
        """Make the disk for virtual machines."""
        self.run("qemu-img", "convert", "-c", "-O", "qcow2", "-o", "compression_type=zstd", RAW, QCOW2)
        return self.place / QCOW2

    def tar(self) -> Path:
        """Make the plain root file system, with owners by number and extended attributes."""
        words = [
            "tar", "--create", "--file=-", "--directory=/work/root", "--sort=name", "--numeric-owner", "--format=posix",
            "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime", "--xattrs", "--xattrs-include=*",
            f"--mtime=@{self.epoch}", "--clamp-mtime", ".",
        ]  # fmt: skip
        command = [*MORTAL, *self.tools.command(words, binds={self.place: "/work"})]
        target = self.place / ROOT_TAR
        words = ["zstd", "-q", "-f", ZSTD_LEVEL, "-T2", "-o", f"/work/{ROOT_TAR}"]
        squeeze = [*MORTAL, *self.tools.command(words, binds={self.place: "/work"})]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as archive:
            done = subprocess.run(squeeze, stdin=archive.stdout, capture_output=True, text=True, check=False)
        if archive.returncode != 0 or done.returncode != 0:
            raise MetalserveError(f"could not be made: {done.stderr.strip() or 'tar failed'}", where=str(target))
        return target
