"""Values to rows of the store and back. What no metalserve wrote is damage, never an empty value."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, get_args

from metalserve.recovery.database import DamagedRow
from metalserve.recovery.values import (
    Attempt,
    BreakerState,
    Mark,
    MarkKind,
    Outcome,
    Proof,
    Result,
    Sighting,
    Step,
    StepRecord,
    Subject,
)

STEP = "id, attempt, rung, subjects, reason, deadline_s, begun, ended, outcome, proof, words, boot"
ATTEMPT = "id, host, host_group, actor, causes, subjects, rung, evidence, begun, ended, result, words"


def plain(text: str) -> str:
    """Return text that SQLite takes: what a host printed may hold halves of characters."""
    return text.encode("utf-8", "replace").decode()


def names(values: Iterable[str]) -> str:
    """Return names as they are kept."""
    return json.dumps([plain(value) for value in values])


def parts(subjects: Iterable[Subject]) -> str:
    """Return subjects as they are kept."""
    return json.dumps([[plain(s.kind), plain(s.name), plain(s.serial)] for s in subjects])


def pairs(values: dict[str, str]) -> str:
    """Return factors as they are kept."""
    return json.dumps({plain(key): plain(value) for key, value in values.items()})


def read_attempts(connection: sqlite3.Connection, where: str, arguments: Sequence[Any]) -> list[Attempt]:
    """Return the attempts for which `where` holds, each with its steps; the newest first."""
    # The condition is a constant of this package, never text from outside.
    every = f"SELECT {ATTEMPT} FROM attempts WHERE {where} ORDER BY id DESC"  # noqa: S608
    theirs = f"SELECT {STEP} FROM steps WHERE attempt IN (SELECT id FROM attempts WHERE {where}) ORDER BY id"  # noqa: S608
    rows = connection.execute(every, arguments).fetchall()
    steps: dict[int, list[StepRecord]] = {}
    found = connection.execute(theirs, arguments)
    for row in found:
        step = read_step(row)
        steps.setdefault(step.attempt, []).append(step)
    return [_attempt(row, tuple(steps.get(row[0], ()))) for row in rows]


def read_one_step(connection: sqlite3.Connection, identity: int | None) -> StepRecord:
    """Return the step of a number that exists."""
    one = f"SELECT {STEP} FROM steps WHERE id = ?"  # noqa: S608
    return read_step(connection.execute(one, (identity,)).fetchone())


def read_step(row: Sequence[Any]) -> StepRecord:
    """Return a step of a row of the columns `STEP`."""
    identity, attempt, rung, subjects, reason, deadline_s, begun, ended, outcome, proof, words, boot = row
    return StepRecord(
        id=identity,
        attempt=attempt,
        step=Step(_text(rung), _subjects(subjects), _text(reason), _time(deadline_s), _text(boot)),
        begun=_time(begun),
        ended=None if ended is None else _time(ended),
        outcome=_one_of(outcome, Outcome),
        proof=_one_of(proof, Proof),
        words=_text(words),
    )


def read_mark(row: Sequence[Any]) -> Mark:
    """Return a mark of a row (host, kind, by, why, at, until)."""
    host, kind, by, why, at, until = row
    known: MarkKind | None = _one_of(kind, MarkKind)
    if known is None:
        raise DamagedRow("a mark has no kind")
    return Mark(_text(host), known, _text(by), _text(why), _time(at), None if until is None else _time(until))


def read_sighting(row: Sequence[Any]) -> Sighting:
    """Return a sighting of a row (host, at, causes, factors)."""
    host, at, causes, factors = row
    return Sighting(_text(host), _time(at), _names(causes), _pairs(factors))


def read_breaker(row: Sequence[Any] | None) -> BreakerState:
    """Return the breaker of a row (open, since, why, hosts, closed_by, closed_at)."""
    if row is None:
        raise DamagedRow("the breaker's state is missing")
    is_open, since, why, hosts, closed_by, closed_at = row
    if is_open not in (0, 1):
        raise DamagedRow("the breaker is neither open nor closed")
    return BreakerState(is_open == 1, _time(since), _text(why), _names(hosts), _text(closed_by), _time(closed_at))


def _attempt(row: Sequence[Any], steps: tuple[StepRecord, ...]) -> Attempt:
    identity, host, group, actor, causes, subjects, rung, evidence, begun, ended, result, words = row
    return Attempt(
        id=identity,
        host=_text(host),
        group=_text(group),
        actor=_text(actor),
        causes=_names(causes),
        subjects=_subjects(subjects),
        rung=_text(rung),
        evidence=_text(evidence),
        begun=_time(begun),
        ended=None if ended is None else _time(ended),
        result=_one_of(result, Result),
        words=_text(words),
        steps=steps,
    )


def _one_of(value: Any, names: Any) -> Any:
    if value is not None and value not in get_args(names):
        raise DamagedRow(f"holds {str(value)[:40]!a} where one of {', '.join(get_args(names))} belongs")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise DamagedRow(f"holds {type(value).__name__} where text belongs")
    return value


def _time(value: Any) -> float:
    if not isinstance(value, (int, float)):
        raise DamagedRow(f"holds {type(value).__name__} where a time belongs")
    return float(value)


def _json(value: Any) -> Any:
    try:
        return json.loads(value)
    except (TypeError, ValueError) as error:
        raise DamagedRow("holds text that is no JSON") from error


def _names(value: Any) -> tuple[str, ...]:
    listed = _json(value)
    if not isinstance(listed, list):
        raise DamagedRow("holds no list where one belongs")
    return tuple(_text(each) for each in listed)


def _pairs(value: Any) -> dict[str, str]:
    found = _json(value)
    if not isinstance(found, dict):
        raise DamagedRow("holds no dict where one belongs")
    return {_text(key): _text(each) for key, each in found.items()}


def _subjects(value: Any) -> tuple[Subject, ...]:
    listed = _json(value)
    if not isinstance(listed, list) or any(not isinstance(each, list) or len(each) != 3 for each in listed):
        raise DamagedRow("holds no subjects where they belong")
    return tuple(Subject(*map(_text, each)) for each in listed)
