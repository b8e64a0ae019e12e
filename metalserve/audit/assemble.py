"""Puts inventory, releases and reports together: one record a node, and none left out. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from metalserve.audit.evidence import Evidence, Latest, latest
from metalserve.audit.items import node_items
from metalserve.audit.known import Known
from metalserve.audit.record import Audit, NodeRecord, Verified
from metalserve.report.model import ABOVE_OK
from metalserve.report.values import line, mapping


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
