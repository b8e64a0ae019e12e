"""Power by Redfish: done is what the BMC shows afterwards."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

from sushy import ResetType
from sushy import exceptions as sushy_errors

from metalserve.bmc.client import GRACE_S, Power, PowerAction, PowerSeen
from metalserve.bmc.connector import Connector
from metalserve.bmc.errors import BmcError

_LOOK_S = 0.5
_SHOWN: dict[str, Power] = {"On": "on", "Off": "off"}


def read(connector: Connector, path: str) -> Power:
    """Return the power state of a system; anything but On and Off (PoweringOn, Paused, nothing) is unknown."""
    return _SHOWN.get(str(connector.json(path).get("PowerState")), "unknown")


class Switch:
    """The power switch of one system."""

    def __init__(
        self, connector: Connector, system: Any, where: str, sleep: Callable[[float], None], settle_s: float
    ) -> None:
        """Take sushy's system, and how long it stays off in a power cycle (seconds)."""
        self.connector = connector
        self.system = system
        self.where = where
        self.sleep = sleep
        self.settle_s = settle_s

    def to(self, action: PowerAction, deadline_s: float) -> PowerSeen:
        """Switch, and wait until the BMC shows it.

        Raises:
            BmcError: it does not show it in time, or does not offer what is needed.
        """
        begun = time.monotonic()
        end = begun + deadline_s
        before = self.look()
        done: list[str] = []
        if action == "cycle":
            if before != "off":
                done.append(self.reach("off", ["ForceOff", "ForceOff"], end - deadline_s * 0.4))
            self.sleep(min(self.settle_s, max(0.0, end - time.monotonic() - 5.0)))
            done.append(self.reach("on", ["On", "On"], end))
        elif action == "on":
            done.append(self.reach("on", ["On", "On"], end) if before != "on" else "was on")
        elif before == "off":
            done.append("was off")
        elif action == "force-off":
            done.append(self.reach("off", ["ForceOff", "ForceOff"], end))
        elif action == "graceful-off":
            done.append(self.reach("off", ["GracefulShutdown"], end))
        else:
            try:
                done.append(self.reach("off", ["GracefulShutdown"], begun + min(GRACE_S, deadline_s / 2)))
            except BmcError as error:
                if error.status in (401, 403):
                    raise
                done += [error.what, self.reach("off", ["ForceOff", "ForceOff"], end)]
        power = self.look()
        return PowerSeen(power, round(time.monotonic() - begun, 2), "; ".join(done))

    def look(self) -> Power:
        """Read the power state; unknown while the BMC cannot say."""
        try:
            return read(self.connector, self.system.path)
        except (BmcError, sushy_errors.ServerSideError):
            if self.connector.left() <= 1.0:
                raise
            return "unknown"

    def reach(self, wanted: Power, resets: list[str], end: float) -> str:
        """Ask for resets, one after the other, until the power is as wanted.

        One that was accepted but not done is asked for again when half of the time has passed: after a look, and only
        those that do nothing when they have been done already (On, ForceOff).
        """
        start = time.monotonic()
        said = self.ask(resets[0], wanted)
        for number, _ in enumerate(resets):
            if number:
                said = f"{said}, again {self.ask(resets[number], wanted)}"
            until = start + (end - start) * (number + 1) / len(resets)
            while True:
                if self.look() == wanted:
                    return f"{said}: {wanted} after {time.monotonic() - start:.1f} s"
                if time.monotonic() >= until:
                    break
                self.sleep(_LOOK_S)
        raise BmcError(
            f"{said}, but it is not {wanted} after {time.monotonic() - start:.0f} s",
            where=self.where,
            remedy="look at the BMC's own page and event log; a BMC that lies may need a reset of its own",
        )

    def ask(self, reset: str, wanted: Power) -> str:
        """Ask for one reset; an answer that was lost is no failure yet: what the BMC shows decides."""
        try:
            self.system.reset_system(ResetType(reset))
        except sushy_errors.InvalidParameterValueError:
            with contextlib.suppress(sushy_errors.SushyError):
                offered = ", ".join(sorted(each.value for each in self.system.get_allowed_reset_system_values()))
                raise BmcError(f"does not offer {reset} (it offers {offered})", where=self.where) from None
            raise
        except BmcError as error:
            if not error.sent:
                raise
            return f"{reset} sent, the answer was lost"
        except sushy_errors.AccessError:
            raise
        except sushy_errors.HTTPError as error:
            if self.look() == wanted:
                return f"{reset} refused (HTTP {error.status_code})"
            if (error.status_code or 0) < 500:
                raise
            return f"{reset} answered with HTTP {error.status_code}"
        return f"{reset} accepted"
