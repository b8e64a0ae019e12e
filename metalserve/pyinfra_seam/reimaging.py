"""Writes a host's system anew from its OS template: order, boot device, power, result, new host key, SSH again.

What may be done follows from the order alone (`metalserve.recovery.reimage`): it has one permission, so that a BMC
which boots from the network for ever, a second controller and one that comes back from the dead write nothing twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Final

from metalserve.bmc.client import Bmc
from metalserve.bmc.errors import BmcError
from metalserve.errors import MetalserveError
from metalserve.paths import templates_directory
from metalserve.pyinfra_seam.boot_device import DEVICES, boot_back, boot_from
from metalserve.pyinfra_seam.recovery_sessions import Sessions, boot_of
from metalserve.recovery.ports import Done
from metalserve.recovery.reimage import Wanted, decide
from metalserve.recovery.values import Step
from metalserve.settings import HostSettings
from metalserve.templates.installer import boot_script, installs
from metalserve.templates.machine_identity import Identity
from metalserve.templates.order import Order, utc_now
from metalserve.templates.orders import Orders
from metalserve.templates.shelf import Build, Shelf
from metalserve.templates.signing import trusted_keys, verified_manifest

ASKS_S: Final = 1800.0
"""Seconds within which a machine that was switched on asks for its permission: the POST of a GPU server takes ten
minutes and more (ladder.yaml, source `post`)."""

COMES_S: Final = 600.0
"""Least seconds that an installed host has to come up, however much of the deadline the installation took."""

_LOOK_AGAIN_S: Final = 2.0


class Reimaging:
    """Re-images the hosts of an inventory; the shelf and the orders are this controller's (`templates_directory`).

    Args:
        settings: host -> settings.
        open_bmc: opens a host's BMC.
        say: told what is being done: host, words.
    """

    def __init__(
        self,
        settings: Mapping[str, HostSettings],
        open_bmc: Callable[[str], Bmc],
        say: Callable[[str, str], None] = lambda host, words: None,
    ) -> None:
        self._settings, self._open, self._say = settings, open_bmc, say
        home = templates_directory()
        self.orders, self._shelf = Orders(home / "orders"), Shelf(home / "shelf")
        self._finished: dict[str, str] = {}

    # -- what can be done

    def why_not(self, host: str, since: float) -> str:
        """Return what is lacking to write this host anew; "" when nothing is.

        Args:
            host: its name.
            since: seconds since the epoch: orders from then on are this recovery's own.
        """
        try:
            decision = decide(self.orders.get(host), self._wanted(host), since, utc_now())
            if decision.move == "refuse":
                return decision.words
            if decision.move == "place":
                self._build(host)
            if decision.move in ("place", "go-on"):
                self._server(host, ordered=decision.move == "go-on")
        except MetalserveError as error:
            return str(error)
        return ""

    def in_flight(self, host: str) -> str:
        """Return how far an order is that has not ended; "" when there is none."""
        order = self.orders.get(host)
        if order is None or not (order.state == "permitted" or order.waits(utc_now())):
            return ""
        return f"its order {order.number} is {order.state}, without result"

    def installed(self, host: str, sessions: Sessions, since: float) -> str:
        """Return why the order of this recovery was not carried out; "" when it was.

        What follows an installation is done, if the controller that waited for it died before.
        """
        order = self.orders.get(host)
        if order is None:
            return "nothing was ordered"
        if decide(order, self._wanted(host), since, utc_now()).move != "installed":
            return f"its order is {order.state}: {order.words or 'no words'}"
        self._finish(host, order, sessions)
        return ""

    def _wanted(self, host: str) -> Wanted:
        recovery, bmc = self._settings[host].recovery, self._settings[host].bmc
        if recovery.template is None or recovery.disk_serial is None:
            raise MetalserveError("recovery.template and recovery.disk_serial are not both set", where=host)
        if recovery.boot_server is None:
            raise MetalserveError(
                "recovery.boot_server is not set", where=host, remedy="give the URL of `metalserve template serve`"
            )
        identity = Identity(serial=bmc.serial if bmc else None, uuid=bmc.uuid if bmc else None)
        if not identity.known:
            raise MetalserveError("bmc.serial and bmc.uuid tell no machine from another", where=host)
        return Wanted(identity, recovery.template, recovery.disk_serial)

    def _build(self, host: str) -> Build:
        """Return the build that is to be written, after its signature was verified."""
        recovery = self._settings[host].recovery
        found = self._shelf.build(str(recovery.template), recovery.build)
        verified_manifest(found.path, trusted_keys([Path(each) for each in recovery.template_keys]))
        return found

    def _server(self, host: str, *, ordered: bool) -> None:
        """See that the boot server answers, and serves the orders of this controller."""
        url = str(self._settings[host].recovery.boot_server)
        try:
            script = boot_script(url, self._wanted(host).identity)
        except MetalserveError as error:
            raise MetalserveError(
                f"the boot server does not answer: {error.what}", where=url, remedy="start `metalserve template serve`"
            ) from error
        if not script.startswith("#!ipxe"):
            raise MetalserveError("is no boot server", where=url, remedy="start `metalserve template serve`")
        if installs(script) != ordered:
            how = "does not see the order that was placed here" if ordered else "has an order that is not here"
            raise MetalserveError(
                how, where=url, remedy="start `metalserve template serve` on this controller, in this directory"
            )

    # -- acting

    def act(self, host: str, step: Step, sessions: Sessions, until: float, since: float) -> Done:
        """Write a host anew, or go on with what was begun, and wait until it answers in its new system.

        Args:
            host: its name.
            step: the step.
            sessions: reaches hosts by SSH.
            until: `time.monotonic()` at which it is given up.
            since: seconds since the epoch: orders from then on are this recovery's own.
        """
        decision = decide(self.orders.get(host), self._wanted(host), since, utc_now())
        if decision.move == "refuse":
            return Done("refused", decision.words)
        if decision.move == "place":
            try:
                self._place(host, until)
            except MetalserveError as error:
                return Done("refused", str(error))
        order = self.orders.get(host)
        assert order is not None
        named = f"order {order.number}: {order.template} {order.build} on disk {order.disk.serial}"
        self._say(host, named)
        if decision.move in ("place", "go-on"):
            trouble = self._boot(host, until)
            if trouble and self._withdrawn(host):
                return Done("failed", f"{named}; {trouble}; {self._back(host)}")
        try:
            order = self._awaited(host, order, until)
        except MetalserveError as error:
            return Done("unknown", f"{named}; {error}; {self._back(host)}")
        if order.state == "permitted":
            return Done("unknown", f"{named}; permitted, and no result in time; {self._back(host)}")
        if order.state != "done":
            said = order.words or "the machine did not ask the boot server"
            return Done("failed", f"{named}; {order.state}: {said}; {self._back(host)}")
        finished = self._finish(host, order, sessions)
        came, words = sessions.wait_for(
            host,
            lambda said: bool(boot_of(said)) and boot_of(said) != step.boot,
            max(until, time.monotonic() + COMES_S),
            "its installation",
        )
        return Done("done", f"{named}; {order.words}; {finished}; {words}{'' if came else _UNTRUSTED}")

    def _place(self, host: str, until: float) -> None:
        """Place the order, and see that the boot server gives it out; MetalserveError: there is none then."""
        wanted, build = self._wanted(host), self._build(host)
        self._server(host, ordered=False)
        life = timedelta(seconds=max(60.0, until - time.monotonic()))
        self.orders.place(
            host,
            identity=wanted.identity,
            template=build.name,
            build=build.build,
            disk_serial=wanted.disk,
            life=life,
        )
        try:
            self._server(host, ordered=True)
        except MetalserveError:
            self.orders.withdraw(host)
            raise

    def _boot(self, host: str, until: float) -> str:
        """Boot the host into the installer; returns what went wrong for certain, in words."""
        recovery = self._settings[host].recovery
        devices = DEVICES if recovery.boot_device == "auto" else (recovery.boot_device,)
        iso = f"{recovery.boot_server}/boot/installer.iso"
        try:
            with self._open(host) as bmc:
                self._say(host, f"boots its installer: {boot_from(bmc, devices, iso, host)}")
                try:
                    bmc.set_power("cycle", max(60.0, min(600.0, until - time.monotonic())))
                except BmcError as error:
                    if not error.sent:
                        raise
                    self._say(host, f"{error}; the order will say what the host did")
        except MetalserveError as error:
            return str(error)
        return ""

    def _awaited(self, host: str, order: Order, until: float) -> Order:
        """Wait for the end of the order, and return it; MetalserveError: it is no longer there."""
        asks_until, number, back = min(until, time.monotonic() + ASKS_S), order.number, False
        while True:
            found = self.orders.get(host)
            if found is None or found.number != number:
                raise MetalserveError(f"its order {number} was taken away or replaced by somebody", where=host)
            if found.state in ("done", "failed"):
                return found
            if found.state == "permitted" and not back:
                # the installer runs: whatever the BMC makes of Once, the next boot is to be that of the disk
                self._back(host)
                back = True
            if found.state == "ordered" and time.monotonic() > asks_until and self._withdrawn(host):
                return found
            if time.monotonic() > until and found.state == "permitted":
                return found
            time.sleep(_LOOK_AGAIN_S)

    def _withdrawn(self, host: str) -> bool:
        """Withdraw the order; False when the machine has got its permission meanwhile."""
        try:
            return self.orders.withdraw(host)
        except MetalserveError:
            return False

    def _back(self, host: str) -> str:
        return boot_back(lambda: self._open(host), _LOOK_AGAIN_S)

    def _finish(self, host: str, order: Order, sessions: Sessions) -> str:
        """Boot device back to the disk; the host keys that the installer reported are the only ones believed."""
        if order.number in self._finished:
            return self._finished[order.number]
        words = self._back(host)
        if order.host_keys:
            try:
                where = sessions.trust(host, order.host_keys)
                words += f"; host keys as its installer reported them: {len(order.host_keys)} in {where}"
            except MetalserveError as error:
                words += f"; its host keys are not known: {error}"
        else:
            words += "; its installer reported no host key"
        self._finished[order.number] = words
        return words


_UNTRUSTED = (
    "; if SSH refuses its new host key: read it on the console (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub), "
    "replace the host's line in known_hosts (ssh-keygen -R ADDRESS), and recover it again"
)
