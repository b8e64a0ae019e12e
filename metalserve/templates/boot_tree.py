"""The boot tree: what firmware, iPXE and virtual media fetch to start the installer. `metalserve template publish`.

boot.ipxe               what iPXE gets first; it asks the boot server what to boot
tftp/                   iPXE for UEFI (snponly.efi) and BIOS (undionly.kpxe)
installer/vmlinuz, initrd
installer.iso           the same for virtual media: one UEFI program in a FAT in an ISO
dnsmasq.conf            an example for the DHCP server
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from metalserve.errors import MetalserveError
from metalserve.paths import FILES
from metalserve.templates.boot_scripts import chain_script, kernel_arguments
from metalserve.templates.ramdisk import Ramdisk
from metalserve.templates.signing import TrustedKey
from metalserve.templates.toolroot import ToolRoot

IPXE: Final = ("snponly.efi", "undionly.kpxe")
EPOCH: Final = "1763000000"
"""Seconds since 1970 that the ISO's files bear: the same inputs give the same ISO."""

_URL: Final = re.compile(r"https?://[A-Za-z0-9.:\[\]-]+(/[A-Za-z0-9._~/-]*)?")
_IMAGE: Final = "/image"


@dataclass(frozen=True)
class Site:
    """What the boot tree must know of the site.

    Attributes:
        url: URL of the boot server, as machines reach it.
        interface: of the DHCP server.
        dhcp_range: dnsmasq's `dhcp-range`.
        arguments: further kernel arguments of the installer.
    """

    url: str
    interface: str = "eth0"
    dhcp_range: str = "192.0.2.50,192.0.2.250,1h"
    arguments: str = "console=tty0 console=ttyS0,115200"

    def __post_init__(self) -> None:
        """Refuse what would be read as more than it is.

        Raises:
            MetalserveError: the URL is none, or interface or range hold more than their characters.
        """
        if _URL.fullmatch(self.url) is None:
            raise MetalserveError("is no URL of a boot server", where=self.url, remedy="as in http://10.0.0.1:8088")
        for what in (self.interface, self.dhcp_range):
            if re.fullmatch(r"[A-Za-z0-9.,:_-]+", what) is None:
                raise MetalserveError("cannot stand in dnsmasq's configuration", where=repr(what))


def publish(target: Path, site: Site, keys: Sequence[TrustedKey], tools: ToolRoot, ramdisk: Ramdisk) -> Path:
    """Write the boot tree, in place of an earlier one, and return its directory.

    Args:
        target: the directory.
        site: what it must know of the site.
        keys: public keys, built into the installer: it takes no image that none of them signed.
        tools: has iPXE, ukify, mtools and xorriso.
        ramdisk: kernel and base initrd of the installer.

    Raises:
        MetalserveError: a program failed, or something cannot be written.
    """
    making = target.with_name(f".{target.name}.new")
    shutil.rmtree(making, ignore_errors=True)
    try:
        (making / "tftp").mkdir(parents=True)
        (making / "installer").mkdir()
        (making / "boot.ipxe").write_text(chain_script(site.url.rstrip("/")))
        for name in IPXE:
            shutil.copyfile(tools.path / "usr/lib/ipxe" / name, making / "tftp" / name)
        shutil.copyfile(ramdisk.kernel, making / "installer/vmlinuz")
        (making / "installer/initrd").write_bytes(ramdisk.complete(_named(keys)))
        (making / "dnsmasq.conf").write_text(dnsmasq(site, target / "tftp"))
        _iso(making, site, tools)
        old = target.with_name(f".{target.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            target.rename(old)
        making.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise MetalserveError(f"cannot be written: {error}", where=str(target)) from error
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return target


def dnsmasq(site: Site, tftp: Path) -> str:
    """Return the example configuration of dnsmasq.

    Args:
        site: addresses.
        tftp: directory of iPXE's files.
    """
    text = (FILES / "templates/boot/dnsmasq.conf").read_text()
    given = {"INTERFACE": site.interface, "RANGE": site.dhcp_range, "URL": site.url.rstrip("/"), "TFTP": str(tftp)}
    for name, value in given.items():
        text = text.replace(f"@{name}@", value)
    return text


def _named(keys: Sequence[TrustedKey]) -> dict[str, bytes]:
    """Return file name -> content; named by the keys' ids: two files of one name cannot hide each other."""
    return {f"{key.key_id}.pub": Path(key.where).read_bytes() for key in keys}


def _iso(making: Path, site: Site, tools: ToolRoot) -> None:
    line = kernel_arguments(site.url.rstrip("/"), site.arguments)
    serial = hashlib.sha256(line.encode()).hexdigest()[:8]
    size = sum((making / "installer" / name).stat().st_size for name in ("vmlinuz", "initrd"))
    mebibytes = (size >> 20) + 24  # the stub and the file system's own tables
    script = f"""\
set -eu
cd {_IMAGE}
mkdir uki iso
ukify build --linux installer/vmlinuz --initrd installer/initrd --cmdline "$1" --os-release "ID=metalserve-installer
NAME=metalserve installer
VERSION_ID=1" --output uki/installer.efi >/dev/null
touch -d @{EPOCH} uki/installer.efi
truncate -s {mebibytes}M iso/esp.img
mkfs.vfat -F 32 --invariant -i {serial} -n INSTALLER iso/esp.img >/dev/null
mmd -i iso/esp.img ::EFI ::EFI/BOOT
mcopy -m -i iso/esp.img uki/installer.efi ::EFI/BOOT/BOOTX64.EFI
touch -d @{EPOCH} iso/esp.img
xorriso -as mkisofs -quiet -V INSTALLER -o installer.iso -e esp.img -no-emul-boot iso 2>&1
rm -r uki iso
"""
    tools.run(["sh", "-c", script, "iso", line], binds={making: _IMAGE}, environment={"SOURCE_DATE_EPOCH": EPOCH})
