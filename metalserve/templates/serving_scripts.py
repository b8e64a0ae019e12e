"""What a machine is told to boot: the installer when an order waits for it, else its disk, in its loader's language."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

from metalserve.errors import MetalserveError
from metalserve.templates.boot_scripts import disk_script, install_script
from metalserve.templates.grub_scripts import grub_disk, grub_install
from metalserve.templates.machine_identity import Identity
from metalserve.templates.manifest import MANIFEST, Manifest
from metalserve.templates.order import Refused
from metalserve.templates.orders import Orders
from metalserve.templates.pack import Identity as DiskIdentity

Loader = Literal["ipxe", "grub"]
LOADERS: Final[tuple[Loader, ...]] = ("ipxe", "grub")


def who(query: Sequence[tuple[str, str]]) -> Identity:
    """Return the machine that a loader's query names; of several addresses each counts."""
    values = dict(query)
    return Identity.model_validate(
        {
            "serial": values.get("serial", "")[:200],
            "uuid": values.get("uuid"),
            "macs": [value for key, value in query if key == "mac"],
        }
    )


def boot_script(
    loader: Loader, told: Identity, orders: Orders, shelf: Path, *, url: str, arguments: str
) -> tuple[str, str]:
    """Return the script for a machine, and a note of what was decided.

    Args:
        loader: what runs the script.
        told: the machine, as its loader says.
        orders: the orders.
        shelf: directory of the templates, for the disk that an order has written.
        url: the boot server's, as iPXE asked it; GRUB has it from `grub_chain`.
        arguments: further kernel arguments of the installer.

    Raises:
        MetalserveError: an order cannot be read, or an argument is none.
    """
    try:
        order = orders.for_machine(told, untold=loader == "grub")
    except Refused as refused:
        words = str(refused)
        script = disk_script(words) if loader == "ipxe" else grub_disk(words, _written(told, orders, shelf))
        return script, words
    note = f"installer for {order.node}"
    if loader == "grub":
        return grub_install(order.node, told.macs[:1], arguments), note
    return install_script(order.node, url, told.macs[:1], arguments), note


def _written(told: Identity, orders: Orders, shelf: Path) -> str:
    """Return the volume id of the EFI system partition that this machine was given last, or "" where nobody knows."""
    last = orders.last_for(told)
    if last is None or last.state != "done":
        return ""
    try:
        return DiskIdentity.of_build(Manifest.load(shelf / last.template / last.build / MANIFEST)).volume_id
    except MetalserveError:  # retention has taken the build away: the first disk that can be booted is tried
        return ""
