"""What the store says of hosts and of the fleet beside attempts: marks, sightings, breaker, journal."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import replace

from metalserve.recovery import locks, rows
from metalserve.recovery.database import Database
from metalserve.recovery.memory import Entry, Memory, Seen
from metalserve.recovery.values import BreakerState, Mark, Sighting

KEEP_SIGHTINGS_S = 7 * 86400.0
"""Seconds that sightings are kept: they come with every look, twenty hosts looked at each minute are 200,000 a week."""

CLOSE = "find out what the hosts have in common, then: metalserve recover breaker close --why WHY"

Judge = Callable[[BreakerState, Seen, Memory], BreakerState]


class Standing:
    """The part of the store that needs no lock of a host."""

    def __init__(self, database: Database, alive: locks.Alive) -> None:
        self._database = database
        self._alive = alive

    def memory(self, now: float) -> Memory:
        """Return all that a decision about the fleet needs, as of one moment."""
        with self._database.read() as connection:
            return self._memory_of(connection, now)

    def mark(self, mark: Mark) -> None:
        """Set a mark; one of the same kind is replaced."""
        with self._database.write() as connection:
            host, by, why = rows.plain(mark.host), rows.plain(mark.by), rows.plain(mark.why)
            connection.execute(
                "INSERT OR REPLACE INTO marks (host, kind, by, why, at, until) VALUES (?, ?, ?, ?, ?, ?)",
                (host, mark.kind, by, why, mark.at, mark.until),
            )
            locks.note(connection, mark.at, "mark", host, by, f"{mark.kind}: {why}")

    def unmark(self, host: str, kind: str, *, by: str = "", why: str = "", now: float = 0.0) -> bool:
        """Take a mark away; returns whether there was one. `by`, `why` and `now` go into the journal."""
        with self._database.write() as connection:
            found = connection.execute("DELETE FROM marks WHERE host = ? AND kind = ?", (host, kind)).rowcount > 0
            if found:
                words = f"{kind}: {rows.plain(why)}" if why else kind
                locks.note(connection, now, "unmark", host, rows.plain(by), words)
        return found

    def marks(self, now: float) -> list[Mark]:
        """Return marks that are in force, by host and kind."""
        with self._database.read() as connection:
            return self._marks_of(connection, now)

    def saw(self, sighting: Sighting) -> None:
        """Write down that a host was seen unhealthy; those of a week ago are dropped."""
        self.saw_all([sighting])

    def saw_all(self, sightings: Sequence[Sighting]) -> None:
        """Write down several sightings as one: a look at the whole fleet waits for the disk once."""
        values = [(rows.plain(s.host), s.at, rows.names(s.causes), rows.pairs(s.factors)) for s in sightings]
        if not values:
            return
        with self._database.write() as connection:
            connection.executemany("INSERT INTO sightings (host, at, causes, factors) VALUES (?, ?, ?, ?)", values)
            latest = max(sighting.at for sighting in sightings)
            connection.execute("DELETE FROM sightings WHERE at < ?", (latest - KEEP_SIGHTINGS_S,))

    def sightings(self, since: float) -> list[Sighting]:
        """Return what was seen since then, the oldest first."""
        with self._database.read() as connection:
            return self._sightings_of(connection, since)

    def knows(self, host: str) -> bool:
        """Tell whether anything was ever seen or tried of a host of this name."""
        with self._database.read() as connection:
            found = connection.execute(
                "SELECT 1 FROM attempts WHERE host = ? UNION ALL SELECT 1 FROM sightings WHERE host = ? LIMIT 1",
                (host, host),
            )
            return found.fetchone() is not None

    def breaker(self) -> BreakerState:
        """Return the breaker's state."""
        with self._database.read() as connection:
            return self._breaker_of(connection)

    def open_if(self, judge: Judge, by: str, now: float) -> BreakerState:
        """Judge the breaker and keep what `judge` returns when that is open, as one; an open one stays as it is.

        Args:
            judge: pure; gets the state, what was seen, and the rest of the memory.
            by: who looks, for the journal.
            now: seconds since the epoch.
        """
        with self._database.write() as connection:
            state = self._breaker_of(connection)
            if state.open:
                return state
            seen = Seen(
                lambda since: self._sightings_of(connection, since), lambda since: self._latest_of(connection, since)
            )
            after = judge(state, seen, self._memory_of(connection, now))
            if after.open:
                self._keep_breaker(connection, after)
                locks.note(connection, now, "breaker-open", "", rows.plain(by), rows.plain(after.why))
            return after

    def close_breaker(self, by: str, why: str, now: float) -> BreakerState | None:
        """Close the breaker; returns its state from now on, `None` when it was not open."""
        with self._database.write() as connection:
            state = self._breaker_of(connection)
            if not state.open:
                return None
            after = replace(state, open=False, since=0.0, closed_by=rows.plain(by), closed_at=now)
            self._keep_breaker(connection, after)
            locks.note(connection, now, "breaker-close", "", rows.plain(by), rows.plain(why))
            return after

    def journal(self, since: float = 0.0) -> list[Entry]:
        """Return what was changed beside attempts, the oldest first."""
        with self._database.read() as connection:
            found = connection.execute(
                "SELECT at, what, host, by, words FROM journal WHERE at >= ? ORDER BY id", (since,)
            )
            return [Entry(*row) for row in found]

    def _marks_of(self, connection: sqlite3.Connection, now: float, host: str | None = None) -> list[Mark]:
        found = connection.execute(
            "SELECT host, kind, by, why, at, until FROM marks"
            " WHERE (until IS NULL OR until > ?) AND (? IS NULL OR host = ?) ORDER BY host, kind",
            (now, host, host),
        )
        return [rows.read_mark(row) for row in found]

    def _sightings_of(self, connection: sqlite3.Connection, since: float) -> list[Sighting]:
        found = connection.execute(
            "SELECT host, at, causes, factors FROM sightings WHERE at >= ? ORDER BY at, id", (since,)
        )
        return [rows.read_sighting(row) for row in found]

    def _latest_of(self, connection: sqlite3.Connection, since: float) -> list[Sighting]:
        found = connection.execute(  # SQLite gives the other columns of the row that has the maximum
            "SELECT host, max(at), causes, factors FROM sightings WHERE at >= ? GROUP BY host", (since,)
        )
        return [rows.read_sighting(row) for row in found]

    def _breaker_of(self, connection: sqlite3.Connection) -> BreakerState:
        return rows.read_breaker(
            connection.execute("SELECT open, since, why, hosts, closed_by, closed_at FROM breaker").fetchone()
        )

    def _keep_breaker(self, connection: sqlite3.Connection, state: BreakerState) -> None:
        connection.execute(
            "UPDATE breaker SET open = ?, since = ?, why = ?, hosts = ?, closed_by = ?, closed_at = ?",
            (int(state.open), state.since, rows.plain(state.why), rows.names(state.hosts), state.closed_by,
             state.closed_at),
        )  # fmt: skip

    def _memory_of(self, connection: sqlite3.Connection, now: float) -> Memory:
        ended = connection.execute("SELECT host_group, max(ended) FROM attempts GROUP BY host_group").fetchall()
        well = connection.execute(
            "SELECT host, max(ended) FROM attempts WHERE result = 'recovered' GROUP BY host"
        ).fetchall()
        return Memory(
            now=now,
            open=tuple(rows.read_attempts(connection, "ended IS NULL", ())),
            locks=tuple(locks.held(connection, now, self._alive)),
            marks=tuple(self._marks_of(connection, now)),
            breaker=self._breaker_of(connection),
            last_ended={group: at for group, at in ended if at is not None},
            recovered=dict(well),
        )
