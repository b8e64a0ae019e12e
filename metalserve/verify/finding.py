"""`Finding`: what one check says about one thing, in words that stand alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, Final, Literal

from metalserve.catalogue.thresholds import Threshold
from metalserve.verify.groups import group_of

Status = Literal["skipped", "ok", "warn", "inconclusive", "unknown", "fail"]

_ORDER: Final[tuple[Status, ...]] = ("skipped", "ok", "warn", "inconclusive", "unknown", "fail")
EVIDENCE_LIMIT: Final = 600
"""Characters of evidence that a finding keeps."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        check: stable id (`nvlink-count`).
        status: `ok`; `warn` (works, wants attention); `fail`; `unknown` (what the check needs could not be read: counts
            as failing); `inconclusive` (the set-up kept the check from an answer: no tool, no permission, a control
            measurement that failed too; counts as a warning: the node may serve, but this is not proven of it);
            `skipped` (does not apply here).
        subject: what it is about (`GPU 3 (0000:5d:00.0)`, `host`).
        expected: what should be, in words.
        observed: what is, in words.
        impact: what it costs when left alone; empty when ok.
        remedy: what to do; empty when ok.
        source: where the expectation comes from (inventory, catalogue row, vendor document).
        evidence: the line or value that it was read from, verbatim; empty when `observed` is just that.
        threshold: the figure of the catalogue that was compared with, or None.
    """

    check: str
    status: Status
    subject: str
    expected: str
    observed: str
    impact: str = ""
    remedy: str = ""
    source: str = ""
    evidence: str = ""
    threshold: Threshold | None = None

    @property
    def failing(self) -> bool:
        """True when a node with this finding must not serve."""
        return self.status in ("fail", "unknown")

    @property
    def warning(self) -> bool:
        """True when a node with this finding may serve, but somebody should look at it."""
        return self.status in ("warn", "inconclusive")

    @property
    def group(self) -> str:
        """Group of the check (`pcie`), empty for checks that are not of the hardware."""
        return group_of(self.check)

    def __str__(self) -> str:
        line = f"{self.status}: {self.check}: {self.subject}: {self.observed}"
        if self.status == "ok":
            return line
        line += f"; expected {self.expected}"
        if self.impact:
            line += f"; {self.impact}"
        return f"{line} -> {self.remedy}" if self.remedy else line

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON; `threshold` is an object or null, `group` is added."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        found["evidence"] = self.evidence[:EVIDENCE_LIMIT]
        found["threshold"] = self.threshold.model_dump(mode="json") if self.threshold else None
        found["group"] = self.group
        return found


def worst(findings: Iterable[Finding]) -> Status:
    """Return the worst status: fail, then unknown, inconclusive, warn, ok, skipped; `ok` for no findings."""
    return max((f.status for f in findings), key=_ORDER.index, default="ok")
