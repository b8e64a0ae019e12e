"""What differs over a fleet, with the same difference on many hosts told once. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from metalserve.pyinfra_seam.report import RunReport


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference and the hosts that have it.

    Attributes:
        role: who wants it otherwise.
        stage: its stage; "" for what can only be known after other changes.
        what: the difference in words.
        hosts: in order of their names.
    """

    role: str
    stage: str
    what: str
    hosts: tuple[str, ...]

    @property
    def where(self) -> str:
        """The hosts in words: up to three names, else their number."""
        return ", ".join(self.hosts) if len(self.hosts) <= 3 else f"{len(self.hosts)} hosts"

    def as_dict(self) -> dict[str, object]:
        """Return JSON-ready values."""
        return {"role": self.role, "stage": self.stage, "what": self.what, "hosts": list(self.hosts)}


def collapse(entries: Iterable[tuple[str, str, str, str]]) -> list[Difference]:
    """Join (host, role, stage, what) with the same role, stage and words; the order of first appearance stays."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for host, *key in entries:
        found.setdefault((key[0], key[1], key[2]), []).append(host)
    return [Difference(*key, hosts=tuple(sorted(set(hosts)))) for key, hosts in found.items()]


def differences(report: RunReport) -> list[Difference]:
    """Return what would change, by the report of a dry run."""
    hosts = [report.hosts[name] for name in sorted(report.hosts)]
    return collapse((h.name, role, stage, what) for h in hosts for role, stage, what in h.planned)


def unknowns(report: RunReport) -> list[Difference]:
    """Return what can only be known after the changes, by the report of a dry run."""
    hosts = [report.hosts[name] for name in sorted(report.hosts)]
    return collapse((h.name, role, "", what) for h in hosts for role, what in h.unknown)
