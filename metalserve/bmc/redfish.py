"""A BMC that speaks Redfish: who it is, power, boot override, virtual media. Reading logs: `redfish_read`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, Self

import sushy
from sushy import exceptions as sushy_errors

from metalserve.bmc import redfish_boot, redfish_media, redfish_power, redfish_read
from metalserve.bmc.client import (
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
from metalserve.bmc.connector import OPERATION_S, Connector
from metalserve.bmc.errors import BmcError, not_named
from metalserve.bmc.finding import Found, find
from metalserve.bmc.login import Login
from metalserve.catalogue.bmc_quirks import Behaviour, load_bmc_quirks
from metalserve.secrets import Secret
from metalserve.settings.bmc import BmcSettings


class RedfishBmc:
    """A `Bmc` by Redfish: sushy writes, plain JSON is read."""

    def __init__(self, settings: BmcSettings, password: Secret, host: str) -> None:
        """Name the BMC; nothing is sent yet."""
        self.settings = settings
        self.where = f"{host}'s BMC ({settings.address})"
        self.connector = Connector(f"https://{settings.address}", settings.tls, self.where)
        self.connector.hidden = (password.reveal(),)
        self.login = Login(settings.user, password)
        self.sleep: Callable[[float], None] = time.sleep
        self._root: sushy.Sushy | None = None
        self._found: Found | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *stop: object) -> None:
        self.close()

    def close(self) -> None:
        """End the session; a BMC that no longer answers keeps it until it times out."""
        if self._root is not None:
            with contextlib.suppress(BmcError, sushy_errors.SushyError), self.connector.within(5.0):
                self.login.close()
            self._root._auth = None  # sushy would end it once more when it is collected
            self._root = None
        self.connector.close()

    @contextlib.contextmanager
    def asking(self, seconds: float = OPERATION_S) -> Iterator[sushy.Sushy]:
        """Log in if need be, and turn what goes wrong into `BmcError`."""
        try:
            with self.connector.within(seconds):
                if self._root is None:
                    self._root = sushy.Sushy(
                        self.connector.base_url, auth=self.login, connector=self.connector, server_side_retries=0
                    )
                yield self._root
        except sushy_errors.AccessError as error:
            raise BmcError(
                f"refuses the login of user '{self.settings.user}' (HTTP {error.status_code})",
                where=self.where,
                remedy="check bmc.user and bmc.password; BMCs lock an account after a few wrong ones",
                status=error.status_code or 401,
            ) from None
        except sushy_errors.SushyError as error:
            status = getattr(error, "status_code", None) or 0
            said = getattr(error, "detail", None) or str(error)
            what = self.connector.scrubbed(f"HTTP {status}: {said}" if status else said)
            raise BmcError(what, where=self.where, status=status, sent=status >= 500) from None

    # -- who it is --------------------------------------------------------------------------------------------
    def found(self) -> Found:
        """Return the host's system as it was when it was found; call within `asking`."""
        if self._found is None:
            assert self._root is not None
            quirks = load_bmc_quirks()
            listed = redfish_read.members(self.connector, self._root.json, "Systems")
            bodies: list[tuple[str, dict[str, Any] | str]] = []
            for path in listed:
                board = quirks.is_baseboard(path.rstrip("/").rsplit("/", 1)[-1])
                bodies.append((path, redfish_read.attempt(self.connector, path, tries=1 if board else 3)))
            self._found = find(
                bodies,
                serial=self.settings.serial,
                wanted_uuid=self.settings.uuid,
                quirks=quirks,
                where=self.where,
            )
        return self._found

    def system(self) -> Any:
        """Return sushy's view of the host's system, read anew; refuses a system that is not proven to be the host's."""
        assert self._root is not None
        found = self.found()
        if not found.proven:
            serial = str(found.body.get("SerialNumber") or "") or "unknown"
            remedy = f"set bmc.serial (this one says {serial}) or bmc.uuid in the inventory"
            raise not_named(self.where, remedy)
        return self._root.get_system(found.path)

    def behaviour(self) -> Behaviour:
        """Return how this vendor's BMC behaves; call within `asking`."""
        body = self.found().body
        return load_bmc_quirks().of(str(body.get("Manufacturer") or ""), str(body.get("Model") or ""))

    def identity(self) -> Identity:
        """Say which machine this is."""
        with self.asking():
            found = self.found()
        words = {
            key: str(found.body.get(name) or "").strip()
            for key, name in (
                ("serial", "SerialNumber"),
                ("uuid", "UUID"),
                ("model", "Model"),
                ("manufacturer", "Manufacturer"),
            )
        }
        return Identity(
            **words,
            path=found.path,
            members=found.members,
            proven=found.proven,
            simulated=redfish_read.is_simulated(found.body),
        )

    # -- power ------------------------------------------------------------------------------------------------
    def power(self) -> Power:
        """Read the power state."""
        with self.asking():
            return redfish_power.read(self.connector, self.found().path)

    def set_power(self, action: PowerAction, deadline_s: float = 120.0) -> PowerSeen:
        """Switch the system, and return when the BMC shows it."""
        with self.asking(deadline_s + 5.0):
            system = self.system()
            settle_s = self.behaviour().off_settle_s
            switch = redfish_power.Switch(self.connector, system, self.where, self.sleep, settle_s)
            return switch.to(action, deadline_s)

    # -- boot -------------------------------------------------------------------------------------------------
    def boot(self) -> BootSeen:
        """Read the boot override."""
        with self.asking():
            return redfish_boot.read(self.connector, self.found().path, self.behaviour())

    def boot_once(self, device: BootDevice, uri: str | None = None) -> BootSeen:
        """Have the next boot go to a device."""
        with self.asking():
            return redfish_boot.once(self.connector, self.system(), self.behaviour(), device, uri, self.where)

    def boot_back(self) -> BootSeen:
        """End the boot override."""
        with self.asking():
            return redfish_boot.back(self.connector, self.system(), self.behaviour(), self.where)

    # -- virtual media ----------------------------------------------------------------------------------------
    def media(self) -> tuple[MediaSeen, ...]:
        """Read the virtual drives."""
        with self.asking():
            return redfish_media.read(self.connector, self.found().body)

    def insert(self, url: str) -> MediaSeen:
        """Insert an image into the virtual CD drive."""
        with self.asking(2 * OPERATION_S):  # the BMC may fetch the image before it answers
            self.system()
            return redfish_media.insert(self.connector, self.found().body, url, self.where, self.sleep)

    def eject(self) -> MediaSeen:
        """Take the image out of the virtual CD drive."""
        with self.asking():
            self.system()
            return redfish_media.eject(self.connector, self.found().body, self.where, self.sleep)

    # -- reading ----------------------------------------------------------------------------------------------
    def sensors(self) -> Readings:
        """Read the sensors of all chassis."""
        with self.asking(2 * OPERATION_S) as root:
            return redfish_read.sensors(self.connector, root.json)

    def events(self, since: float = 0.0) -> Events:
        """Read the logs of systems, managers and chassis."""
        with self.asking(2 * OPERATION_S) as root:
            return redfish_read.events(self.connector, root.json, since)

    def gpu_telemetry(self) -> Gpus:
        """Read what the BMC knows of GPUs."""
        with self.asking(2 * OPERATION_S) as root:
            return redfish_read.gpus(self.connector, root.json)

    def firmware(self) -> tuple[Firmware, ...]:
        """Read the firmware inventory."""
        with self.asking() as root:
            return redfish_read.firmware(self.connector, root.json)
