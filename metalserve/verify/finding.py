"""`Finding`: what one check says about one thing, in words that stand alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Final, Literal

Status = Literal["skipped", "ok", "warn", "unknown", "fail"]

_ORDER: Final[tuple[Status, ...]] = ("skipped", "ok", "warn", "unknown", "fail")


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        check: stable id (`nvlink-count`).
        status: `ok`; `warn` (works, wants attention); `fail`; `unknown` (could not be read: counts as failing);
            `skipped` (does not apply here).
        subject: what it is about (`GPU 3 (0000:5d:00.0)`, `host`).
        expected: what should be, in words.
        observed: what is, in words.
        impact: what it costs when left alone; empty when ok.
        remedy: what to do; empty when ok.
        source: where the expectation comes from (inventory, catalogue row, vendor document).
    """

    check: str
    status: Status
    subject: str
    expected: str
    observed: str
    impact: str = ""
    remedy: str = ""
    source: str = ""

    @property
    def failing(self) -> bool:
        """True when a node with this finding must not serve."""
        return self.status in ("fail", "unknown")

    def __str__(self) -> str:
        line = f"{self.status}: {self.check}: {self.subject}: {self.observed}"
        if self.status == "ok":
            return line
        line += f"; expected {self.expected}"
        if self.impact:
            line += f"; {self.impact}"
        return f"{line} -> {self.remedy}" if self.remedy else line

    def as_dict(self) -> dict[str, str]:
        """Return the fields for JSON."""
        return asdict(self)


def worst(findings: Iterable[Finding]) -> Status:
    """Return the worst status: fail, then unknown, warn, ok, skipped; `ok` for no findings."""
    return max((f.status for f in findings), key=_ORDER.index, default="ok")
