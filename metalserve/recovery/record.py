"""What `deploys/recover.py` writes on a host before each step: enough for the next run to judge it. Pure."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from metalserve.recovery.values import Outcome, Proof, Step, StepRecord, Subject
from metalserve.settings.common import Section
from metalserve.settings.host_record import HostRecord

RECORD = "/var/lib/metalserve/recovery.json"
EVIDENCE = "/var/lib/metalserve/evidence"
"""Directory of the bundles that are kept on the host."""

KEPT = 20
"""Steps that the record keeps."""


class Made(Section):
    """A step of a recovery.

    Attributes:
        rung: its name.
        subjects: kind, name and serial number of what it is done to.
        reason: why.
        boot: the boot that it was decided in.
        begun: seconds since the epoch, by the host's clock.
        ended: the same; None while it is in flight.
        outcome: how it ended.
        proof: what was seen then.
        words: in a line.
    """

    rung: str
    subjects: tuple[tuple[str, str, str], ...] = ()
    reason: str = ""
    boot: str = ""
    begun: float
    ended: float | None = None
    outcome: Outcome | None = None
    proof: Proof | None = None
    words: str = ""

    def record(self, number: int) -> StepRecord:
        """Return it as the ladder knows steps."""
        parts = tuple(Subject(*subject) for subject in self.subjects)
        step = Step(self.rung, parts, self.reason, 0.0, self.boot)
        return StepRecord(number, 0, step, self.begun, self.ended, self.outcome, self.proof, self.words)


class Record(HostRecord):
    """The recovery that is under way on a host, or the last one.

    Attributes:
        begun: seconds since the epoch, by the host's clock.
        controller: who began or went on with it.
        steps: in order.
        result: "" while it is under way.
        words: why it ended so.
    """

    PATH: ClassVar[str] = RECORD

    schema_version: Literal[1] = 1
    begun: float
    controller: str
    steps: tuple[Made, ...] = ()
    result: Literal["", "recovered", "quarantine", "stopped"] = ""
    words: str = ""
    ended: float = Field(0.0, description="seconds since the epoch, by the host's clock; 0 while it is under way")
