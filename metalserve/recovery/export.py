"""What the store remembers, for other programs: one JSON document, or a CSV table with a line a step. Pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from metalserve.recovery.memory import Entry, Memory
from metalserve.recovery.values import Attempt, StepRecord

SCHEMA = 1

COLUMNS = (
    "attempt", "host", "group", "actor", "causes", "subjects", "verdict_rung", "evidence", "begun", "ended", "result",
    "words", "step", "rung", "step_subjects", "reason", "step_begun", "step_ended", "outcome", "proof", "step_words",
)  # fmt: skip
"""Columns of the CSV table. Attempts without a step have one line, in which the step's columns are empty."""


def iso(seconds: float | None) -> str | None:
    """Return a time as ISO 8601 in UTC."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def attempt_as_dict(attempt: Attempt) -> dict[str, Any]:
    """Return an attempt as plain values; times as ISO 8601."""
    found = asdict(attempt)
    found["steps"] = [_step_as_dict(step) for step in attempt.steps]
    return found | {"begun": iso(attempt.begun), "ended": iso(attempt.ended)}


def standing_as_dict(memory: Memory) -> dict[str, Any]:
    """Return what holds now: breaker, attempts that are open, locks, marks."""
    breaker, now = memory.breaker, memory.now
    return {
        "schema": SCHEMA,
        "now": iso(now),
        "breaker": {
            "open": breaker.open,
            "since": iso(breaker.since) if breaker.open else None,
            "why": breaker.why,
            "hosts": list(breaker.hosts),
            "closed_by": breaker.closed_by,
            "closed_at": iso(breaker.closed_at) if breaker.closed_at else None,
        },
        "open": [attempt_as_dict(attempt) for attempt in memory.open],
        "locks": [
            {"host": each.host, "actor": each.actor, "since": iso(each.since), "expires": iso(each.expires),
             "live": each.live}
            for each in memory.locks
        ],
        "marks": [asdict(mark) | {"at": iso(mark.at), "until": iso(mark.until)} for mark in memory.marks],
    }  # fmt: skip


def history_as_dict(attempts: Sequence[Attempt], journal: Iterable[Entry]) -> dict[str, Any]:
    """Return attempts, the newest first, and the journal, the oldest first."""
    return {
        "schema": SCHEMA,
        "attempts": [attempt_as_dict(attempt) for attempt in attempts],
        "journal": [asdict(entry) | {"at": iso(entry.at)} for entry in journal],
    }


def as_csv(attempts: Iterable[Attempt]) -> str:
    """Return a line a step, under a line of `COLUMNS`.

    A text that a spreadsheet would take for a formula gets an apostrophe before it: a host's log is not trusted.
    """
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(COLUMNS)
    for attempt in attempts:
        own = [
            attempt.id, attempt.host, attempt.group, attempt.actor, " ".join(attempt.causes),
            _subjects(attempt.subjects), attempt.rung, attempt.evidence, iso(attempt.begun), iso(attempt.ended),
            attempt.result, attempt.words,
        ]  # fmt: skip
        for step in attempt.steps or (None,):
            table.writerow([_cell(value) for value in (*own, *_step_cells(step))])
    return out.getvalue()


def _step_cells(record: StepRecord | None) -> tuple[Any, ...]:
    if record is None:
        return ("",) * 9
    step = record.step
    times = (iso(record.begun), iso(record.ended))
    return (
        record.id, step.rung, _subjects(step.subjects), step.reason, *times, record.outcome, record.proof, record.words
    )  # fmt: skip


def _step_as_dict(record: StepRecord) -> dict[str, Any]:
    found = asdict(record)
    return {
        "id": record.id, **found["step"], "begun": iso(record.begun), "ended": iso(record.ended),
        "outcome": record.outcome, "proof": record.proof, "words": record.words,
    }  # fmt: skip


def _subjects(subjects: Iterable[Any]) -> str:
    return " ".join(f"{s.kind}:{s.name}" + (f"({s.serial})" if s.serial else "") for s in subjects)


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
