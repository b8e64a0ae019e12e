"""Puts inventory, releases and reports together: one record a node, and none left out. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from metalserve.audit.evidence import Evidence, Latest, latest
from metalserve.audit.items import node_items
from metalserve.audit.record import Audit, NodeRecord, Verified
from metalserve.planning import LaunchPlan
from metalserve.releases import Release, Verdict
from metalserve.report.model import ABOVE_OK
from metalserve.report.values import line, mapping
from metalserve.settings import HostSettings


@dataclass(frozen=True)
class Known:
    """What the controller knows beside the reports.

    Attributes:
        settings: of each host of the inventory; None where they could not be read.
        problems: why, by host.
        releases: verdict of each release that can be read.
        newest: the newest release of the same line as each, by name.
        manifests: SHA-256 of each manifest file, by the path in the settings; "" where it cannot be read.
        plans: launch plan of each host as it follows from inventory and hardware, where it could be made.
        drift: differences by host, of `metalserve drift --json`; a host without one is there with none.
        drift_source: that file.
        recoveries: last recovery of each host in words, as `metalserve recover` remembers it, with its marks.
        recovery_source: file of that memory; "" where there is none.
    """

    settings: Mapping[str, HostSettings | None] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)
    releases: Mapping[str, Verdict] = field(default_factory=dict)
    newest: Mapping[str, str] = field(default_factory=dict)
    manifests: Mapping[str, str] = field(default_factory=dict)
    plans: Mapping[str, LaunchPlan] = field(default_factory=dict)
    drift: Mapping[str, list[str]] = field(default_factory=dict)
    drift_source: str = ""
    recoveries: Mapping[str, str] = field(default_factory=dict)
    recovery_source: str = ""

    def release(self, name: str) -> Release | None:
        """Return a release that can be read, or None."""
        verdict = self.releases.get(name)
        return verdict.release if verdict else None


def assemble(
    known: Known,
    evidence: Iterable[Evidence],
    *,
    now: datetime,
    inventory: str = "",
    reports: Iterable[str] = (),
    problems: Iterable[str] = (),
) -> Audit:
    """Return the audit: every host of the inventory, then those that only reports know, each in one record.

    Args:
        known: what the controller knows.
        evidence: what reports say, of any hosts.
        now: for ages.
        inventory: the inventory file; "" when none was given.
        reports: files that were read.
        problems: what could not be read.
    """
    by_host: dict[str, list[Evidence]] = {name: [] for name in known.settings}
    for one in evidence:
        by_host.setdefault(one.host.name, []).append(one)
    nodes = tuple(_node(name, known, latest(found), now, bool(inventory)) for name, found in sorted(by_host.items()))
    return Audit(now, nodes, inventory, tuple(reports), tuple(problems))


def _node(name: str, known: Known, found: Latest, now: datetime, with_inventory: bool) -> NodeRecord:
    settings = known.settings.get(name)
    simulated = (settings is not None and settings.simulated) or any(
        e.host.simulated for e in (found.verified, found.changed, found.compared, found.newest) if e is not None
    )
    return NodeRecord(
        name,
        (name in known.settings) if with_inventory else None,
        simulated,
        tuple(node_items(name, known, found, now)),
        _verified(found.verified, now),
        tuple(_exceptions(name, known, found)),
    )


def _verified(found: Evidence | None, now: datetime) -> Verified:
    if found is None:
        return Verified()
    host = found.host
    depth = line(mapping(host.measurements).get("depth")) or ("quick" if host.entries else "")
    bad = tuple(f"{e.check}: {e.subject}: {e.observed}" for e in host.at("fail", "unknown"))
    days = (now - found.started).total_seconds() / 86400 if found.started else None
    failed = ((host.reason, *bad) if host.reason else bad)[:20]
    return Verified(host.verdict, found.started, days, depth, host.counts, failed, found.file)


def _exceptions(name: str, known: Known, found: Latest) -> list[str]:
    said: list[str] = []
    if name in known.problems:
        said.append(f"inventory: {known.problems[name]}")
    settings = known.settings.get(name)
    if settings is not None:
        said += settings.warnings()
        verdict = known.releases.get(settings.release)
        if verdict is not None:
            said += [f"release {settings.release}: {each.key}: {each.what}" for each in verdict.warnings]
    for one in (found.verified, found.newest):
        said += list(one.host.warnings) if one is not None else []
    if found.verified is not None:
        let = found.verified.host.at(*(s for s in ABOVE_OK if s in ("warn", "inconclusive")))
        said += [f"{e.status}: {e.check}: {e.subject}: {e.observed}" for e in let]
    return list(dict.fromkeys(said))
