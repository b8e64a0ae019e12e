"""What a run's report says of the next boot of its hosts. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from metalserve.pyinfra_seam.report import RunReport
from metalserve.verify.next_boot import VERDICT, Answer, answer_of

_QUIET = ("ok", "skipped")


@dataclass(frozen=True, slots=True)
class HostOutlook:
    """What the next reboot would do to one host.

    Attributes:
        host: its name.
        answer: would it break it.
        words: the verdict as a line.
        remedy: what to do; empty when nothing.
        findings: what is not good, the verdict left out, as reports keep findings.
    """

    host: str
    answer: Answer
    words: str
    remedy: str
    findings: tuple[Mapping[str, Any], ...]

    @property
    def decayed(self) -> bool:
        """Whether there is something to be done, or to be found out."""
        return self.answer in ("YES", "UNKNOWN") or bool(self.findings)

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {
            "answer": self.answer,
            "words": self.words,
            "remedy": self.remedy,
            "findings": [dict(f) for f in self.findings],
        }


def outlooks(report: RunReport) -> list[HostOutlook]:
    """Return the outlook of each host on which role next_boot had its turn, by name."""
    found = []
    for name, host in sorted(report.hosts.items()):
        verdict = next((f for f in host.findings if f.get("check") == VERDICT), None)
        if verdict is None:
            continue
        rest = [f for f in host.findings if f.get("check", "").startswith(f"{VERDICT}-") and f["status"] not in _QUIET]
        words = verdict["observed"]
        found.append(HostOutlook(name, answer_of(words), words, verdict.get("remedy", ""), tuple(rest)))
    return found
