"""Locks of hosts, one a host, inside a transaction of the store."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from metalserve.recovery.memory import Lock
from metalserve.recovery.rows import plain

Alive = Callable[[str], bool | None]
"""Whether an actor's process still runs; `None` when that cannot be known."""


def held(connection: sqlite3.Connection, now: float, alive: Alive, host: str | None = None) -> list[Lock]:
    """Return all locks, or that of `host`."""
    found = connection.execute(
        "SELECT host, actor, since, expires FROM locks WHERE ? IS NULL OR host = ? ORDER BY host", (host, host)
    )
    return [
        Lock(name, actor, since, expires, expires > now and alive(actor) is not False)
        for name, actor, since, expires in found.fetchall()
    ]


def take(connection: sqlite3.Connection, host: str, actor: str, now: float, ttl_s: float, alive: Alive) -> str:
    """Take or renew a lock; returns "" or who holds it, in words. A take-over goes into the journal."""
    host, actor = plain(host), plain(actor)
    before = next(iter(held(connection, now, alive, host)), None)
    if before is not None and before.actor == actor:
        lengthen(connection, host, now + ttl_s)
        return ""
    if before is not None and before.live:
        return before.in_words(now)
    if before is not None:
        why = "it had expired" if before.expires <= now else "its process is gone"
        note(connection, now, "take-over", host, actor, f"the lock of {before.actor}: {why}")
    connection.execute(
        "INSERT OR REPLACE INTO locks (host, actor, since, expires) VALUES (?, ?, ?, ?)",
        (host, actor, now, now + ttl_s),
    )
    return ""


def lengthen(connection: sqlite3.Connection, host: str, until: float) -> None:
    """Let a lock hold until then; never shorter than it does."""
    connection.execute("UPDATE locks SET expires = max(expires, ?) WHERE host = ?", (until, host))


def holder(connection: sqlite3.Connection, host: str) -> str | None:
    """Return who has the lock of a host, live or not; `None` when nobody has."""
    row = connection.execute("SELECT actor FROM locks WHERE host = ?", (host,)).fetchone()
    return None if row is None else str(row[0])


def note(connection: sqlite3.Connection, now: float, what: str, host: str, by: str, words: str) -> None:
    """Add a line to the journal."""
    connection.execute(
        "INSERT INTO journal (at, what, host, by, words) VALUES (?, ?, ?, ?, ?)", (now, what, host, by, words)
    )
