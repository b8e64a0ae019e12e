"""What changed between two reports: what got worse since acceptance, what got better, what is only different."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from metalserve.report.diff_hardware import hardware_changes
from metalserve.report.diff_measured import TOLERANCES, measured_changes
from metalserve.report.model import ABOVE_OK, Entry, Host, Report, merged
from metalserve.report.values import address

Way = Literal["worse", "better", "other"]

RANKS: Final = {"ok": 0, "skipped": 0, "warn": 1, "inconclusive": 2, "unknown": 3, "fail": 4}


@dataclass(frozen=True, slots=True)
class Change:
    """One difference.

    Attributes:
        way: `worse`, `better`, or `other` where neither can be said.
        what: check and subject, or the thing ("GPU 3", "drive S8C5...").
        before: as it was; "" where it was not there.
        after: as it is.
        note: tolerance, or remedy.
    """

    host: str
    way: Way
    what: str
    before: str
    after: str
    note: str = ""

    def as_dict(self) -> dict[str, str]:
        """Return the fields for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Difference:
    """All changes between two reports; `notes` are (host, what was not compared and why)."""

    changes: tuple[Change, ...]
    notes: tuple[tuple[str, str], ...] = ()

    def of(self, way: Way) -> list[Change]:
        """Return the changes that go one way."""
        return [c for c in self.changes if c.way == way]

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON (schema 1)."""
        ways: tuple[Way, ...] = ("worse", "better", "other")
        return {
            "schema": 1,
            **{way: [c.as_dict() for c in self.of(way)] for way in ways},
            "notes": [{"host": host, "note": note} for host, note in self.notes],
        }


def compare(old: Report, new: Report, tolerances: Mapping[str, float] = TOLERANCES) -> Difference:
    """Compare two reports.

    Args:
        old: the one to hold against, such as that of the acceptance.
        new: the later one.
        tolerances: how far a measurement may fall, by kind; see `diff_measured`.
    """
    before, after = {h.name: h for h in old.hosts}, {h.name: h for h in new.hosts}
    changes: list[Change] = []
    notes: list[tuple[str, str]] = []
    for name in sorted({*before, *after}):
        was, now = before.get(name), after.get(name)
        if was is None and now is not None:
            changes.append(
                Change(name, "other", "host", "not in the old report", f"{now.verdict} {now.reason}".strip())
            )
        elif now is None and was is not None:
            changes.append(Change(name, "worse", "host", was.verdict, "not in the new report"))
        elif was is not None and now is not None:
            changes += _host(was, now, tolerances, notes)
    if not set(before) & set(after):
        notes.append(("", "the reports have no host in common"))
    return Difference(tuple(changes), tuple(notes))


def _host(was: Host, now: Host, tolerances: Mapping[str, float], notes: list[tuple[str, str]]) -> Iterator[Change]:
    if was.simulated != now.simulated:
        one = "old" if was.simulated else "new"
        notes.append((now.name, f"the {one} report is simulated, the other is not: hardware is not compared"))
    if now.reason and now.reason != was.reason:
        way: Way = "other" if was.reason else "worse"
        yield Change(now.name, way, "run", was.reason or was.verdict, now.reason, now.failure.get("remedy", ""))
    elif was.reason and not now.reason:
        yield Change(now.name, "better", "run", was.reason, now.verdict)
    if now.entries:
        yield from _findings(was, now)
    if was.simulated != now.simulated:
        return
    for way, what, earlier, later, note in hardware_changes(was, now):
        yield Change(now.name, way, what, earlier, later, note)
    for way, what, earlier, later, note in measured_changes(was, now, tolerances, notes):
        yield Change(now.name, way, what, earlier, later, note)


def _findings(was: Host, now: Host) -> Iterator[Change]:
    before, after = _by_subject(was), _by_subject(now)
    checks_before, checks_after = _worst_by_check(was), _worst_by_check(now)
    worse: list[tuple[Entry, str]] = []
    for key, entry in after.items():
        earlier = before.get(key)
        rank = RANKS[entry.status]
        if earlier is not None:
            if rank > RANKS[earlier.status]:
                worse.append((entry, f"{earlier.status}: {earlier.observed}"))
            elif rank < RANKS[earlier.status]:
                yield Change(now.name, "better", _what(entry), _said(earlier), _said(entry))
            elif rank and entry.observed != earlier.observed:
                yield Change(now.name, "other", _what(entry), _said(earlier), _said(entry), entry.remedy)
        elif rank:
            # A check that was fine for the host as a whole names the GPU once one is bad.
            worse.append((entry, checks_before.get(entry.check, "not checked")))
    for entry in merged([e for e, _ in worse], key=lambda e: (e.check, e.status, e.observed, e.expected)):
        earlier_words = next(words for e, words in worse if e.check == entry.check and e.observed == entry.observed)
        yield Change(now.name, "worse", _what(entry), earlier_words, _said(entry), entry.remedy)
    for key, entry in before.items():
        if key in after:
            continue
        if entry.check not in checks_after:
            yield Change(now.name, "other", _what(entry), _said(entry), "no longer checked")
        elif entry.status in ABOVE_OK:
            yield Change(now.name, "better", _what(entry), _said(entry), f"{entry.check}: {checks_after[entry.check]}")


def _by_subject(host: Host) -> dict[tuple[str, str, str], Entry]:
    # GPUs are renumbered when one falls off the bus; their addresses stay.
    found: dict[tuple[str, str, str], Entry] = {}
    for entry in host.entries:
        key = (entry.role, entry.check, address(entry.subject) or entry.subject)
        if key not in found or RANKS[entry.status] > RANKS[found[key].status]:
            found[key] = entry
    return found


def _worst_by_check(host: Host) -> dict[str, str]:
    found: dict[str, str] = {}
    for entry in host.entries:
        found[entry.check] = max(found.get(entry.check, entry.status), entry.status, key=lambda s: RANKS[s])
    return found


def _what(entry: Entry) -> str:
    return f"{entry.check}: {entry.subject}"


def _said(entry: Entry) -> str:
    return f"{entry.status}: {entry.observed}" if entry.observed else entry.status
