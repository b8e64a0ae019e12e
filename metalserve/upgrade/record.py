"""What is written on a host before each step of an upgrade: enough to finish it, and enough to go back."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from metalserve.errors import MetalserveError
from metalserve.releases import Release
from metalserve.settings.common import Section
from metalserve.settings.host_record import HostRecord

RECORD = "/var/lib/metalserve/upgrade.json"
"""The upgrade that is under way, or the last one, on the host."""

CURRENT = "/var/lib/metalserve/release.json"
"""The release that was last proved on the host: where the next upgrade starts, and the way back from it."""

KEPT = 20
"""Finished upgrades that the record keeps."""

Step = Literal["drain", "free", "install", "reload", "reboot", "start", "verify"]
"""In their order; `reboot` only where `reload` cannot do it."""

Direction = Literal["forward", "back"]
Result = Literal["", "done", "rolled back"]


class Past(Section):
    """A finished upgrade, in short."""

    origin: str
    target: str
    started: str
    ended: str
    result: Result
    reason: str = ""


class Record(HostRecord):
    """One upgrade of one host.

    The releases are kept whole: the way back needs neither the controller that began nor its release files.

    Attributes:
        origin: the release that the host was on.
        target: the release that it is to get.
        direction: `back` once something went wrong with `target`.
        step: what is being done; written before it is done.
        started: when the upgrade began, by the host's clock.
        controller: who began or went on with it.
        serving: engines were there when it began, so they must serve at its end.
        stopped: units beside the engines that ran and were stopped.
        excused: checks that were bad before it began, `check subject`: they are no reason to go back.
        reload_tried: the modules could not be exchanged in this direction.
        rebooted_from: boot id before a reboot of this direction; "" before one was asked for.
        reason: why it goes back.
        result: "" while it is under way.
        ended: when it was finished, by the host's clock.
        history: earlier upgrades, the newest first.
    """

    PATH: ClassVar[str] = RECORD

    schema_version: Literal[1] = 1
    origin: Release
    target: Release
    direction: Direction = "forward"
    step: Step = "drain"
    started: str
    controller: str
    serving: bool = False
    stopped: tuple[str, ...] = ()
    excused: tuple[str, ...] = ()
    reload_tried: bool = False
    rebooted_from: str = ""
    reason: str = ""
    result: Result = ""
    ended: str = ""
    history: tuple[Past, ...] = ()

    @property
    def goal(self) -> Release:
        """The release that the host is being brought to now."""
        return self.target if self.direction == "forward" else self.origin

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.result != ""

    @property
    def words(self) -> str:
        """What it is, for people: `2026.10-lts -> 2026.11-lts, going back, at step install`."""
        back = ", going back" if self.direction == "back" else ""
        at = self.result or f"at step {self.step}"
        return f"{self.origin.name} -> {self.target.name}{back}, {at}"

    def at(self, step: Step) -> Record:
        """Return the record as it is written before `step`."""
        return self.model_copy(update={"step": step})

    def back(self, reason: str) -> Record:
        """Return the record of the way back, from its first step on."""
        update = {
            "direction": "back",
            "step": "drain",
            "reason": reason,
            "reload_tried": False,
            "rebooted_from": "",
        }
        return self.model_copy(update=update)

    def end(self, when: str) -> Record:
        """Return the finished record."""
        result: Result = "done" if self.direction == "forward" else "rolled back"
        return self.model_copy(update={"result": result, "ended": when, "step": "verify"})

    def past(self) -> tuple[Past, ...]:
        """Return the history of whatever comes after this record."""
        own = Past(
            origin=self.origin.name,
            target=self.target.name,
            started=self.started,
            ended=self.ended,
            result=self.result,
            reason=self.reason[:300],
        )
        return (own, *self.history)[:KEPT]


class Current(HostRecord):
    """The release that a host was last proved to be on."""

    PATH: ClassVar[str] = CURRENT

    schema_version: Literal[1] = 1
    release: Release = Field(description="the whole release, as its file was then")


def current_release(text: str) -> Release | None:
    """Return the release that the host was last proved to be on, None where that cannot be read."""
    try:
        return Current.read(text).release
    except MetalserveError:
        return None
