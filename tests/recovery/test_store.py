"""The recovery's memory: what it keeps, and what it refuses."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from metalserve.errors import MetalserveError
from metalserve.recovery.actor import alive, this_actor
from metalserve.recovery.database import BUSY_S
from metalserve.recovery.ports import Forbidden, Remembers
from metalserve.recovery.store import Store
from metalserve.recovery.values import BreakerState, Mark, Sighting, Step, Subject
from tests.recovery.attempts import GPU, RESET, begun, other


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "state" / "recovery.db", alive=lambda actor: None)


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
