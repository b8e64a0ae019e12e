"""Boot menus: GRUB's configuration and environment, and the files of systemd-boot."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from itertools import pairwise

from metalserve.hardware.boot import BootMenu, MenuEntry
from metalserve.hardware.parsers.host_state import without_secrets

_HEAD = re.compile(r"\s*(menuentry|submenu|function)\s")
_LINUX = re.compile(r"\s*linux(?:16|efi)?\s+(\S{1,1000})(.*)")
_DEFAULT = re.compile(r"\s*set default=[\"']?([^\"'\n]{0,500}?)[\"']?\s*$")
_SNIPPET = re.compile(r"\s*(title|version|linux|sort-key|machine-id|options|efi)\s+(.*)")
_SYSTEMD_DEFAULT = re.compile(r"\s*default\s+(\S{1,200})")
_WANTED = re.compile(r"\s*GRUB_DEFAULT=[\"']?([^\"'#\n]{0,500})")


def grub_menu(path: str, config: str, environment: str, wanted: str, snippets: Mapping[str, str]) -> BootMenu:
    """Read the lines of grub.cfg that matter (menu heads, kernels, closing braces, the default).

    Args:
        path: of the configuration.
        config: those lines.
        environment: `saved_entry=` and `next_entry=` of grubenv.
        wanted: the lines `GRUB_DEFAULT=` of /etc/default/grub; the last one counts.
        snippets: path -> text of loader entries, which GRUB shows where its configuration says `blscfg`.
    """
    entries: list[MenuEntry] = []
    heads: list[tuple[str, int]] = []  # what is open: kind, and its number in `entries`
    counts = [0]
    default, bls = "", False
    for line in config.splitlines():
        head = _HEAD.match(line)
        if head:
            kind = head.group(1)
            if kind != "function":
                place = (*(entries[n].place[-1] for k, n in heads if k == "submenu"), counts[-1])
                entries.append(_entry(place, line, submenu=kind == "submenu"))
                counts[-1] += 1
                if kind == "submenu":
                    counts.append(0)
            heads.append((kind, len(entries) - 1))
        elif line.strip() == "}":
            if heads and heads.pop()[0] == "submenu":
                counts.pop()
        elif heads and heads[-1][0] == "menuentry" and (linux := _LINUX.match(line)):
            number = heads[-1][1]
            if not entries[number].image:  # the first one counts, the others stand behind an `if`
                entries[number] = _with_kernel(entries[number], linux.group(1), linux.group(2))
        elif not heads and (found := _DEFAULT.match(line)) and "next_entry" not in found.group(1):
            default = found.group(1)
        elif line.strip().startswith("blscfg"):
            bls = True
    if bls:
        entries += snippet_entries(snippets, len(entries))
    said = dict(line.split("=", 1) for line in environment.splitlines() if "=" in line)
    return BootMenu(
        "grub",
        path,
        tuple(entries),
        default=default,
        saved=said.get("saved_entry", "").strip(),
        once=said.get("next_entry", "").strip(),
        wanted=_last(_WANTED, wanted),
        snippets=bls,
    )


def systemd_menu(path: str, config: str, once: str, default: str, snippets: Mapping[str, str]) -> BootMenu:
    """Read loader.conf and the loader entries.

    Args:
        path: of loader.conf.
        config: its text.
        once: LoaderEntryOneShot, the entry of the next boot alone.
        default: LoaderEntryDefault, which goes before the `default` of loader.conf.
        snippets: path -> text of entries (`*.conf`), and of unified kernel images (`*.efi`, without a text).
    """
    return BootMenu(
        "systemd-boot",
        path,
        tuple(snippet_entries(snippets, 0)),
        default=default or _last(_SYSTEMD_DEFAULT, config),
        once=once,
        snippets=True,
    )


def snippet_entries(snippets: Mapping[str, str], first: int) -> list[MenuEntry]:
    """Return loader entries in the order of the menu: newest version first within a sort-key.

    Source: the Boot Loader Specification, sorting (uapi-group.org/specifications/specs/boot_loader_specification).
    """
    found = []
    for path, text in snippets.items():
        name = path.rpartition("/")[2]
        pairs = {m.group(1): m.group(2).strip() for m in map(_SNIPPET.match, text.splitlines()) if m}
        ident = name.removesuffix(".conf")
        image = pairs.get("linux", "")
        if name.endswith(".efi"):  # a unified kernel image: kernel, initramfs and arguments in one file
            image = path
        order = (pairs.get("sort-key", ""), pairs.get("machine-id", ""), pairs.get("version", "") or ident)
        found.append(
            MenuEntry((0,), pairs.get("title", ident), ident, image, without_secrets(pairs.get("options", "")), order)
        )
    found.sort(key=lambda e: version_key(e.sort[2]), reverse=True)
    found.sort(key=lambda e: (e.sort[0] == "", e.sort[0], e.sort[1]))
    return [MenuEntry((first + n,), e.title, e.ident, e.image, e.arguments, e.sort) for n, e in enumerate(found)]


def version_key(release: str) -> tuple[tuple[int, int, str], ...]:
    """Return what kernel releases and versions are ordered by: numbers as numbers, `~` before everything.

    As `sort -V` and GRUB's menu order them, for names of kernels: 6.1.0-9 before 6.1.0-28, 6.8 before 6.11.
    """
    parts = re.findall(r"\d{1,18}|~|[A-Za-z]+", release)
    return tuple((1, int(p), "") if p.isdigit() else (-1 if p == "~" else 0, 0, p) for p in parts)


def oldest_first(releases: Iterable[str]) -> list[str]:
    """Sort kernel releases."""
    return sorted(releases, key=version_key)


def _entry(place: tuple[int, ...], line: str, *, submenu: bool) -> MenuEntry:
    try:
        words = shlex.split(line.strip().removesuffix("{"))
    except ValueError:  # an open quote: the title is what lies between the first two
        words = line.replace('"', "'").split("'")[:2]
    title = words[1] if len(words) > 1 else ""
    ident = ""
    for before, word in pairwise(words):
        if before in ("$menuentry_id_option", "--id"):
            ident = word
        elif word.startswith("--id="):
            ident = word.removeprefix("--id=")
    return MenuEntry(place, title, ident, submenu=submenu)


def _with_kernel(entry: MenuEntry, image: str, arguments: str) -> MenuEntry:
    return MenuEntry(entry.place, entry.title, entry.ident, image, without_secrets(arguments.strip()))


def _last(pattern: re.Pattern[str], text: str) -> str:
    found = [m.group(1).strip() for m in map(pattern.match, text.splitlines()) if m]
    return found[-1] if found else ""
