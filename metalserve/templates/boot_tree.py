"""The boot tree: what firmware, iPXE and virtual media fetch to start the installer. `metalserve template publish`.

boot.ipxe               what iPXE gets first; it asks the boot server what to boot
tftp/                   iPXE for UEFI (snponly.efi) and BIOS (undionly.kpxe); for Secure Boot shim and GRUB as Debian
                        signed them (shimx64.efi, grubx64.efi), and what that GRUB gets first (grub/grub.cfg)
installer/vmlinuz, initrd
installer.iso           the same for virtual media, by the signed shim and GRUB: it starts with Secure Boot on and off
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
from metalserve.templates.grub_scripts import LOADER, MARKER, grub_chain, grub_media
from metalserve.templates.ramdisk import Ramdisk
from metalserve.templates.signing import TrustedKey
from metalserve.templates.toolroot import ToolRoot

IPXE: Final = ("snponly.efi", "undionly.kpxe")
SIGNED: Final = {
    "shimx64.efi": "usr/lib/shim/shimx64.efi.signed",
    "mmx64.efi": "usr/lib/shim/mmx64.efi.signed",
    "grubx64.efi": "usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed",
}
"""What firmware with Secure Boot starts by network, by the name that each asks for the next; files of the tool root."""

_MEDIA_GRUB: Final = "usr/lib/grub/x86_64-efi-signed/gcdx64.efi.signed"
"""Debian's signed GRUB for CDs: it looks for the file /.disk/info and reads boot/grub/grub.cfg beside it."""
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
        secure_boot: UEFI machines get shim and GRUB instead of iPXE, and start with Secure Boot on as well as off.
    """

    url: str
    interface: str = "eth0"
    dhcp_range: str = "192.0.2.50,192.0.2.250,1h"
    arguments: str = "console=tty0 console=ttyS0,115200"
    secure_boot: bool = False

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
        tools: has iPXE, shim and GRUB, mtools and xorriso.
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
        if site.secure_boot:
            for name, source in SIGNED.items():
                shutil.copyfile(tools.path / source, making / "tftp" / name)
            (making / "tftp/grub").mkdir()
            (making / "tftp/grub/grub.cfg").write_text(grub_chain(site.url))
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
    given["UEFI"] = "shimx64.efi" if site.secure_boot else "snponly.efi"
    for name, value in given.items():
        text = text.replace(f"@{name}@", value)
    return text


def _named(keys: Sequence[TrustedKey]) -> dict[str, bytes]:
    """Return file name -> content; named by the keys' ids: two files of one name cannot hide each other."""
    return {f"{key.key_id}.pub": Path(key.where).read_bytes() for key in keys}


def _iso(making: Path, site: Site, tools: ToolRoot) -> None:
    """Write the ISO: Debian's layout, shim and GRUB in a FAT that firmware boots, the rest in the ISO itself."""
    line = kernel_arguments(site.url.rstrip("/"), site.arguments)
    serial = hashlib.sha256(line.encode()).hexdigest()[:8]
    tree = making / "iso"
    for name in ("boot/grub/grub.cfg", ".disk/info", MARKER.lstrip("/")):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(grub_media(line) if name.endswith(".cfg") else "metalserve installer\n")
    script = f"""\
set -eu
cd {_IMAGE}
ln installer/vmlinuz installer/initrd iso/installer/
truncate -s 8M iso/esp.img
mkfs.vfat --invariant -i {serial} -n INSTALLER iso/esp.img >/dev/null
mmd -i iso/esp.img ::EFI ::EFI/BOOT
mcopy -m -i iso/esp.img /{SIGNED["shimx64.efi"]} ::{LOADER.lstrip("/")}
mcopy -m -i iso/esp.img /{_MEDIA_GRUB} ::EFI/BOOT/grubx64.efi
mcopy -m -i iso/esp.img /{SIGNED["mmx64.efi"]} ::EFI/BOOT/mmx64.efi
find iso -exec touch -d @{EPOCH} {{}} +
xorriso -as mkisofs -quiet -R -V INSTALLER -o installer.iso -e esp.img -no-emul-boot iso 2>&1
rm -r iso
"""
    tools.run(["sh", "-c", script, "iso"], binds={making: _IMAGE}, environment={"SOURCE_DATE_EPOCH": EPOCH})
