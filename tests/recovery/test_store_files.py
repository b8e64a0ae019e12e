"""The file of the recovery's memory: damaged, of another version, on another file system."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metalserve.errors import MetalserveError
from metalserve.recovery.database import APPLICATION, Database, journal_mode, migrations
from metalserve.recovery.store import Store
from metalserve.recovery.values import Mark, Sighting
from tests.recovery.attempts import RESET, begun, other


def filled(path: Path) -> Store:
    store = Store(path, alive=lambda actor: None)
    for number in range(20):
        attempt = begun(store, f"host-{number}", now=float(number))
        store.end_step(store.begin_step(attempt.id, RESET, number + 1.0).id, "done", "good", "w" * 900, number + 2.0)
        store.mark(Mark(f"host-{number}", "quarantine", "eve", "w" * 100, 1.0))
    store.saw_all([Sighting(f"host-{number}", float(number), ("gpu-fault",), {"rack": "r1"}) for number in range(400)])
    return store


class TestFiles:
    def broken(self, path: Path) -> str:
        with pytest.raises(MetalserveError) as caught:
            Store(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_a_file_that_is_no_database(self, tmp_path: Path) -> None:
        path = tmp_path / "recovery.db"
        path.write_bytes(b"not a database " * 100)
        assert "is damaged: file is not a database -> nothing is begun on a guess" in self.broken(path)

    def test_the_database_of_something_else(self, tmp_path: Path) -> None:
        path = tmp_path / "recovery.db"
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE attempts (x)")
        assert "is the database of something else" in self.broken(path)

    def test_a_newer_file(self, tmp_path: Path) -> None:
        path = tmp_path / "recovery.db"
        Store(path).close()
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA user_version = 4711")
        assert "was written by a newer metalserve (form 4711, this one knows" in self.broken(path)

    @pytest.mark.parametrize("table", ["attempts", "sightings"])
    def test_a_damaged_page(self, tmp_path: Path, table: str) -> None:
        path = tmp_path / "recovery.db"
        filled(path).close()
        with sqlite3.connect(path) as connection:
            page = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,))
            number = page.fetchone()[0]
        with path.open("r+b") as stream:
            stream.seek((number - 1) * 4096)
            stream.write(b"\xff" * 4096)
        if table == "attempts":  # an open attempt could be on it: the file is not even opened
            assert "is damaged" in self.broken(path)
        else:
            with pytest.raises(MetalserveError, match="is damaged"):
                Store(path).sightings(0.0)

    @settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=64)), min_size=1))
    def test_whatever_is_written_over_it_is_told(self, tmp_path: Path, wounds: list[tuple[float, bytes]]) -> None:
        whole, path = tmp_path / "whole.db", tmp_path / "recovery.db"
        if not whole.exists():
            filled(whole).close()
        content = bytearray(whole.read_bytes())
        for place, wound in wounds:
            at = int(place * len(content))
            content[at : at + len(wound)] = wound[: len(content) - at]
        path.write_bytes(content)
        for beside in ("-wal", "-shm"):
            path.with_name(path.name + beside).unlink(missing_ok=True)
        try:
            store = Store(path)
        except MetalserveError as error:
            assert "\n" not in str(error)
            return
        for read in (store.open_attempts, store.attempts, store.breaker, store.journal, lambda: store.sightings(0.0),
                     lambda: store.memory(1.0)):  # fmt: skip
            with contextlib.suppress(MetalserveError):
                read()
        store.close()

    def test_a_row_that_nobody_wrote_stops_instead_of_being_left_out(self, tmp_path: Path) -> None:
        path = tmp_path / "recovery.db"
        store = Store(path)
        begun(store)
        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE attempts SET subjects = '{'")
        with pytest.raises(MetalserveError, match="is damaged: holds text that is no JSON"):
            store.open_attempts()

    def test_a_schema_that_is_no_text(self, tmp_path: Path) -> None:
        path = tmp_path / "recovery.db"
        Store(path).close()
        content = path.read_bytes()
        assert content.count(b"CREATE TABLE marks") == 1
        path.write_bytes(content.replace(b"CREATE TABLE marks", b"CREATE TABLE \xffarks"))
        self.broken(path)

    def test_a_name_that_is_no_text_in_what_sqlite_says(self, tmp_path: Path) -> None:
        path = tmp_path / "recovery.db"
        Store(path).close()
        content = path.read_bytes()
        assert content.count(b"tablemarksmarks") == content.count(b"CREATE TABLE marks") == 1
        content = content.replace(b"tablemarksmarks", b"table\xffarksmarks").replace(
            b"CREATE TABLE m", b"CREATE TABLX m"
        )
        path.write_bytes(content)
        assert "is damaged" in self.broken(path)

    def test_a_directory_in_its_place(self, tmp_path: Path) -> None:
        path = tmp_path / "recovery.db"
        path.mkdir()
        assert "cannot be used" in self.broken(path)

    def test_a_store_is_closed_for_good(self, tmp_path: Path) -> None:
        store = Store(tmp_path / "recovery.db")
        store.close()
        with pytest.raises(RuntimeError, match="by the process that opened it"):
            store.breaker()


class TestMigrations:
    def test_they_are_numbered_from_one_without_a_gap(self) -> None:
        assert [number for number, _ in migrations()] == list(range(1, len(migrations()) + 1))

    def test_every_older_form_is_brought_up_with_what_it_holds(self, tmp_path: Path) -> None:
        steps = migrations()
        for known in range(1, len(steps) + 1):
            path = tmp_path / f"{known}.db"
            old = Database(path, steps[:known])
            with old.write() as connection:
                connection.execute(
                    "INSERT INTO attempts (host, host_group, actor, causes, subjects, rung, evidence, begun)"
                    " VALUES ('h', 'g', 'a', '[]', '[]', 'reboot', '', 1.0)"
                )
            old.close()
            assert [each.host for each in Store(path).open_attempts()] == ["h"]

    def test_a_migration_that_fails_leaves_the_old_form(self, tmp_path: Path) -> None:
        path = tmp_path / "recovery.db"
        begun(Store(path))
        later = [*migrations(), (len(migrations()) + 1, "CREATE TABLE more (x);\nCREATE TABLE attempts (x);\n")]
        with pytest.raises(MetalserveError, match="table attempts already exists"):
            Database(path, later)
        with sqlite3.connect(path) as connection:
            assert connection.execute("PRAGMA user_version").fetchone()[0] == len(migrations())
            assert connection.execute("PRAGMA application_id").fetchone()[0] == APPLICATION
            assert connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'more'").fetchone()[0] == 0
        assert len(Store(path).open_attempts()) == 1

    def test_an_empty_file_left_by_a_kill_is_a_new_one(self, tmp_path: Path) -> None:
        path = tmp_path / "recovery.db"
        path.touch()
        assert Store(path).open_attempts() == []


MOUNTS = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:40 / /srv rw - nfs4 filer:/srv rw,vers=4.2
31 30 254:1 / /srv/with\\040space rw - xfs /dev/vdb rw
32 22 0:41 / /home/eve rw - fuse.sshfs eve@far: rw
"""


@pytest.mark.parametrize(
    ("path", "mode"),
    [
        ("/var/lib/metalserve/recovery.db", "WAL"),
        ("/srv/recovery.db", "DELETE"),
        ("/srv/with space/recovery.db", "WAL"),
        ("/srv2/recovery.db", "WAL"),
        ("/home/eve/state/recovery.db", "DELETE"),
    ],
)
def test_no_shared_memory_over_a_network(path: str, mode: str) -> None:
    assert journal_mode(Path(path), MOUNTS) == mode
    assert journal_mode(Path(path), "") == "WAL"


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_the_mode_is_in_force_and_writes_wait_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setattr("metalserve.recovery.database.journal_mode", lambda path, mounts: mode)
    store = Store(tmp_path / "recovery.db")
    with store._database.read() as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone()[0] == mode.lower()
        assert connection.execute("PRAGMA synchronous").fetchone()[0] == (2 if mode == "WAL" else 3)
    begun(store)
    assert len(other(store).open_attempts()) == 1
