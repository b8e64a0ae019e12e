"""The recovery's memory: one SQLite file, safe under two controllers on it and a kill at any instruction."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from metalserve.errors import MetalserveError
from metalserve.paths import state_directory
from metalserve.recovery import locks, rows
from metalserve.recovery.actor import alive as _alive
from metalserve.recovery.database import Database
from metalserve.recovery.memory import Memory, duration
from metalserve.recovery.ports import Forbidden
from metalserve.recovery.standing import CLOSE, Standing
from metalserve.recovery.values import Attempt, Outcome, Proof, Result, Step, StepRecord, Subject

TTL_S = 900.0
"""Seconds that a lock holds which `begin` takes itself; `begin_step` lengthens it by the step's deadline."""

BEYOND_DEADLINE_S = 300.0
"""Seconds that a lock outlives its step's deadline: proof and the next decision."""

_Answer = TypeVar("_Answer")


def store_path() -> Path:
    """Return the store's file (`METALSERVE_STATE`/recovery.db, or state/recovery.db in the checkout)."""
    return state_directory() / "recovery.db"


class Store(Standing):
    """Implements `metalserve.recovery.ports.Remembers`.

    What a method wrote is on the disk when it returns; a call that raises has written nothing. An actor who lost a
    host's lock to another (it expired, or its process was gone) is refused every further write about that host.

    Args:
        path: the file; made when it does not exist.
        alive: tells whether an actor's process still runs, `None` when that cannot be known.

    Raises:
        MetalserveError: as `Database`; the methods raise it when the file cannot be read or written.
    """

    def __init__(self, path: Path | None = None, *, alive: Callable[[str], bool | None] = _alive) -> None:
        super().__init__(Database(store_path() if path is None else path), alive)
        self._mine: dict[str, str] = {}

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def begin(
        self,
        host: str,
        group: str,
        actor: str,
        causes: Sequence[str],
        subjects: Sequence[Subject],
        rung: str,
        evidence: str,
        now: float,
    ) -> Attempt:
        """Write down that an attempt begins, and take the host's lock where the actor does not hold it yet.

        Raises:
            Forbidden: an attempt of the host is open, another holds its lock, it is marked, or the breaker is open.
        """
        values = (host, group, actor, rows.names(causes), rows.parts(subjects), rung, evidence, now)
        with self._database.write() as connection:
            opened = rows.read_attempts(connection, "host = ? AND ended IS NULL", (host,))
            if opened:
                began = f"attempt {opened[0].id} of {opened[0].actor}, begun {duration(now - opened[0].begun)} ago"
                raise Forbidden(f"{began}, has not ended", where=host, remedy="go on with that one: look at the host")
            for mark in self._marks_of(connection, now, host):
                raise Forbidden(
                    f"is marked {mark.kind} by {mark.by}: {mark.why}",
                    where=host, remedy=f"metalserve recover unmark {host} {mark.kind}",
                )  # fmt: skip
            breaker = self._breaker_of(connection)
            if breaker.open:
                raise Forbidden(f"the breaker is open: {breaker.why}", where=host, remedy=CLOSE)
            held = locks.take(connection, host, actor, now, TTL_S, self._alive)
            if held:
                raise Forbidden(held, where=host)
            identity = connection.execute(
                "INSERT INTO attempts (host, host_group, actor, causes, subjects, rung, evidence, begun)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [rows.plain(value) if isinstance(value, str) else value for value in values],
            ).lastrowid
            begun = rows.read_attempts(connection, "id = ?", (identity,))[0]
        self._mine[host] = rows.plain(actor)
        return begun

    def begin_step(self, attempt: int, step: Step, now: float) -> StepRecord:
        """Write down a step before it is made, and lengthen the lock past its deadline.

        Raises:
            Forbidden: the lock was lost, a step of the attempt is still in flight, the attempt has ended, or somebody
                has marked the host since.
        """
        decided = (rows.plain(step.rung), rows.parts(step.subjects), rows.plain(step.reason), step.deadline_s)
        with self._database.write() as connection:
            host = self._open_and_mine(connection, attempt)
            for mark in self._marks_of(connection, now, host):
                if mark.kind != "quarantine":  # the ladder's own last rung sets that one
                    raise Forbidden(f"was marked {mark.kind} by {mark.by}: {mark.why}", where=host)
            flying = connection.execute(
                "SELECT id, rung FROM steps WHERE attempt = ? AND ended IS NULL", (attempt,)
            ).fetchone()
            if flying is not None:
                raise Forbidden(f"step {flying[0]} ({flying[1]}) has no outcome yet: judge it first", where=host)
            locks.lengthen(connection, host, now + step.deadline_s + BEYOND_DEADLINE_S)
            identity = connection.execute(
                "INSERT INTO steps (attempt, rung, subjects, reason, deadline_s, begun, boot)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (attempt, *decided, now, rows.plain(step.boot)),
            ).lastrowid
            return rows.read_one_step(connection, identity)

    def end_step(self, step: int, outcome: Outcome, proof: Proof | None, words: str, now: float) -> None:
        """Write down how a step ended.

        Raises:
            Forbidden: the lock was lost, or it has another outcome already.
        """
        with self._database.write() as connection:
            row = connection.execute("SELECT attempt, outcome, proof FROM steps WHERE id = ?", (step,)).fetchone()
            if row is None:
                raise MetalserveError(f"there is no step {step}", where=str(self._database.path))
            if row[1] is not None and (row[1], row[2]) == (outcome, proof):
                return
            host = self._open_and_mine(connection, row[0])
            if row[1] is not None:
                raise Forbidden(f"step {step} has ended already: {row[1]}", where=host)
            connection.execute(
                "UPDATE steps SET ended = ?, outcome = ?, proof = ?, words = ? WHERE id = ?",
                (now, outcome, proof, rows.plain(words), step),
            )

    def end(self, attempt: int, result: Result, words: str, now: float) -> None:
        """Write down how an attempt ended, and let go of the host. A step in flight is then of unknown outcome.

        Raises:
            Forbidden: the lock was lost, or it has ended already.
        """
        with self._database.write() as connection:
            host = self._open_and_mine(connection, attempt)
            connection.execute(
                "UPDATE steps SET ended = ?, outcome = 'unknown', proof = 'unknown', words = ?"
                " WHERE attempt = ? AND ended IS NULL",
                (now, "the attempt ended before it was judged", attempt),
            )
            connection.execute(
                "UPDATE attempts SET ended = ?, result = ?, words = ? WHERE id = ?",
                (now, result, rows.plain(words), attempt),
            )
            connection.execute("DELETE FROM locks WHERE host = ?", (host,))
        self._mine.pop(host, None)

    def open_attempts(self) -> list[Attempt]:
        """Return attempts that have not ended, of every controller; the newest first."""
        with self._database.read() as connection:
            return rows.read_attempts(connection, "ended IS NULL", ())

    def attempts(self, host: str | None = None, since: float = 0.0) -> list[Attempt]:
        """Return attempts that began at `since` or later, the newest first."""
        with self._database.read() as connection:
            if host is None:
                return rows.read_attempts(connection, "begun >= ?", (since,))
            return rows.read_attempts(connection, "host = ? AND begun >= ?", (host, since))

    def take(self, host: str, actor: str, now: float, ttl_s: float) -> str:
        """Take a host's lock, or renew it; returns "" or who holds it and for how long, in words.

        A lock that has expired, or whose holder's process is gone, is taken over, and that is written down.
        """
        with self._database.write() as connection:
            held = locks.take(connection, host, actor, now, ttl_s, self._alive)
        if not held:
            self._mine[host] = rows.plain(actor)
        return held

    def let_go(self, host: str, actor: str) -> None:
        """Give a host's lock back; that of another is left alone."""
        with self._database.write() as connection:
            connection.execute("DELETE FROM locks WHERE host = ? AND actor = ?", (host, rows.plain(actor)))
        if self._mine.get(host) == rows.plain(actor):
            self._mine.pop(host)

    def claim(
        self,
        actor: str,
        now: float,
        ttl_s: float,
        decide: Callable[[Memory], tuple[Iterable[str], _Answer]],
    ) -> _Answer:
        """Decide about the fleet and take the locks of the chosen hosts as one: no other controller gets in between.

        Args:
            actor: who takes them.
            now: seconds since the epoch.
            ttl_s: seconds that the locks hold.
            decide: pure; gets what the store holds, returns the hosts to take and what this method is to return.

        Raises:
            Forbidden: `decide` chose a host that another holds; then none is taken.
        """
        with self._database.write() as connection:
            chosen, answer = decide(self._memory_of(connection, now))
            hosts = tuple(chosen)
            for host in hosts:
                held = locks.take(connection, host, actor, now, ttl_s, self._alive)
                if held:
                    raise Forbidden(held, where=host)
        self._mine.update(dict.fromkeys(hosts, rows.plain(actor)))
        return answer

    def _open_and_mine(self, connection: sqlite3.Connection, attempt: int) -> str:
        """Return the host of an attempt that is open and whose lock this store took."""
        row = connection.execute("SELECT host, result FROM attempts WHERE id = ?", (attempt,)).fetchone()
        if row is None:
            raise MetalserveError(f"there is no attempt {attempt}", where=str(self._database.path))
        host, result = str(row[0]), row[1]
        if result is not None:
            raise Forbidden(f"attempt {attempt} has ended: {result}", where=host)
        holder, mine = locks.holder(connection, host), self._mine.get(host)
        if holder is None or holder != mine:
            now_with = f"{holder} has it" if holder is not None else "nobody has it"
            raise Forbidden(f"the lock is not held by who writes this: {now_with}", where=host, remedy="take it first")
        return host
