"""The recovery's memory: what it keeps, what it refuses, and what it says of a file it cannot use."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metalserve.errors import MetalserveError
from metalserve.recovery.actor import alive, this_actor
from metalserve.recovery.database import APPLICATION, BUSY_S, Database, journal_mode, migrations
from metalserve.recovery.ports import Forbidden, Remembers
from metalserve.recovery.store import Store
from metalserve.recovery.values import Attempt, BreakerState, Mark, Sighting, Step, Subject

GPU = Subject("gpu", "0000:1b:00.0", "1651")
RESET = Step("reset-gpu", (GPU,), "the driver asks for it", 120.0, "boot-1")


def filled(path: Path) -> Store:
    store = Store(path, alive=lambda actor: None)
    for number in range(20):
        attempt = begun(store, f"host-{number}", now=float(number))
        store.end_step(store.begin_step(attempt.id, RESET, number + 1.0).id, "done", "good", "w" * 900, number + 2.0)
        store.mark(Mark(f"host-{number}", "quarantine", "eve", "w" * 100, 1.0))
    store.saw_all([Sighting(f"host-{number}", float(number), ("gpu-fault",), {"rack": "r1"}) for number in range(400)])
    return store


def begun(store: Store, host: str = "gpu-01", actor: str = "a", now: float = 100.0) -> Attempt:
    return store.begin(host, "hgx", actor, ["gpu-fault"], [GPU], "reset-gpu", "reports/e.tar.gz", now)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "state" / "recovery.db", alive=lambda actor: None)


def other(store: Store) -> Store:
    """Return what another controller has: its own connection to the same file."""
    return Store(store._database.path, alive=lambda actor: None)


def test_it_is_what_the_conductor_asks_for(store: Store) -> None:
    remembers: Remembers = store
    assert remembers.open_attempts() == []


def test_an_attempt_is_kept_whole(store: Store) -> None:
    attempt = begun(store)
    step = store.begin_step(attempt.id, RESET, 101.0)
    assert (step.step, step.begun, step.ended, step.outcome) == (RESET, 101.0, None, None)
    assert other(store).open_attempts()[0].steps == (step,)
    store.end_step(step.id, "done", "good", "answers again", 140.0)
    store.end(attempt.id, "recovered", "serves", 200.0)
    kept = other(store).attempts("gpu-01")
    assert len(kept) == 1
    assert (kept[0].causes, kept[0].subjects, kept[0].group) == (("gpu-fault",), (GPU,), "hgx")
    assert (kept[0].result, kept[0].ended, kept[0].words) == ("recovered", 200.0, "serves")
    assert (kept[0].steps[0].outcome, kept[0].steps[0].proof, kept[0].steps[0].ended) == ("done", "good", 140.0)
    assert store.open_attempts() == []
    assert store.take("gpu-01", "b", 201.0, 10) == ""  # the end let go of it


def test_attempts_come_newest_first_and_of_one_host(store: Store) -> None:
    for number, host in enumerate(("a", "b", "a")):
        store.end(begun(store, host, now=float(number)).id, "stopped", "", number + 0.5)
    assert [each.host for each in store.attempts()] == ["a", "b", "a"]
    assert [each.begun for each in store.attempts("a")] == [2.0, 0.0]
    assert [each.begun for each in store.attempts(since=1.0)] == [2.0, 1.0]


def test_one_attempt_a_host(store: Store) -> None:
    begun(store)
    with pytest.raises(Forbidden, match=r"gpu-01: attempt 1 of a, begun 5 s ago, has not ended"):
        begun(other(store), actor="b", now=105.0)
    begun(store, "gpu-02")


def test_what_another_holds_is_not_begun(store: Store) -> None:
    assert store.take("gpu-01", "a", 100.0, 60) == ""
    with pytest.raises(Forbidden, match="gpu-01: a holds it for 10 s; it expires in 50 s"):
        begun(other(store), actor="b", now=110.0)
    assert store.attempts() == []


@pytest.mark.parametrize("kind", ["maintenance", "do-not-touch", "quarantine"])
def test_what_is_marked_is_not_begun(store: Store, kind: str) -> None:
    store.mark(Mark("gpu-01", kind, "eve", "cable is out", 90.0, until=150.0))  # type: ignore[arg-type]
    with pytest.raises(Forbidden, match=f"gpu-01: is marked {kind} by eve: cable is out"):
        begun(store)
    assert begun(store, now=150.0).host == "gpu-01"


def test_a_mark_set_meanwhile_stops_the_next_step(store: Store) -> None:
    attempt = begun(store)
    other(store).mark(Mark("gpu-01", "do-not-touch", "eve", "a person works on it", 101.0))
    with pytest.raises(Forbidden, match="was marked do-not-touch by eve"):
        store.begin_step(attempt.id, RESET, 102.0)
    store.unmark("gpu-01", "do-not-touch")
    store.mark(Mark("gpu-01", "quarantine", "a", "its own last rung", 103.0))
    assert store.begin_step(attempt.id, RESET, 104.0).id > 0


def test_a_step_in_flight_is_judged_before_the_next(store: Store) -> None:
    attempt = begun(store)
    step = store.begin_step(attempt.id, RESET, 101.0)
    with pytest.raises(Forbidden, match=rf"step {step.id} \(reset-gpu\) has no outcome yet"):
        store.begin_step(attempt.id, RESET, 102.0)
    store.end_step(step.id, "unknown", "bad", "controller was killed", 103.0)
    assert store.begin_step(attempt.id, RESET, 104.0).id != step.id


def test_an_outcome_is_written_once(store: Store) -> None:
    step = store.begin_step(begun(store).id, RESET, 101.0)
    store.end_step(step.id, "failed", "bad", "first", 102.0)
    store.end_step(step.id, "failed", "bad", "the same again", 103.0)
    with pytest.raises(Forbidden, match="has ended already: failed"):
        store.end_step(step.id, "done", "good", "", 104.0)
    assert store.attempts()[0].steps[0].words == "first"


def test_the_end_leaves_no_step_in_flight(store: Store) -> None:
    attempt = begun(store)
    store.begin_step(attempt.id, RESET, 101.0)
    store.end(attempt.id, "stopped", "by a person", 102.0)
    step = store.attempts()[0].steps[0]
    assert (step.outcome, step.proof, step.ended) == ("unknown", "unknown", 102.0)
    with pytest.raises(Forbidden, match="has ended: stopped"):
        store.begin_step(attempt.id, RESET, 103.0)
    with pytest.raises(Forbidden, match="has ended: stopped"):
        store.end(attempt.id, "recovered", "", 104.0)


def test_numbers_that_are_not_there(store: Store) -> None:
    with pytest.raises(MetalserveError, match="there is no attempt 7"):
        store.end(7, "stopped", "", 1.0)
    with pytest.raises(MetalserveError, match="there is no step 7"):
        store.end_step(7, "done", None, "", 1.0)


def test_a_lock_is_renewed_held_and_given_back(store: Store) -> None:
    rival = other(store)
    assert store.take("h", "a", 0.0, 100) == ""
    assert store.take("h", "a", 50.0, 100) == ""
    assert rival.take("h", "b", 149.0, 10) == "a holds it for 2 min; it expires in 1 s"
    rival.let_go("h", "b")
    assert rival.take("h", "b", 149.0, 10) != ""
    store.let_go("h", "a")
    assert rival.take("h", "b", 149.0, 10) == ""


def test_a_renewal_never_shortens(store: Store) -> None:
    store.take("h", "a", 0.0, 1000)
    store.take("h", "a", 1.0, 5)
    assert other(store).take("h", "b", 999.0, 5) != ""


def test_an_expired_lock_is_taken_over_and_that_is_recorded(store: Store) -> None:
    attempt = begun(store, now=0.0)
    rival = other(store)
    assert rival.take("gpu-01", "b", 900.0, 60) == ""
    assert [(e.what, e.host, e.by, e.words) for e in store.journal()] == [
        ("take-over", "gpu-01", "b", "the lock of a: it had expired")
    ]
    with pytest.raises(Forbidden, match="the lock is not held by who writes this: b has it"):
        store.begin_step(attempt.id, RESET, 901.0)
    with pytest.raises(Forbidden, match="b has it"):
        store.end(attempt.id, "recovered", "", 901.0)
    step = rival.begin_step(attempt.id, RESET, 902.0)
    with pytest.raises(Forbidden, match="b has it"):
        store.end_step(step.id, "done", "good", "", 903.0)


def test_who_never_took_the_lock_writes_nothing(store: Store) -> None:
    attempt = begun(store)
    store.let_go("gpu-01", "a")
    with pytest.raises(Forbidden, match="nobody has it"):
        store.begin_step(attempt.id, RESET, 101.0)


def test_the_lock_outlives_a_step_s_deadline(store: Store) -> None:
    attempt = begun(store, now=0.0)
    store.begin_step(attempt.id, Step("reimage", (), "", 5400.0), 10.0)
    assert other(store).take("gpu-01", "b", 5600.0, 60) != ""


def test_the_lock_of_a_process_that_is_gone_is_taken_at_once(store: Store) -> None:
    store.take("h", "a", 0.0, 1000)
    rival = Store(store._database.path, alive=lambda actor: actor != "a")
    assert rival.take("h", "b", 1.0, 1000) == ""
    assert rival.journal()[0].words == "the lock of a: its process is gone"


def test_actors() -> None:
    actor = this_actor()
    assert f" pid {os.getpid()} start " in actor
    assert alive(actor) is True
    assert alive(actor.replace(" start ", " start 1")) is False  # the pid is another process by now
    assert alive(f"{actor[:-8]}00000000") is None  # another machine
    assert alive("eve") is None


def test_claims_see_one_moment_and_take_all_or_none(store: Store) -> None:
    store.take("b", "x", 0.0, 100)
    seen = store.claim("y", 1.0, 100, lambda memory: (["a"], memory))
    assert [(lock.host, lock.live) for lock in seen.locks] == [("b", True)]
    with pytest.raises(Forbidden, match="b: x holds it"):
        store.claim("z", 2.0, 100, lambda memory: (["c", "b"], None))
    assert [lock.host for lock in store.memory(3.0).locks] == ["a", "b"]


def test_marks(store: Store) -> None:
    store.mark(Mark("b", "maintenance", "eve", "first", 1.0))
    store.mark(Mark("b", "maintenance", "eve", "second", 2.0, until=10.0))
    store.mark(Mark("a", "quarantine", "ladder", "5 resets", 3.0))
    assert [(m.host, m.why) for m in store.marks(5.0)] == [("a", "5 resets"), ("b", "second")]
    assert [m.host for m in store.marks(10.0)] == ["a"]
    assert store.unmark("a", "quarantine", by="eve", why="replaced", now=11.0) is True
    assert store.unmark("a", "quarantine") is False
    assert [(e.what, e.words) for e in store.journal()] == [
        ("mark", "maintenance: first"),
        ("mark", "maintenance: second"),
        ("mark", "quarantine: 5 resets"),
        ("unmark", "quarantine: replaced"),
    ]


def test_what_has_no_place_in_it_is_refused_and_nothing_is_kept(store: Store) -> None:
    with pytest.raises(MetalserveError, match="cannot take what was to be written: CHECK constraint failed"):
        store.mark(Mark("h", "holiday", "eve", "", 1.0))  # type: ignore[arg-type]
    with pytest.raises(MetalserveError, match="cannot take what was to be written"):
        begun(store, now=float("nan"))
    assert store.marks(2.0) == []
    assert store.memory(2.0).locks == ()
    assert begun(store).id > 0


def test_sightings_are_kept_a_week(store: Store) -> None:
    first, second = Sighting("a", 10.0, ("gpu-fault",), {"rack": "r1"}), Sighting("b", 20.0, ())
    store.saw(second)
    store.saw(first)
    assert store.sightings(0.0) == [first, second]
    assert store.sightings(10.5) == [second]
    store.saw(Sighting("c", 7 * 86400.0 + 15.0, ()))
    assert [each.host for each in store.sightings(0.0)] == ["b", "c"]


def test_the_breaker_persists_until_a_person_closes_it(store: Store) -> None:
    opened = BreakerState(True, 50.0, "9 hosts", ("a", "b"))
    assert store.open_if(lambda state, seen, memory: opened, "a", 50.0) == opened
    assert other(store).breaker() == opened
    again = BreakerState(True, 60.0, "others", ("c",))
    assert store.open_if(lambda state, seen, memory: again, "a", 60.0) == opened
    with pytest.raises(Forbidden, match="gpu-01: the breaker is open: 9 hosts -> find out"):
        begun(store)
    closed = store.close_breaker("eve", "the rollout was taken back", 70.0)
    assert closed == BreakerState(False, 0.0, "9 hosts", ("a", "b"), "eve", 70.0)
    assert store.close_breaker("eve", "again", 71.0) is None
    assert [(e.what, e.by, e.words) for e in store.journal()] == [
        ("breaker-open", "a", "9 hosts"),
        ("breaker-close", "eve", "the rollout was taken back"),
    ]


def test_memory_says_when_groups_and_hosts_ended(store: Store) -> None:
    for host, result, at in (("a", "recovered", 10.0), ("b", "quarantined", 20.0), ("a", "stopped", 30.0)):
        store.end(begun(store, host, now=at - 5).id, result, "", at)  # type: ignore[arg-type]
    memory = store.memory(40.0)
    assert (memory.last_ended, memory.recovered) == ({"hgx": 30.0}, {"a": 10.0})


def test_only_the_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "state" / "recovery.db"
    Store(path).mark(Mark("h", "maintenance", "eve", "", 1.0))
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    files = list(path.parent.iterdir())
    assert len(files) >= 1
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    path.chmod(0o644)
    Store(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_directory_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(MetalserveError, match="others may write to this directory"):
        Store(tmp_path / "recovery.db")
    assert list(tmp_path.iterdir()) == []


def test_text_that_no_database_takes(store: Store) -> None:
    attempt = store.begin("h", "g", "a\udc80", ["c"], [Subject("gpu", "\udcff")], "reboot", "", 1.0)
    step = store.begin_step(attempt.id, Step("reboot", (), "half \ud800 of a character", 1.0), 2.0)
    store.end_step(step.id, "done", None, "nul \0 byte", 3.0)
    store.end(attempt.id, "stopped", "\udcff", 4.0)
    assert store.attempts()[0].steps[0].words == "nul \0 byte"


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


def test_a_file_kept_locked_gets_one_line(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert BUSY_S >= 10
    with store._database.read() as connection:
        connection.execute("PRAGMA busy_timeout = 10")
    rival = other(store)
    with (
        rival._database.write(),
        pytest.raises(MetalserveError, match="another process has kept it locked"),
    ):
        store.mark(Mark("h", "maintenance", "eve", "", 1.0))
