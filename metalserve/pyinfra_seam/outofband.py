"""What a recovery does beside the host: power by its BMC. Writing its OS template anew stands in `reimaging.py`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from metalserve.errors import MetalserveError
from metalserve.pyinfra_seam.recovery_sessions import Sessions, boot_of
from metalserve.recovery.ports import Done
from metalserve.recovery.values import Step
from metalserve.settings import HostSettings


class OutOfBand:
    """The BMCs of an inventory's hosts.

    Args:
        settings: host -> settings.
    """

    def __init__(self, settings: Mapping[str, HostSettings]) -> None:
        self._settings = settings
        self._why: dict[str, str] = {}

    def glance(self, host: str) -> tuple[bool | None, str, dict[str, str]]:
        """Return whether the host has power (None: not known), what its BMC says in words, its evidence as files."""
        try:
            with self.open(host) as bmc:
                from metalserve.bmc.evidence import collect

                power = bmc.power()
                return {"on": True, "off": False}.get(power), f"its BMC says: power {power}", collect(bmc)
        except MetalserveError as error:
            return None, str(error), {}

    def have(self, host: str, rung: str) -> set[str]:
        """Return which of the ladder's needs there are; the BMC is asked only where the rung may need it."""
        found: set[str] = set()
        if rung not in ("reboot", "power-cycle", "reimage"):
            return found
        try:
            with self.open(host) as bmc:
                bmc.power()
            found.add("bmc")
        except MetalserveError as error:
            self._why[host] = str(error)
        recovery = self._settings[host].recovery
        if recovery.template:
            found.add("template")
        if recovery.disk_serial:
            found.add("disk-serial")
        return found

    def lacking(self, host: str) -> str:
        """Return why the BMC could not be asked last, in words."""
        return self._why.get(host, "")

    def act(self, host: str, step: Step, sessions: Sessions, until: float) -> Done:
        """Switch a host off and on, and wait until it answers in another boot.

        Raises:
            MetalserveError: the BMC refuses, or does not answer.
        """
        with self.open(host) as bmc:
            if step.rung == "reboot":  # SSH is dead: in order if the host still listens, by force if not
                bmc.set_power("off", min(300.0, until - time.monotonic()))
                seen = bmc.set_power("on", min(300.0, until - time.monotonic()))
            else:
                seen = bmc.set_power("cycle", min(600.0, until - time.monotonic()))
        came, words = sessions.wait_for(
            host, lambda said: bool(boot_of(said)) and boot_of(said) != step.boot, until, "the power cycle"
        )
        return Done("done" if came else "failed", f"BMC: {seen.words}; {words}")

    def open(self, host: str) -> Any:
        """Open a host's BMC.

        Raises:
            MetalserveError: it has none, or it does not answer.
        """
        settings = self._settings[host].bmc
        if settings is None:
            raise MetalserveError("no BMC is set for it", where=host, remedy="give it `bmc` settings")
        from metalserve.bmc import open_bmc

        return open_bmc(settings, host)
