"""A report file as values; `metalserve.report.reading` makes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from metalserve.errors import MetalserveError
from metalserve.report.values import line, mappings

STATUSES: Final = ("fail", "unknown", "inconclusive", "warn", "ok", "skipped")
"""Of findings, worst first."""
ABOVE_OK: Final = STATUSES[:4]
_FAILED = ("failed", "unreachable", "interrupted", "not reached")


@dataclass(frozen=True, slots=True)
class Entry:
    """One finding of a report, or several that differ in nothing but their subject.

    Attributes:
        status: one of `STATUSES`; a status that is not known counts as `unknown`.
        subjects: what it is about.
    """

    check: str
    status: str
    subjects: tuple[str, ...]
    expected: str = ""
    observed: str = ""
    evidence: str = ""
    impact: str = ""
    remedy: str = ""
    source: str = ""
    role: str = ""

    @property
    def subject(self) -> str:
        """All subjects in one line."""
        return ", ".join(self.subjects)

    @property
    def brief(self) -> str:
        """All subjects, where they are many the first and the last."""
        if len(self.subjects) < 4:
            return self.subject
        return f"{len(self.subjects)} alike, {self.subjects[0]} to {self.subjects[-1]}"


@dataclass(frozen=True)
class Host:
    """One host of a report; what the file does not say is empty.

    Attributes:
        outcome: how the run ended for it, in the run's words (`unchanged`, `failed`, `unreachable`).
        failure: `role`, `stage`, `what`, `evidence`, `remedy` of what stopped it.
        proofs: name and line of what roles proved.
    """

    name: str
    outcome: str = ""
    simulated: bool = False
    release: str = ""
    entries: tuple[Entry, ...] = ()
    failure: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    proofs: tuple[tuple[str, str], ...] = ()
    hardware: Mapping[str, Any] = field(default_factory=dict)
    measurements: Mapping[str, Any] = field(default_factory=dict)

    @property
    def counts(self) -> Counter[str]:
        """Findings by status."""
        return Counter(e.status for e in self.entries)

    @property
    def verdict(self) -> str:
        """The worst status; `fail` also where the run failed, `unknown` where nothing was checked, or all skipped."""
        if self.failure or self.outcome in _FAILED:
            return "fail"
        if not self.entries:
            return "unknown"
        worst = min((e.status for e in self.entries), key=STATUSES.index)
        return "unknown" if worst == "skipped" else worst

    @property
    def reason(self) -> str:
        """Why the verdict is what it is, where findings do not say it; else ""."""
        if self.failure and not self._told_by_findings():
            return self.failure.get("what", "")
        if self.outcome in _FAILED and not self.failure:
            return {"unreachable": "no connection", "not reached": "the run ended before its turn"}.get(
                self.outcome, f"the run {self.outcome}"
            )
        if not self.entries:
            return "no findings: nothing was checked in this run"
        return "" if self.verdict != "unknown" or self.counts["unknown"] else "every check was skipped"

    def _told_by_findings(self) -> bool:
        # A verify run fails a host with its first bad finding, and all of them as evidence: they stand below anyway.
        what = self.failure.get("what", "")
        bad = [e for e in self.entries if e.status in ("fail", "unknown") and e.observed]
        return self.failure.get("stage", "").startswith("prove") and any(e.observed in what for e in bad)

    def at(self, *statuses: str) -> list[Entry]:
        """Return the findings with one of `statuses`, worst first."""
        found = [e for e in self.entries if e.status in statuses]
        return sorted(found, key=lambda e: STATUSES.index(e.status))


@dataclass(frozen=True)
class Report:
    """A report file.

    Attributes:
        started: UTC, ISO 8601, as written; "" when it is not there.
        seconds: how long the run took, or None.
        version: version of metalserve that made it; "" for reports that do not say.
        complete: whether the run went through to its end; None when the file does not say.
    """

    hosts: tuple[Host, ...]
    started: str = ""
    seconds: float | None = None
    version: str = ""
    complete: bool | None = None

    @property
    def simulated(self) -> tuple[str, ...]:
        """Names of the hosts whose hardware or measurements are simulated."""
        return tuple(h.name for h in self.hosts if h.simulated)

    @property
    def releases(self) -> tuple[str, ...]:
        """The releases that the hosts were held against."""
        return tuple(dict.fromkeys(h.release for h in self.hosts if h.release))

    @property
    def verdicts(self) -> Counter[str]:
        """Hosts by verdict."""
        return Counter(h.verdict for h in self.hosts)

    def only(self, names: Sequence[str]) -> Report:
        """Return the report of those hosts alone.

        Raises:
            MetalserveError: it has no such host.
        """
        missing = [n for n in names if n not in {h.name for h in self.hosts}]
        if missing:
            there = ", ".join(h.name for h in self.hosts[:8]) + (", ..." if len(self.hosts) > 8 else "")
            raise MetalserveError(f"no host {missing[0]!r} in this report", remedy=f"it has {there or 'none'}")
        return replace(self, hosts=tuple(h for h in self.hosts if h.name in names))


def merged(entries: Iterable[Entry], key: Callable[[Entry], Any] | None = None) -> list[Entry]:
    """Return `entries` with those made one that differ in nothing but their subject, in the order of the first."""
    groups: dict[Any, list[Entry]] = {}
    for entry in entries:
        alike = key(entry) if key else (entry.check, entry.status, entry.expected, entry.observed, entry.evidence)
        groups.setdefault(alike, []).append(entry)
    return [
        replace(group[0], subjects=tuple(s for e in group for s in e.subjects)) if len(group) > 1 else group[0]
        for group in groups.values()
    ]


def hosts_by_verdict(hosts: Iterable[Host]) -> list[Host]:
    """Return hosts, worst first, then by name."""
    return sorted(hosts, key=lambda h: (STATUSES.index(h.verdict), h.name))


def gpu_name(host: Host) -> str:
    """Return what GPUs a host has ("8x NVIDIA H100 80GB HBM3"); "" when it is not known."""
    names = Counter(line(g.get("name")) for g in mappings(host.hardware.get("gpus")))
    found = ", ".join(f"{count}x {name or 'unnamed GPU'}" for name, count in names.items())
    if found:
        return found
    on_bus = len(mappings(host.hardware.get("pci_gpus")))
    return f"{on_bus} GPU(s) on the PCI bus" if on_bus else ""
