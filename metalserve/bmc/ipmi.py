"""A BMC that speaks IPMI 2.0 only, through `ipmitool`: power, boot device, sensors, event log."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from typing import Self

from metalserve.bmc import ipmi_parse as parse
from metalserve.bmc.client import (
    GRACE_S,
    BootDevice,
    BootSeen,
    Events,
    Firmware,
    Gpus,
    Identity,
    MediaSeen,
    Power,
    PowerAction,
    PowerSeen,
    Readings,
)
from metalserve.bmc.errors import BmcError, not_named
from metalserve.secrets import Secret
from metalserve.settings.bmc import BmcSettings

CALL_S = 20.0
"""Seconds for one call: ipmitool asks again by itself (-N 2 -R 3)."""
SETTLE_S = 5.0
"""Seconds to stay off in a power cycle."""
_DEVICES: dict[BootDevice, str] = {"pxe": "pxe", "cd": "cdrom", "disk": "disk"}


class IpmiBmc:
    """A `Bmc` by IPMI; what IPMI has not is refused."""

    def __init__(self, settings: BmcSettings, password: Secret, host: str, program: str = "ipmitool") -> None:
        """Name the BMC; nothing is sent yet."""
        self.settings = settings
        self.where = f"{host}'s BMC ({settings.address}, IPMI)"
        self.program = program
        self.sleep: Callable[[float], None] = time.sleep
        self._password = password

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *stop: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing stays open between calls."""

    def _ask(self, *words: str, timeout_s: float = CALL_S) -> str:
        """Run ipmitool; the password goes by its environment, never by argv."""
        name, _, port = self.settings.address.rpartition(":")
        host, number = (name, port) if name and port.isdigit() else (self.settings.address, "623")
        command = [self.program, "-I", "lanplus", "-H", host.strip("[]"), "-p", number]
        command += ["-U", self.settings.user, "-E", "-N", "2", "-R", "3", *words]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout_s,
                check=False,
                env={**os.environ, "IPMITOOL_PASSWORD": self._password.reveal(), "LC_ALL": "C"},
            )
        except FileNotFoundError:
            raise BmcError("ipmitool is not installed", where=self.where, remedy="apt-get install ipmitool") from None
        except subprocess.TimeoutExpired:
            raise BmcError(f"no answer within {timeout_s:.0f} s to: {' '.join(words)}", where=self.where) from None
        if done.returncode != 0:
            said = (done.stderr.strip() or done.stdout.strip() or f"status {done.returncode}").splitlines()[-1]
            raise BmcError(
                f"`{' '.join(words)}` fails: {said.replace(self._password.reveal(), '****')}", where=self.where
            )
        return done.stdout

    def identity(self) -> Identity:
        """Say which machine this is, from its FRU."""
        fru = parse.fru(self._ask("fru", "print", "0"))
        serial = fru.get("Product Serial", "") or fru.get("Chassis Serial", "")
        wanted = self.settings.serial
        if wanted is not None and wanted.strip().lower() not in {
            value.lower() for name, value in fru.items() if name in ("Product Serial", "Chassis Serial")
        }:
            raise BmcError(
                f"belongs to another machine: serial {serial or 'unknown'}, not {wanted}",
                where=self.where,
                remedy="is bmc.address that of another host?",
            )
        model = fru.get("Product Name", "")
        return Identity(serial, "", model, fru.get("Product Manufacturer", ""), proven=wanted is not None)

    def _proven(self) -> None:
        if not self.identity().proven:
            raise not_named(self.where, "set bmc.serial")

    def power(self) -> Power:
        """Read the power state."""
        return parse.power(self._ask("chassis", "power", "status"))

    def set_power(self, action: PowerAction, deadline_s: float = 120.0) -> PowerSeen:
        """Switch the system, and return when the BMC shows it."""
        self._proven()
        begun = time.monotonic()
        end = begun + deadline_s
        before = self.power()
        said = []
        if action == "cycle":
            if before != "off":
                said.append(self._reach("off", "off", end - deadline_s * 0.4))
            self.sleep(SETTLE_S)
            said.append(self._reach("on", "on", end))
        elif action == "on":
            said.append("was on" if before == "on" else self._reach("on", "on", end))
        elif before == "off":
            said.append("was off")
        elif action == "off":
            try:
                said.append(self._reach("soft", "off", begun + min(GRACE_S, deadline_s / 2)))
            except BmcError as error:
                said += [error.what, self._reach("off", "off", end)]
        else:
            said.append(self._reach("soft" if action == "graceful-off" else "off", "off", end))
        return PowerSeen(self.power(), round(time.monotonic() - begun, 2), "; ".join(said))

    def _reach(self, word: str, wanted: Power, end: float) -> str:
        start = time.monotonic()
        self._ask("chassis", "power", word)
        while self.power() != wanted:
            if time.monotonic() >= end:
                waited = time.monotonic() - start
                raise BmcError(f"power {word} accepted, but it is not {wanted} after {waited:.0f} s", where=self.where)
            self.sleep(1.0)
        return f"power {word}: {wanted} after {time.monotonic() - start:.1f} s"

    def boot(self) -> BootSeen:
        """Read the boot flags (boot parameter 5)."""
        return parse.boot(self._ask("chassis", "bootparam", "get", "5"))

    def boot_once(self, device: BootDevice, uri: str | None = None) -> BootSeen:
        """Have the next boot go to a device."""
        if device not in _DEVICES or uri is not None:
            raise BmcError(f"IPMI has no boot from {device}", where=self.where, remedy="boot by pxe")
        self._proven()
        self._ask("chassis", "bootdev", _DEVICES[device], "options=efiboot")
        seen = self.boot()
        if seen.target != parse.TARGETS[_DEVICES[device]]:
            raise BmcError(
                f"accepted {device} for the next boot, but shows {seen.target or 'nothing'}", where=self.where
            )
        return seen

    def boot_back(self) -> BootSeen:
        """End the boot override."""
        self._proven()
        self._ask("chassis", "bootdev", "none")
        seen = self.boot()
        if seen.target not in ("None", "") and seen.enabled != "Disabled":
            raise BmcError(f"the boot override stays: {seen.target}", where=self.where)
        return seen

    def media(self) -> tuple[MediaSeen, ...]:
        """Refuse: IPMI has no virtual media."""
        raise BmcError("IPMI has no virtual media", where=self.where)

    def insert(self, url: str) -> MediaSeen:
        """Refuse: IPMI has no virtual media."""
        raise BmcError("IPMI has no virtual media", where=self.where, remedy="boot by pxe")

    def eject(self) -> MediaSeen:
        """Refuse: IPMI has no virtual media."""
        raise BmcError("IPMI has no virtual media", where=self.where)

    def sensors(self) -> Readings:
        """Read the sensors."""
        return Readings(parse.sensors(self._ask("sensor", "list", timeout_s=3 * CALL_S)))

    def events(self, since: float = 0.0) -> Events:
        """Read the system event log; its times are taken as UTC."""
        found = parse.events(self._ask("-c", "sel", "elist", timeout_s=3 * CALL_S))
        return Events(tuple(each for each in found if each.at is None or each.at >= since))

    def gpu_telemetry(self) -> Gpus:
        """Say that IPMI knows nothing of GPUs."""
        return Gpus((), ("IPMI tells nothing of GPUs",))

    def firmware(self) -> tuple[Firmware, ...]:
        """Read the BMC's own firmware version."""
        version = parse.pairs(self._ask("mc", "info")).get("Firmware Revision", "")
        return (Firmware("BMC", version),) if version else ()
