"""The GRUB scripts that a machine with Secure Boot gets: the installer, or its own disk. Pure.

The distribution's signed GRUB is what the firmware starts (by shim); it takes no code of ours, but any configuration.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from metalserve.errors import MetalserveError
from metalserve.templates.boot_scripts import further_arguments, plain_words

LOADER: Final = "/EFI/BOOT/BOOTX64.EFI"
"""What a disk is started by when the firmware has no entry for it. Source: UEFI 2.10, 3.5.1.1."""

MARKER: Final = "/installer/metalserve"
"""A file of the installer's ISO by which GRUB finds it among the drives."""

_TRIES: Final = "1 2 3 4"
_VOLUME: Final = re.compile(r"[0-9A-F]{4}-[0-9A-F]{4}")


def device(url: str) -> str:
    """Return a URL as GRUB writes it: http://10.0.0.1:8088/a is (http,10.0.0.1:8088)/a.

    Raises:
        MetalserveError: GRUB has no TLS, and no addresses in brackets.
    """
    split = urlsplit(url)
    if split.scheme != "http" or "[" in split.netloc:
        raise MetalserveError(
            "GRUB fetches by http:// from a name or an IPv4 address alone", where=url,
            remedy="publish for such an address, or without --secure-boot",
        )  # fmt: skip
    return f"(http,{split.netloc}){split.path.rstrip('/')}"


def grub_chain(url: str) -> str:
    """Return the configuration that GRUB gets first, from TFTP: it asks the server what to boot.

    GRUB cannot write a serial number into a URL that has other characters than these; the machine is then known by its
    UUID or address, and the installer asks for permission with the serial number as it is.
    """
    query = "mac=$net_default_mac&serial=$serial&uuid=$uuid"
    return _script(
        "set timeout=0",
        # what the server answers refers to both: GRUB names no port when it asks, so that the server cannot know it
        f'set server="{device(url)}"',
        f'set url="{url.rstrip("/")}"',
        "smbios --type 1 --get-string 7 --set serial",
        "smbios --type 1 --get-uuid 8 --set uuid",
        "if regexp '^[A-Za-z0-9._-]+$' \"$serial\"; then true; else set serial=; fi",
        "echo 'metalserve: asking what to boot'",
        # GRUB counts its ports from the same number at each start, and a server may still know such a connection
        f'for try in {_TRIES}; do source "$server/v1/boot/grub?{query}"; sleep 1; done',
        "echo 'metalserve: no answer, on to the disk'",
        *_boot_disk(""),
    )


def grub_install(node: str, macs: Sequence[str], arguments: str) -> str:
    """Return the script that boots the installer, for a GRUB that has begun with `grub_chain`.

    Args:
        node: the node's name, for the console.
        macs: the address that the machine booted from, or none: the installer uses the same port.
        arguments: further kernel arguments.

    Raises:
        MetalserveError: an argument is none.
    """
    line = quoted(" ".join(further_arguments(arguments, macs)))
    return _script(
        f"echo 'metalserve: installing {plain_words(node)}'",
        f"for try in {_TRIES}; do",
        f'  if linux "$server/boot/installer/vmlinuz" boot=deploy "ms_server=$url" {line}; then',
        '    if initrd "$server/boot/installer/initrd"; then boot; fi',
        "  fi",
        "  sleep 1",
        "done",
        "echo 'metalserve: the installer cannot be fetched'",
        *_boot_disk(""),
    )


def grub_disk(words: str, volume: str = "") -> str:
    """Return the script that boots the machine's disk.

    Args:
        words: why, for its console.
        volume: id of the EFI system partition that was written to it (1234-ABCD); empty: the first that is there.
    """
    return _script(f"echo 'metalserve: {plain_words(words)}'", *_boot_disk(volume))


def grub_media(line: str) -> str:
    """Return grub.cfg of the installer's ISO.

    Args:
        line: the installer's kernel arguments.
    """
    return _script(
        "set timeout=0",
        f"search --no-floppy --file --set=root {MARKER}",
        "echo 'metalserve: installer'",
        f"linux /installer/vmlinuz {quoted(line)}",
        "initrd /installer/initrd",
        "boot",
    )


def quoted(line: str) -> str:
    """Return kernel arguments as GRUB's script takes them: each for itself, nothing in it read as anything else."""
    return " ".join(f"'{word}'" for word in line.split())


# Chained, not left by `exit`: that tells the firmware of success, which then stops in its menu instead of going on.
def _boot_disk(volume: str) -> tuple[str, ...]:
    if volume and _VOLUME.fullmatch(volume) is None:
        raise MetalserveError("is no id of a FAT volume", where=repr(volume))
    return (
        "set disk=",
        *((f"search --no-floppy --fs-uuid --set=disk {volume}",) if volume else ()),
        f'if [ -z "$disk" ]; then search --no-floppy --file --set=disk {LOADER}; fi',
        # by `root`: what GRUB tells the program of its place is that variable's device, whatever its file's is
        f'if [ -n "$disk" ]; then set root=$disk; chainloader {LOADER}; boot; fi',
        "echo 'metalserve: no disk can be booted'",
        "sleep 5",
        "exit",
    )


def _script(*lines: str) -> str:
    return "\n".join((*lines, ""))
