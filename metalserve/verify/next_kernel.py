"""Which kernel boots next, and why: the boot loader's own rules applied to its files. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatch

from metalserve.hardware.boot import BootMenu, BootState, DiskKernel, MenuEntry

GRUB_MANUAL = "GNU GRUB manual: simple configuration (GRUB_DEFAULT), environment block (saved_entry, next_entry)"
SYSTEMD_BOOT = "systemd-boot(7), loader.conf(5): LoaderEntryOneShot, LoaderEntryDefault, default"
ONLY_ONE = "the only kernel in /boot"
_STEP = re.compile(r"(?<!>)>(?!>)")
_IMAGE = re.compile(r"vmlinu[xz]-(.+?)(?:\.efi\.signed)?")
_UNIFIED = re.compile(r"(?:[0-9a-f]{32}-|linux-)(.+)\.efi")


@dataclass(frozen=True, slots=True)
class NextKernel:
    """The kernel of the next boot.

    Attributes:
        release: as `uname -r` will print it; `None` when it cannot be told.
        why: what decides it, in words.
        source: whose rules were applied.
        arguments: kernel command line of its menu entry, "" when that is not known.
        missing: the menu names a kernel that is not there: its path; else "".
        notes: what is odd about the menu, each in words.
    """

    release: str | None
    why: str
    source: str
    arguments: str = ""
    missing: str = ""
    notes: tuple[str, ...] = ()


def next_kernel(boot: BootState) -> NextKernel:
    """Tell which kernel the next boot starts.

    Nothing is guessed: where no boot loader's configuration can be read, only a host with one kernel has an answer.
    """
    installed = [k for k in boot.kernels if k.image is not None]
    menu = boot.menu
    if menu is not None:
        return _of_grub(boot, menu) if menu.loader == "grub" else _of_systemd_boot(boot, menu)
    if len(installed) == 1:
        return NextKernel(installed[0].release, ONLY_ONE, "/boot")
    if installed:
        names = ", ".join(k.release for k in installed)
        return NextKernel(None, f"no boot loader's configuration was found, and /boot has {names}", "/boot")
    return NextKernel(None, "/boot has no kernel and no boot loader's configuration was found", "/boot")


def _of_grub(boot: BootState, menu: BootMenu) -> NextKernel:
    notes: list[str] = []
    if menu.once:
        wanted, said = menu.once, f"next_entry={menu.once} of grubenv, for one boot"
    else:
        wanted = re.sub(r"\$\{?saved_entry\}?", lambda _: menu.saved, menu.default)
        saved = f", saved_entry={menu.saved or 'not set'} of grubenv" if wanted != menu.default else ""
        said = f'set default="{menu.default}" in {menu.path}{saved}'
        if menu.wanted and menu.wanted not in (menu.default, "saved"):
            notes.append(
                f"GRUB_DEFAULT={menu.wanted} of /etc/default/grub is not in {menu.path}: update-grub was not run"
            )
    if "$" in wanted:
        return NextKernel(None, f"{said}: what its variable holds is known to GRUB alone", GRUB_MANUAL)
    entry = _grub_entry(menu, wanted or "0")
    if entry is None:
        # GRUB takes the first entry where the default names none (normal/menu.c, get_entry_number).
        notes.append(f"no entry is called {wanted!r}: GRUB falls back to the first")
        entry = _grub_entry(menu, "0")
    if entry is None:
        return NextKernel(None, f"{menu.path} has no entry that boots a kernel ({said})", GRUB_MANUAL)
    newer = _newer_than_menu(boot, menu)
    if newer:
        notes.append(f"kernel {newer} is in /boot but not in {menu.path}: update-grub was not run")
    return _resolved(boot, entry, f"menu entry {entry.title!r} ({said})", GRUB_MANUAL, notes)


def _grub_entry(menu: BootMenu, wanted: str) -> MenuEntry | None:
    """Follow `1>2`, `Advanced options for Debian>Debian, with Linux 6.1` or ids; a submenu alone boots its first."""
    place: tuple[int, ...] = ()
    found: MenuEntry | None = None
    for step in _STEP.split(wanted):
        name = step.strip().replace(">>", ">")
        level = [e for e in menu.entries if len(e.place) == len(place) + 1 and e.place[: len(place)] == place]
        found = next((e for e in level if name in (e.ident, e.title)), None)
        if found is None and name.isdigit():
            found = next((e for e in level if e.place[-1] == int(name)), None)
        if found is None:
            return None
        place = found.place
    while found is not None and found.submenu:
        inside = [e for e in menu.entries if len(e.place) == len(found.place) + 1 and e.place[:-1] == found.place]
        found = inside[0] if inside else None
    return found


def _newer_than_menu(boot: BootState, menu: BootMenu) -> str:
    named = {_release_of(e.image) for e in menu.entries if e.image}
    newest = [k.release for k in boot.kernels if k.image is not None][-1:]
    return newest[0] if newest and named - {""} and newest[0] not in named else ""


def _of_systemd_boot(boot: BootState, menu: BootMenu) -> NextKernel:
    for wanted, said in ((menu.once, "LoaderEntryOneShot, for one boot"), (menu.default, f"default of {menu.path}")):
        if not wanted:
            continue
        if wanted == "@saved":
            return NextKernel(None, "systemd-boot starts what it started last (@saved)", SYSTEMD_BOOT)
        pattern = wanted.removesuffix(".conf")
        entry = next((e for e in menu.entries if fnmatch(e.ident, pattern) or fnmatch(e.ident, wanted)), None)
        if entry is not None:
            return _resolved(boot, entry, f"loader entry {entry.ident} ({wanted}: {said})", SYSTEMD_BOOT, [])
    if not menu.entries:
        return NextKernel(None, "systemd-boot starts the host, and its entries could not be read", SYSTEMD_BOOT)
    entry = menu.entries[0]
    return _resolved(boot, entry, f"loader entry {entry.ident} (the newest; no default is set)", SYSTEMD_BOOT, [])


def _resolved(boot: BootState, entry: MenuEntry, why: str, source: str, notes: list[str]) -> NextKernel:
    if not entry.image:
        return NextKernel(None, f"{why} boots no kernel that can be read", source, notes=tuple(notes))
    release = _release_of(entry.image) or _by_link(boot, entry.image) or entry.sort[2]
    if not release:
        return NextKernel(None, f"{why} boots {entry.image}, which tells no release", source, notes=tuple(notes))
    kernel = boot.kernel(release)
    # Images of loader entries lie on the EFI partition under a directory of their own, which is not looked into.
    gone = source == GRUB_MANUAL and any(k.image for k in boot.kernels) and (kernel is None or kernel.image is None)
    return NextKernel(release, why, source, entry.arguments, entry.image if gone else "", tuple(notes))


def _release_of(image: str) -> str:
    """The release in a kernel's path; "" for a path such as /vmlinuz."""
    name = image.rpartition("/")[2]
    found = _IMAGE.fullmatch(name) or _UNIFIED.fullmatch(name)
    if found:
        return found.group(1)
    parts = image.strip("/").split("/")  # kernel-install: /MACHINE-ID/RELEASE/linux
    return parts[1] if len(parts) == 3 and parts[2] in ("linux", "vmlinuz") else ""


def _by_link(boot: BootState, image: str) -> str:
    for path in (image, f"/boot{image}"):
        if path in boot.links:
            return _release_of(boot.links[path])
    return ""


def initrd_wanted(boot: BootState, kernel: DiskKernel) -> bool:
    """Whether the kernel should have an initramfs: another kernel of the host has one."""
    return any(k.initrd is not None for k in boot.kernels if k.release != kernel.release)
