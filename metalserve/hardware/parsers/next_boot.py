"""What the command `next-boot` prints, as a `BootState`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from metalserve.hardware.boot import (
    AptState,
    BootMenu,
    BootState,
    DiskFile,
    DiskKernel,
    DiskPackage,
    Space,
)
from metalserve.hardware.parsers.apt import parse_apt
from metalserve.hardware.parsers.boot_menu import grub_menu, oldest_first, systemd_menu
from metalserve.hardware.parsers.dkms import parse_dkms, parse_modinfo
from metalserve.hardware.parsers.text import ParseError, clean, first_line, integer

_MARK = "@boot:"
_LOCKDOWN = re.compile(r"\[(\w{1,20})\]")
_IMAGE = re.compile(r".*/vmlinu[xz]-(.{1,150})")
_INITRD = re.compile(r".*/(?:initrd\.img-(.{1,150})|initramfs-(.{1,150})\.img)")
_LIBRARY = re.compile(r"\d{3}\.\d{1,3}(?:\.\d{1,3})?")
_KEEPS_OUT = re.compile(r"blacklist nouveau|install nouveau (?:/usr)?/bin/(?:false|true)")
_MORE = 40
"""Rows of one kind that are kept: a host has a handful of kernels and modules."""


def parse_next_boot(text: str) -> BootState:
    """Read the blocks of `metalserve.hardware.boot_commands.NEXT_BOOT`.

    Raises:
        ParseError: its first or last block is missing.
    """
    blocks = _blocks(clean(text))
    if "host" not in blocks or "end" not in blocks:
        raise ParseError(f"the state of the next boot was cut off; the text begins with {first_line(text)!r}")
    host = _pairs(blocks["host"])
    dkms = blocks.get("dkms")
    entries, said = parse_dkms(re.sub(r"\nrc=\d+\s*$", "", dkms)) if dkms is not None else ((), "")
    late = dkms is not None and re.search(r"rc=(124|137)\s*$", dkms) is not None
    packages = tuple(_package(line) for line in blocks.get("packages", "").splitlines() if line.count("\t") == 2)
    lockdown = _LOCKDOWN.search(host.get("lockdown", ""))
    keys = blocks.get("keys", "")
    return BootState(
        menu=_menu(blocks, host),
        kernels=_kernels(blocks),
        links={r[0]: r[1] for r in _rows(blocks, "link", 2)},
        dkms=None if dkms is None or late else entries[: 4 * _MORE],
        dkms_said="dkms status did not end in time" if late else said[:2000],
        blacklists=_blacklists(blocks.get("modprobe", "")),
        early=tuple(line.strip() for line in blocks.get("early", "").splitlines() if line.strip())[:_MORE],
        packages=packages,
        interrupted="\njournal=" in f"\n{blocks.get('packages', '')}",
        apt=_apt(blocks),
        spaces=_spaces(blocks.get("space", "")),
        library=_library(blocks.get("library", "")),
        enabled={name: state for name, state in _pairs(blocks.get("units", "")).items() if state},
        lockdown=lockdown.group(1) if lockdown else None,
        signatures_enforced={"Y": True, "N": False, "1": True, "0": False}.get(host.get("sig_enforce", "")),
        trusted=tuple(line[4:] for line in keys.splitlines() if line.startswith("key="))[: 4 * _MORE],
        own_key=_own_key(keys),
        running=host.get("kernel", ""),
        booted_at=float(host["btime"]) if host.get("btime", "").isdigit() else None,
        modinfo=host.get("modinfo") == "1",
        read_at=float(host["now"]) if host.get("now", "").isdigit() else None,
    )


def _blocks(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for block in f"\n{text}".split(f"\n{_MARK}")[1:]:
        name, _, body = block.partition("\n")
        found.setdefault(name.strip(), body.strip("\n"))
    return found


def _pairs(text: str) -> dict[str, str]:
    return {k.strip(): v.strip() for k, equals, v in (line.partition("=") for line in text.splitlines()) if equals}


def _rows(blocks: Mapping[str, str], kind: str, columns: int) -> list[list[str]]:
    rows = (line.split("\t") for line in blocks.get("files", "").splitlines())
    return [row[1:] for row in rows if row[0] == kind and len(row) == columns + 1]


def _menu(blocks: Mapping[str, str], host: Mapping[str, str]) -> BootMenu | None:
    snippets = {name.removeprefix("entry "): text for name, text in blocks.items() if name.startswith("entry ")}
    grub = next((name for name in blocks if name.startswith("grub-cfg ")), None)
    loader = next((name for name in blocks if name.startswith("loader-conf ")), None)
    # GRUB names itself or nothing there: where systemd-boot stands, it has started the host.
    if host.get("LoaderInfo", "").startswith("systemd-boot") or (grub is None and loader is not None):
        where = loader.removeprefix("loader-conf ") if loader else ""
        return systemd_menu(
            f"{where}/loader/loader.conf" if where else "LoaderInfo",
            blocks.get(loader or "", ""),
            host.get("LoaderEntryOneShot", ""),
            host.get("LoaderEntryDefault", ""),
            snippets,
        )
    if grub is None:
        return None
    environment, wanted = blocks.get("grubenv", ""), blocks.get("grub-default", "")
    return grub_menu(grub.removeprefix("grub-cfg "), blocks[grub], environment, wanted, snippets)


def _kernels(blocks: Mapping[str, str]) -> tuple[DiskKernel, ...]:
    images = _files(blocks, "image", _IMAGE)
    initrds = _files(blocks, "initrd", _INITRD)
    trees, headers, nouveau = ({r[0] for r in _rows(blocks, kind, 1)} for kind in ("tree", "headers", "nouveau"))
    modules: dict[str, list[DiskFile]] = {}
    for release, path, size, stamp in _rows(blocks, "module", 4):
        modules.setdefault(release, []).append(_file(path, size, stamp))
    return tuple(
        DiskKernel(
            release,
            image=images.get(release),
            initrd=initrds.get(release),
            tree=release in trees,
            headers=release in headers,
            module=parse_modinfo(blocks.get(f"modinfo {release}", "")),
            module_files=tuple(modules.get(release, ())),
            nouveau=release in nouveau,
        )
        for release in oldest_first({*images, *trees})[-_MORE:]
    )


def _files(blocks: Mapping[str, str], kind: str, pattern: re.Pattern[str]) -> dict[str, DiskFile]:
    found = {}
    for path, size, stamp in _rows(blocks, kind, 3):
        named = pattern.fullmatch(path)
        release = next((g for g in named.groups() if g), "") if named else ""
        if release and not release.startswith("0-rescue-") and not release.endswith(("kdump", ".old")):
            found[release] = _file(path, size, stamp)
    return found


def _file(path: str, size: str, stamp: str) -> DiskFile:
    return DiskFile(path, integer(size) or 0, float(integer(stamp) or 0))


def _blacklists(text: str) -> tuple[tuple[str, float, str], ...]:
    rows = (line.split("\t") for line in text.splitlines())
    found = [(r[0], float(integer(r[1]) or 0), " ".join(r[2].split())) for r in rows if len(r) == 3]
    return tuple(row for row in found if _KEEPS_OUT.fullmatch(row[2]))[:_MORE]


def _package(line: str) -> DiskPackage:
    status, name, version = line.split("\t")
    return DiskPackage(name.strip(), version.strip(), status)


def _apt(blocks: Mapping[str, str]) -> AptState:
    settings = blocks.get("apt")
    if settings is None:
        return AptState()
    return parse_apt(
        settings, blocks.get("preferences", ""), blocks.get("policy"), blocks.get("candidates"), _pairs(settings)
    )


def _spaces(text: str) -> dict[str, Space]:
    found = {}
    for line in text.splitlines():
        # /boot /dev/sda2 983176 200000 715000 22% /boot
        words = line.split(maxsplit=6)
        numbers = [integer(w) for w in words[2:5]] if len(words) == 7 else []
        if len(numbers) == 3 and numbers[0] is not None and numbers[2] is not None:
            found[words[0]] = Space(words[6], numbers[0], numbers[2])
    return found


def _library(text: str) -> str | None:
    found = {line.strip() for line in text.splitlines() if _LIBRARY.fullmatch(line.strip())}
    return found.pop() if len(found) == 1 else None


def _own_key(text: str) -> bool | None:
    said = [line for line in text.splitlines() if line.startswith("mok=")]
    if any("is already enrolled" in line for line in said):
        return True
    return False if any("is not enrolled" in line for line in said) else None
