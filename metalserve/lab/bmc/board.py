"""One lab BMC without its network: what it remembers, its power switch, and the host's firmware behind it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from metalserve.errors import MetalserveError
from metalserve.lab.bmc import faults, firmware
from metalserve.lab.bmc.machine import Machine
from metalserve.lab.system import read_json, write_json

START_S = 30.0
"""Seconds until a started host must show processes of its own."""
MOST_BOOTS = 3
"""Boots one after the other, after which the firmware stays where it is."""
MOST_ENTRIES = 200

RESETS = ("On", "ForceOff", "GracefulShutdown", "GracefulRestart", "ForceRestart", "PowerCycle", "PushPowerButton")
TARGETS = ("None", "Pxe", "UefiHttp", "Cd", "Hdd", "BiosSetup")

_FRESH: dict[str, Any] = {
    "boot": {"Target": "None", "Enabled": "Disabled", "Mode": "UEFI", "HttpBootUri": None},
    "media": {"Image": None, "Inserted": False},
    "entries": [],
    "order": ["Hdd", "Pxe"],
}


class Board:
    """A BMC and its host's firmware."""

    def __init__(self, directory: Path, machine: Machine, boot_server: Callable[[], str | None]) -> None:
        """Take over from what is in `directory` (state.json, faults.json).

        Args:
            directory: the BMC's own.
            machine: the host.
            boot_server: gives the base URL that the network announces to those who boot from it.
        """
        self.directory = directory
        self.machine = machine
        self.boot_server = boot_server
        self._lock = threading.RLock()
        self._switching = threading.Lock()
        self._lit = False
        self._cancel = threading.Event()
        self._firmware: threading.Thread | None = None
        self.progress = "None"

    # -- what it remembers ------------------------------------------------------------------------------------
    def state(self) -> dict[str, Any]:
        """Return what is remembered."""
        with self._lock:
            return {**_FRESH, **(read_json(self.directory / "state.json") or {})}

    def remember(self, **parts: Any) -> None:
        """Change parts of what is remembered."""
        with self._lock:
            write_json(self.directory / "state.json", {**self.state(), **parts})

    def note(self, message: str, severity: str = "OK", code: str = "OpenBMC.0.1.PowerUnitOn") -> None:
        """Write an entry into the event log."""
        with self._lock:
            entries = self.state()["entries"]
            number = (entries[-1]["number"] if entries else 0) + 1
            entry = {"number": number, "at": time.time(), "message": message, "severity": severity, "code": code}
            self.remember(entries=[*entries, entry][-MOST_ENTRIES:])

    def faulty(self, kind: str) -> bool:
        """Tell whether a fault is in force."""
        return any(each["kind"] == kind for each in faults.active(self.directory))

    # -- power ------------------------------------------------------------------------------------------------
    @property
    def on(self) -> bool:
        """The host has power: its firmware or its operating system runs."""
        return self._lit or self.machine.running()

    def reset(self, kind: str) -> None:
        """Do a reset of Redfish; returns when it has begun, as BMCs do.

        Raises:
            ValueError: there is no such reset.
        """
        if kind not in RESETS:
            raise ValueError(kind)
        if self.faulty("power-ignored"):
            return
        with self._switching:
            if kind == "PushPowerButton":
                kind = "GracefulShutdown" if self.on else "On"
            if kind == "On":
                if not self.on:
                    self._power_on()
            elif kind == "ForceOff":
                self._cut()
            elif kind == "GracefulShutdown":
                self._press()
            elif kind == "GracefulRestart":
                if self.on:
                    self._press()
                    threading.Thread(target=self._again_when_off, daemon=True).start()
            elif self.on or kind == "PowerCycle":  # ForceRestart of a host that is off leaves it off
                self._cut()
                self._power_on()

    def wait(self, timeout_s: float = 60.0) -> None:
        """Wait until the firmware has handed over, or given up (for tests)."""
        thread = self._firmware
        if thread is not None:
            thread.join(timeout_s)

    def _press(self) -> None:
        if not self.faulty("graceful-ignored") and self.machine.running():
            self.note("Power off requested", code="OpenBMC.0.1.PowerButtonPressed")
            self.machine.press()

    def _cut(self) -> None:
        self._cancel.set()
        self.wait()
        was = self.on
        self.machine.cut()
        self._lit = False
        self.progress = "None"
        if was:
            self.note("Power unit off", code="OpenBMC.0.1.PowerUnitOff")

    def _power_on(self) -> None:
        self.note("Power unit on")
        self._cancel = threading.Event()
        self._lit = True
        self._firmware = threading.Thread(target=self._boot, args=(self._cancel,), daemon=True)
        self._firmware.start()

    def _again_when_off(self) -> None:
        deadline = time.monotonic() + 120
        while self.machine.running() and time.monotonic() < deadline:
            time.sleep(0.1)
        with self._switching:
            if not self.on:
                self._power_on()

    # -- firmware ---------------------------------------------------------------------------------------------
    def _boot(self, cancel: threading.Event) -> None:
        """The host's firmware: a boot device, another one after an installation, at last the disk."""
        try:
            for _ in range(MOST_BOOTS):
                target, uri = self._next_device()
                again = firmware.boot(self, target, uri, cancel)
                if cancel.is_set():
                    return
                if not again:
                    break
            else:
                self.note("The host boots over and over", "Warning", "Metalserve.1.0.BootLoop")
            if self.state().get("unbootable"):
                self.note("No bootable device", "Critical", "Metalserve.1.0.NoBootableDevice")
                self.progress = "SystemHardwareInitializationComplete"
                cancel.wait()  # power is on, and nothing runs
                return
            self.progress = "OSBootStarted"
            self.machine.boot_disk()
            deadline = time.monotonic() + START_S
            while not self.machine.running() and time.monotonic() < deadline:
                time.sleep(0.05)
            self.progress = "OSRunning"
        except (MetalserveError, OSError) as error:
            with contextlib.suppress(OSError):
                self.note(f"The host does not boot: {error}", "Critical", "Metalserve.1.0.BootFailed")
        finally:
            self._lit = False

    def _next_device(self) -> tuple[str, str | None]:
        """Return the boot device of this boot; an override for one boot is used up by it."""
        with self._lock:
            boot = dict(self.state()["boot"])
            target = boot["Target"] if boot["Enabled"] in ("Once", "Continuous") else "Hdd"
            uri = boot["HttpBootUri"]
            if boot["Enabled"] == "Once":
                self.remember(boot={**boot, "Target": "None", "Enabled": "Disabled", "HttpBootUri": None})
            return ("Hdd", None) if self.faulty("wrong-boot-order") else (target, uri)
