"""The file of the recovery's memory: opened, checked, migrated; each write is on the disk when it returns."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from metalserve.errors import MetalserveError

APPLICATION = 0x6D737672
"""SQLite's application_id of these files ("msvr"): another program's database is not migrated by mistake."""

BUSY_S = 30.0
"""Seconds to wait for another controller's transaction; ours take milliseconds, a slow disk's fsync a second."""

CHECKED = ("attempts", "steps", "locks", "marks", "breaker", "journal")
"""Tables that are checked as a whole when the file is opened: from one of their pages that is lost, an attempt that is
open could be missing without a word. Sightings are many, and found damaged when they are read."""

_opening = threading.Lock()


def migrations() -> list[tuple[int, str]]:
    """Return (number, SQL) of every step from an empty file to the present form, in order."""
    found = []
    for path in sorted((Path(__file__).parent / "schema").glob("*.sql")):
        number = re.match(r"(\d{4})_", path.name)
        if number:
            found.append((int(number[1]), path.read_text()))
    return found


class Database:
    """One SQLite file, used by several threads of a process and by several processes.

    Args:
        path: the file; it and its directory are made with modes 0600 and 0700 when they do not exist.
        steps: migrations; those of `schema/` unless given.

    Raises:
        MetalserveError: it cannot be opened, is damaged, is something else's, or is of a newer metalserve.
    """

    def __init__(self, path: Path, steps: Sequence[tuple[int, str]] | None = None) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._process = os.getpid()
        self._connection: sqlite3.Connection | None = None
        with _opening, self._in_words():
            _private(path)
            self._connection = connection = sqlite3.connect(
                path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
            )
            try:
                self._prepare(connection, migrations() if steps is None else steps)
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """Close the file; it cannot be used afterwards."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextlib.contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """Give a transaction that no other process writes beside; all of it is kept, or nothing."""
        with self._transaction("BEGIN IMMEDIATE") as connection:
            yield connection

    @contextlib.contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """Give a transaction in which every read sees the same moment."""
        with self._transaction("BEGIN") as connection:
            yield connection

    @contextlib.contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        with self._lock, self._in_words():
            if self._connection is None or self._process != os.getpid():
                raise RuntimeError("a store is used by the process that opened it, until it is closed")
            connection = self._connection
            connection.execute(begin)
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                # SQLite has gone back already after some errors (disk full); a second ROLLBACK is an error then.
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def _prepare(self, connection: sqlite3.Connection, steps: Sequence[tuple[int, str]]) -> None:
        application = _number(connection, "application_id")
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if application != APPLICATION and (application != 0 or tables):
            raise MetalserveError("is the database of something else", where=str(self.path), remedy=_ELSEWHERE)
        latest = steps[-1][0]
        self._refuse_newer(connection, latest)
        for table in CHECKED if tables else ():
            for line in connection.execute(f"PRAGMA quick_check({table})"):
                if line[0] != "ok":
                    raise sqlite3.DatabaseError(str(line[0]))
        journal = _journal(connection)
        # Without WAL the directory entry of the rollback journal must reach the disk too: EXTRA.
        connection.execute(f"PRAGMA synchronous = {'FULL' if journal == 'wal' else 'EXTRA'}")
        connection.execute("PRAGMA foreign_keys = ON")
        if _number(connection, "user_version") == latest:
            return
        with self.write():
            self._refuse_newer(connection, latest)  # another controller may have been quicker
            found = _number(connection, "user_version")
            for number, text in steps:
                if number > found:
                    for statement in _statements(text):
                        connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION}")
            connection.execute(f"PRAGMA user_version = {latest}")

    def _refuse_newer(self, connection: sqlite3.Connection, latest: int) -> None:
        found = _number(connection, "user_version")
        if found > latest:
            raise MetalserveError(
                f"was written by a newer metalserve (form {found}, this one knows {latest})",
                where=str(self.path),
                remedy="use that metalserve, or another METALSERVE_STATE",
            )

    @contextlib.contextmanager
    def _in_words(self) -> Iterator[None]:
        """Make one clear line of what SQLite and the file system say."""
        try:
            yield
        except sqlite3.OperationalError as error:
            text = str(error)
            if "locked" in text or "busy" in text:
                what, remedy = f"another process has kept it locked for {BUSY_S:.0f} s", "see who holds it: fuser FILE"
            elif any(sign in text for sign in ("malformed", "decode", "no such table", "no such column")):
                what, remedy = f"is damaged: {text}", _DAMAGED
            else:
                what, remedy = f"cannot be used: {text}", "check the disk (full, read-only?) and the file's owner"
            raise MetalserveError(what, where=str(self.path), remedy=remedy) from error
        except (sqlite3.DatabaseError, DamagedRow) as error:
            raise MetalserveError(f"is damaged: {error}", where=str(self.path), remedy=_DAMAGED) from error
        except OSError as error:
            raise MetalserveError(f"cannot be used: {error.strerror}", where=str(self.path)) from error


class DamagedRow(ValueError):
    """A row holds what no metalserve wrote."""


_DAMAGED = (
    "nothing is begun on a guess: put a copy back, or move the file away, and its -wal and -shm with it, "
    "after a look at the hosts"
)
_ELSEWHERE = "give another METALSERVE_STATE"


def _private(path: Path) -> None:
    """Make the file and its directory readable by their owner only."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    mode = path.parent.stat().st_mode
    if mode & 0o022 and not mode & 0o1000:  # the sticky bit keeps others from replacing it (/tmp)
        raise MetalserveError(
            "others may write to this directory, so they could replace the file",
            where=str(path.parent), remedy=f"chmod 700 {path.parent}",
        )  # fmt: skip
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        # By its path: to close a second descriptor of a database's file gives up the locks of this whole process.
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)


def _journal(connection: sqlite3.Connection) -> str:
    """Switch to a write-ahead log where the file system allows it; return the mode that is in force."""
    end = time.monotonic() + BUSY_S
    while True:
        try:
            return str(connection.execute("PRAGMA journal_mode = WAL").fetchone()[0])
        except sqlite3.OperationalError as error:  # the switch does not wait as other statements do
            if "locked" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(0.01)


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    return int(connection.execute(f"PRAGMA {pragma}").fetchone()[0])


def _statements(text: str) -> Iterator[str]:
    """Cut SQL into statements: sqlite3's `executescript` would commit what has been done so far."""
    statement = ""
    for line in text.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
