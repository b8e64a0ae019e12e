"""What a host boots next, by its BMC: the installer once, and its disk again. What the BMC shows is what counts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from metalserve.bmc.client import Bmc, BootDevice
from metalserve.bmc.errors import BmcError
from metalserve.errors import MetalserveError

DEVICES: Final[tuple[BootDevice, ...]] = ("pxe", "uefi-http", "cd")
"""What an installer can be booted from, in the order in which it is tried."""

_TRIES: Final = 3


def boot_from(bmc: Bmc, devices: Sequence[BootDevice], iso: str, host: str) -> str:
    """Set the boot device for one boot: the first that the BMC takes; returns what it shows, in words.

    Args:
        bmc: the host's BMC.
        devices: devices, the best one first.
        iso: URL of the installer's ISO, for virtual media.
        host: its name, for messages.

    Raises:
        MetalserveError: it takes none of them.
    """
    refused = []
    for device in devices:
        try:
            if device == "cd":
                bmc.insert(iso)
            seen = bmc.boot_once(device)
            return f"{seen.target} ({seen.enabled})"
        except BmcError as error:
            refused.append(f"{device}: {error.what}")
    raise MetalserveError("; ".join(refused), where=f"{host}'s BMC")


def boot_back(open_bmc: Callable[[], Bmc], pause_s: float) -> str:
    """Set the boot device back to the disk, take virtual media out, read again; returns what is seen, in words.

    Args:
        open_bmc: opens the host's BMC; asked anew with each try.
        pause_s: seconds between tries.
    """
    said = ""
    for _ in range(_TRIES):
        try:
            with open_bmc() as bmc:
                bmc.boot_back()
                seen = bmc.boot()
                with suppress(MetalserveError):
                    if any(drive.inserted for drive in bmc.media()):
                        bmc.eject()
            if seen.enabled == "Disabled" or seen.target in ("None", "Hdd"):
                return f"boot device back: {seen.target or 'none'} ({seen.enabled or 'unknown'})"
            said = f"it shows {seen.target} ({seen.enabled})"
        except MetalserveError as error:
            said = str(error)
        time.sleep(pause_s)
    return f"the boot device could not be set back ({said}): set it to the disk on the BMC's own page"
