"""The iPXE scripts that a machine gets: the installer, or its own disk. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from metalserve.errors import MetalserveError

CHAIN_QUERY = "mac=${net0/mac}&mac=${netX/mac}&serial=${serial:uristring}&uuid=${uuid}"
"""What iPXE says of the machine; the server takes the address that it opened (`netX`) as well as the first."""

_ARGUMENT = re.compile(r"[A-Za-z0-9_.,:=/@%+*-]+")


def chain_script(url: str) -> str:
    """Return the script that iPXE gets first, from TFTP or HTTP: it asks the server what to boot.

    A server that does not answer must not keep a node from booting its disk.
    """
    return _script(
        "echo metalserve: asking what to boot",
        f"chain --autofree {url}/v1/boot/ipxe?{CHAIN_QUERY} || echo metalserve: on to the disk",
        *_BOOT_DISK,
    )


def install_script(node: str, url: str, macs: Sequence[str], arguments: str) -> str:
    """Return the script that boots the installer.

    Args:
        node: the node's name, for the console.
        url: the server's URL.
        macs: the address that the machine booted from, or none: the installer uses the same port.
        arguments: further kernel arguments.
    """
    line = kernel_arguments(url, arguments, macs)
    return _script(
        f"echo metalserve: installing {node}",
        f"kernel {url}/boot/installer/vmlinuz initrd=initrd {line} || goto failed",
        f"initrd --name initrd {url}/boot/installer/initrd || goto failed",
        "boot",
        ":failed",
        "echo metalserve: the installer cannot be fetched",
        *_BOOT_DISK,
    )


def disk_script(words: str) -> str:
    """Return the script that boots the machine's disk; `words` say why, on its console."""
    return _script(f"echo metalserve: {plain_words(words)}", *_BOOT_DISK)


def plain_words(words: str) -> str:
    """Return words that no boot loader reads as more than words."""
    return re.sub(r"[^A-Za-z0-9 .,:;()_-]", " ", words)[:200]


def kernel_arguments(url: str, arguments: str = "", macs: Sequence[str] = ()) -> str:
    """Return the installer's kernel arguments.

    Raises:
        MetalserveError: URL or a further argument hold what would be read as more than an argument.
    """
    return " ".join(["boot=deploy", f"ms_server={url}", *further_arguments(arguments, macs, url)])


def further_arguments(arguments: str, macs: Sequence[str], *others: str) -> list[str]:
    """Return those of the installer's kernel arguments that do not name the server.

    Args:
        arguments: the site's.
        macs: the address that the machine booted from, or none.
        others: looked at as well.

    Raises:
        MetalserveError: one holds what would be read as more than an argument.
    """
    words = arguments.split()
    for word in (*others, *words):
        if _ARGUMENT.fullmatch(word) is None:
            raise MetalserveError("is no kernel argument", where=repr(word))
    if not any(word.startswith("ip=") for word in words):
        words.append("ip=dhcp")
    if macs:
        words.append(f"BOOTIF=01-{macs[0].replace(':', '-')}")
    return ["panic=30", *words]


# `exit 1`, not `exit`: firmware takes success for "it has booted" and stops in its menu, and goes on to the next boot
# option after an error. Chaining the loader of the disk instead (file://ESP/EFI/BOOT/BOOTX64.EFI) starts our kernel
# without its arguments: iPXE gives the file's name as load options, and systemd-stub takes those for the command line.
_BOOT_DISK = ("iseq ${platform} efi && exit 1 || sanboot --no-describe --drive 0x80 || exit 1",)


def _script(*lines: str) -> str:
    return "\n".join(("#!ipxe", *lines, ""))
