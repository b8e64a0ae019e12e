"""What firmware starts, and what that starts: the distribution's signed chain, or one unified kernel image of ours.

`distribution`: shim, signed by Microsoft, starts GRUB, which starts the kernel, both signed by the distribution;
nothing else on the EFI system partition is run. The files lie where `grub-install --force-extra-removable --no-nvram`
puts them, so that updates of shim, GRUB and kernel on a running node go their usual ways. `uki`: nobody signs it but
the site.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from metalserve.errors import MetalserveError
from metalserve.templates.kernels import initrd_name, kernel_release, kernel_releases
from metalserve.templates.spec import TemplateSpec

PACKAGES: Final = ("grub-efi-amd64", "grub-efi-amd64-signed", "shim-signed")
"""They bring mokutil as well. The kernel's own package is signed where it is not called `unsigned`."""

ANSWERS: Final = (
    "grub-efi-amd64 grub2/force_efi_extra_removable boolean true",
    "grub-efi-amd64 grub2/update_nvram boolean false",
)
"""debconf: what grub-install does when the packages are updated on a node. The firmware's boot entries belong to the
machine, not to an image that is written over: it starts the removable path."""

DEFAULTS: Final = "etc/default/grub.d/90-metalserve.cfg"
MENU: Final = "boot/grub/grub.cfg"
INSTALLED: Final = "boot/grub/x86_64-efi/core.efi"
"""Where this is, an update of Debian 13's GRUB runs grub-install, which writes it anew; without it the update goes no
further than /usr. Debian 12's looks for /boot/efi/EFI/debian. Source: postinst of grub-efi-amd64 2.12 and 2.06."""
TIMEOUT_S: Final = 1

_SHIM, _GRUB = "usr/lib/shim", "usr/lib/grub/x86_64-efi-signed"
_CERTIFICATES: Final = 4
"""Which of a PE file's data directories tells of its signatures. Source: PE Format, Microsoft."""

Run = Callable[[Sequence[str]], str]
"""Runs a program in the tree and returns what it printed, "" when it failed."""


@dataclass(frozen=True)
class EspFile:
    """A file of the EFI system partition.

    Attributes:
        source: its file.
        target: where it goes, as in "EFI/BOOT/BOOTX64.EFI".
    """

    source: Path
    target: str


def esp_files(spec: TemplateSpec, root: Path, stub: Path) -> list[EspFile]:
    """Return what the EFI system partition holds with the distribution's chain.

    Args:
        spec: the template.
        root: the image's tree, with the packages.
        stub: file that holds `grub_stub`.

    Raises:
        MetalserveError: the packages are not in the tree.
    """
    shim = _there(root, f"{_SHIM}/shimx64.efi.signed.latest", f"{_SHIM}/shimx64.efi.signed")
    manager = _there(root, f"{_SHIM}/mmx64.efi.signed", f"{_SHIM}/mmx64.efi")
    fallback = _there(root, f"{_SHIM}/fbx64.efi.signed", f"{_SHIM}/fbx64.efi")
    grub = _there(root, f"{_GRUB}/grubx64.efi.signed")
    own = f"EFI/{spec.os.distribution}"
    return [
        EspFile(shim, "EFI/BOOT/BOOTX64.EFI"),
        EspFile(grub, "EFI/BOOT/grubx64.efi"),
        EspFile(manager, "EFI/BOOT/mmx64.efi"),
        # Not fbx64.efi beside BOOTX64.EFI: shim would start it, and it makes boot entries in the machine's firmware.
        EspFile(shim, f"{own}/shimx64.efi"),
        EspFile(grub, f"{own}/grubx64.efi"),
        EspFile(manager, f"{own}/mmx64.efi"),
        EspFile(fallback, f"{own}/fbx64.efi"),
        EspFile(_there(root, f"{_SHIM}/BOOTX64.CSV"), f"{own}/BOOTX64.CSV"),
        EspFile(stub, f"{own}/grub.cfg"),
    ]


def _there(root: Path, *names: str) -> Path:
    """Return the first of the names that is a plain file; a link would lead out of the tree."""
    for name in names:
        path = root / name
        if path.is_file() and not path.is_symlink():
            return path
    raise MetalserveError(
        f"/{names[-1]} is not there, and the boot chain of the distribution needs it",
        where=str(root),
        remedy=f"packages {', '.join(PACKAGES)}; or `boot: {{chain: uki}}` in the specification",
    )


def grub_stub(file_system: str) -> str:
    """Return the configuration that the signed GRUB reads from its own partition: it finds the root by UUID."""
    return f"search.fs_uuid {file_system} root\nset prefix=($root)'/boot/grub'\nconfigfile $prefix/grub.cfg\n"


def grub_menu(spec: TemplateSpec, root: Path, file_system: str) -> str:
    """Return /boot/grub/grub.cfg of the image: each kernel of the tree, the newest first.

    `update-grub` cannot be run where there is no disk; on the node it writes the file anew.
    """
    line = " ".join(["root=UUID=" + file_system, "ro", *spec.kernel.command_line.split()])
    entries = [
        f"menuentry '{spec.os.distribution.capitalize()}, Linux {kernel}' --id gnulinux-{kernel} {{\n"
        f"\tsearch --no-floppy --fs-uuid --set=root {file_system}\n"
        f"\tlinux /boot/vmlinuz-{kernel} {line}\n"
        f"\tinitrd /boot/{initrd_name(kernel, spec)}\n"
        "}\n"
        for kernel in kernel_releases(root)
    ]
    head = "# Written by metalserve template build; update-grub writes it anew on the node.\n"
    return "".join([head, f"set default=0\nset timeout={TIMEOUT_S}\n", *entries])


def grub_installed() -> str:
    """Return what stands for grub-install's own file; nothing boots it."""
    return "# Written by metalserve template build: GRUB is on the EFI system partition; grub-install replaces this.\n"


def grub_defaults(spec: TemplateSpec) -> str:
    """Return what update-grub takes from the template when the node gets another kernel."""
    return (
        "# Written by metalserve into the template: what its first grub.cfg had.\n"
        f'GRUB_CMDLINE_LINUX="{spec.kernel.command_line}"\n'
        'GRUB_CMDLINE_LINUX_DEFAULT=""\n'
        f"GRUB_TIMEOUT={TIMEOUT_S}\n"
    )


def is_signed(path: Path) -> bool:
    """Tell whether an EFI program carries a signature; whose, firmware and shim judge. False for what is none."""
    try:
        with path.open("rb") as stream:
            head = stream.read(4096)
        (at,) = struct.unpack_from("<I", head, 0x3C)
        magic, optional = head[at : at + 4], at + 24
        (kind,) = struct.unpack_from("<H", head, optional)
        first = {0x10B: 96, 0x20B: 112}.get(kind)  # PE32, PE32+
        if head[:2] != b"MZ" or magic != b"PE\0\0" or first is None:
            return False
        offset, size = struct.unpack_from("<II", head, optional + first + 8 * _CERTIFICATES)
    except (OSError, struct.error):
        return False
    return bool(offset and size and offset + size <= path.stat().st_size)


def foreign_modules(root: Path, run: Run) -> dict[str, str]:
    """Return the modules that did not come with the kernel -> who signed them, "" where that is nobody or not known."""
    kernel = kernel_release(root)
    table = root / "lib/modules" / kernel / "modules.dep"
    names = [line.split(":")[0] for line in table.read_text().splitlines()] if table.is_file() else []
    foreign = sorted(name for name in names if not name.startswith("kernel/"))
    return {name: run(["modinfo", "-F", "signer", f"/lib/modules/{kernel}/{name}"]).strip() for name in foreign}


def chain_problems(spec: TemplateSpec, root: Path, run: Run) -> Iterator[str]:
    """Yield what keeps the tree from booting as the specification says, one line each."""
    if spec.chain == "distribution":
        try:
            programs = [each.source for each in esp_files(spec, root, root / "nothing") if each.target.endswith(".EFI")]
            programs += [_there(root, f"{_GRUB}/grubx64.efi.signed")]
        except MetalserveError as error:
            yield error.what
            return
        for path in (*programs, root / f"boot/vmlinuz-{kernel_release(root)}"):
            if not is_signed(path):
                yield f"/{path.relative_to(root)}: is not signed, so that Secure Boot would not start it"
    if spec.boot.secure_boot == "required":
        for name, signer in foreign_modules(root, run).items():
            if not signer:
                yield f"{name}: a module that nobody signed, and boot.secure_boot is 'required': it would not load"


def unsigned(modules: dict[str, str]) -> list[str]:
    """Return the names of the modules that nobody signed, as `modprobe` takes them."""
    return sorted(Path(name).name.split(".ko")[0] for name, signer in modules.items() if not signer)


def boot_words(distribution: str, chain: str, unsigned_modules: Sequence[str]) -> str:
    """Return in one line what Secure Boot makes of an image; it begins with "warning" where something does not run."""
    if chain != "distribution":
        return "warning: nobody signed its unified kernel image: Secure Boot must be off, or the site signs it"
    signed = f"shim, GRUB and kernel are signed for {distribution.capitalize()}"
    if not unsigned_modules:
        return f"{signed}; every module that it carries loads with Secure Boot on"
    return (
        f"warning: {signed}, and {len(unsigned_modules)} modules are signed by nobody: with Secure Boot on they do not "
        f"load ({', '.join(unsigned_modules[:8])})"
    )
