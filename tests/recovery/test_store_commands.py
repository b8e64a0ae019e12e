"""`metalserve recover status|history|export|mark|unmark|breaker`: what they print, and what they change."""

from __future__ import annotations

import csv
import io
import json
import stat
import time
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from metalserve.cli.recover_state import commands
from metalserve.errors import MetalserveError
from metalserve.recovery.export import COLUMNS, as_csv
from metalserve.recovery.memory import Entry
from metalserve.recovery.store import Store
from metalserve.recovery.values import Attempt, BreakerState, Sighting, Step, StepRecord, Subject

group = click.Group("recover", commands=list(commands))


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("METALSERVE_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path / "state" / "recovery.db"


def run(*args: str, status: int = 0) -> Result:
    result = CliRunner().invoke(group, args, standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    assert (result.return_value or 0) == status, result.output
    lines = [line for line in result.output.splitlines() if "recovery.db" not in line]
    assert max(map(len, lines), default=0) <= 80 or "--json" in args or "export" in args
    return result


def said(*args: str, status: int = 0) -> Any:
    return json.loads(run(*args, "--json", status=status).stdout)


def a_night(*, actor: str = "eve@ctl pid 1 start 2-00000000") -> Store:
    """Return the store after one recovery, one quarantine, and in the middle of a reset."""
    store, now = Store(alive=lambda actor: None), time.time()
    for host, rungs, result, ago in (
        ("gpu-01", (("restart-engine", "bad"), ("reset-gpu", "good")), "recovered", 7000.0),
        ("gpu-02", (("reset-gpu", "bad"), ("reboot", "bad"), ("power-cycle", "bad")), "quarantined", 5000.0),
        ("gpu-03", (("reset-gpu", None),), None, 130.0),
    ):
        at = now - ago
        part = Subject("gpu", "0000:1b:00.0", "16512")
        attempt = store.begin(
            host, "hgx", actor, ["gpu-fault", "engine-died"], [part], "reset-gpu", "reports/e.tar.gz", at
        )
        for number, (rung, proof) in enumerate(rungs):
            begun = at + 1 + 60 * number
            step = store.begin_step(attempt.id, Step(rung, (part,), "the driver asks for it", 600.0), begun)
            if proof is not None:
                store.end_step(step.id, "done", proof, "\x1b[31mXid 79\x1b[0m came back", begun + 30)  # type: ignore[arg-type]
        if result is not None:
            store.end(attempt.id, result, "engine gives tokens", at + 240)  # type: ignore[arg-type]
    return store


def test_nothing_is_remembered_yet(state: Path) -> None:
    assert "nothing is remembered yet" in run("status").stdout
    assert "no attempts" in run("history").stdout
    assert said("status")["open"] == []
    assert "breaker closed" in run("breaker", "show").stdout
    assert run("export", "--format", "csv").stdout == ",".join(COLUMNS) + "\n"
    run("breaker", "close", "--why", "x", status=1)
    run("unmark", "h", "maintenance", "--why", "x", status=1)
    assert not state.exists()  # to look does not make it


def test_status_shows_what_is_in_flight() -> None:
    a_night()
    shown = " ".join(run("status").stdout.split())
    assert "1 open attempt(s) gpu-03 (hgx), attempt 3, begun 2 min ago: gpu-fault, engine-died" in shown
    assert "reset-gpu 0000:1b:00.0: in flight for 2 min, 8 min left" in shown
    assert "eve@ctl pid 1 start 2-00000000 holds it for 2 min" in shown
    status = said("status")
    assert [each["host"] for each in status["open"]] == ["gpu-03"]
    assert status["open"][0]["steps"][0]["outcome"] is None
    assert status["locks"][0]["live"] is True


def test_an_attempt_whose_controller_is_gone_says_so() -> None:
    from metalserve.recovery.actor import this_actor

    a_night(actor=this_actor().replace(" start ", " start 9"))
    assert "its controller is gone: the next run goes on with it" in run("status").stdout


def test_history_is_short_and_with_v_whole() -> None:
    a_night().close()
    short = run("history").stdout
    assert short.index("gpu-03") < short.index("gpu-02") < short.index("gpu-01")
    assert "reset-gpu (bad) -> reboot (bad) -> power-cycle (bad)" in short
    assert "recovered after 4 min" in short
    whole = run("history", "gpu-01", "-v").stdout
    assert "gpu-02" not in whole
    assert "why: the driver asks for it" in whole
    assert "\x1b" not in whole
    assert [each["host"] for each in said("history", "gpu-02")["attempts"]] == ["gpu-02"]
    assert said("history", "--since", "1m")["attempts"] == []


def test_export_as_json_and_csv(tmp_path: Path) -> None:
    a_night().close()
    out = tmp_path / "out.csv"
    run("export", "--format", "csv", "-o", str(out))
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    lines = list(csv.DictReader(io.StringIO(out.read_text())))
    assert [(each["host"], each["rung"], each["proof"]) for each in lines] == [
        ("gpu-03", "reset-gpu", ""),
        ("gpu-02", "reset-gpu", "bad"),
        ("gpu-02", "reboot", "bad"),
        ("gpu-02", "power-cycle", "bad"),
        ("gpu-01", "restart-engine", "bad"),
        ("gpu-01", "reset-gpu", "good"),
    ]
    assert lines[0]["subjects"] == "gpu:0000:1b:00.0(16512)"
    document = json.loads(run("export").stdout)
    assert document["schema"] == 1
    assert len(document["attempts"]) == 3
    assert document["attempts"][2]["begun"].endswith("Z")


def test_a_formula_in_a_log_stays_text() -> None:
    step = StepRecord(1, 1, Step("reboot", (), '=HYPERLINK("x")', 1.0), 0.0, 1.0, "done", "good", "-1")
    attempt = Attempt(1, "h", "g", "a", (), (), "reboot", "", 0.0, 2.0, "recovered", "fine", (step,))
    (line,) = csv.DictReader(io.StringIO(as_csv([attempt])))
    assert (line["reason"], line["step_words"], line["words"]) == ('\'=HYPERLINK("x")', "'-1", "fine")
    assert as_csv([Attempt(1, "h", "g", "a", (), (), "", "", 0.0)]).count("\n") == 2


def test_marks_are_set_shown_and_taken_away() -> None:
    store = a_night()
    result = run("mark", "gpu-01", "gpu-03", "do-not-touch", "--why", "riser is being changed", "--for", "4h")
    assert result.stdout == "gpu-01: marked do-not-touch\ngpu-03: marked do-not-touch\n"
    assert "gpu-03: attempt 3 is under way and stops before its next step" in result.stderr
    assert "never seen" not in result.stderr
    shown = " ".join(run("status").stdout.split())
    assert "2 marked host(s)" in shown
    assert "riser is being changed" in shown
    assert "4 h" in shown
    assert run("unmark", "gpu-01", "do-not-touch", "--why", "done").stdout == "gpu-01: do-not-touch taken away\n"
    assert "gpu-01: is not marked" in run("unmark", "gpu-01", "do-not-touch", "--why", "done", status=1).stderr
    assert [(e.what, e.words) for e in store.journal() if e.host == "gpu-01"] == [
        ("mark", "do-not-touch: riser is being changed"),
        ("unmark", "do-not-touch: done"),
    ]
    assert all("@" in e.by for e in store.journal())


def test_a_name_that_may_be_misspelt(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "never seen here: gpu-1" in run("mark", "gpu-1", "maintenance", "--why", "x").stderr
    # The real reader puts gevent in place of threads, which no test may leave behind.
    monkeypatch.setattr("metalserve.pyinfra_seam.inventory.load_inventory", lambda path: [("gpu-01", {})])
    with pytest.raises(MetalserveError, match=r"has no host gpu-2; nothing was marked"):
        run("mark", "gpu-01", "gpu-2", "maintenance", "--why", "x", "--inventory", "hosts.py")
    assert [each["host"] for each in said("status")["marks"]] == ["gpu-1"]
    run("mark", "gpu-01", "maintenance", "--why", "x", "--inventory", "hosts.py")


@pytest.mark.parametrize("span", ["4", "h", "-1h", "0h", "1w", "1.5h", ""])
def test_times_that_are_none(span: str) -> None:
    with pytest.raises(click.BadParameter, match="is no time"):
        run("mark", "h", "maintenance", "--why", "x", "--for", span)


def test_the_breaker_is_shown_and_closed_by_a_person() -> None:
    store = Store()
    opened = BreakerState(True, time.time() - 600, "12 of 200 hosts turned unhealthy within 5 min", ("a", "b"))
    store.open_if(lambda state, seen, memory: opened, "watch", time.time() - 600)
    shown = run("breaker", "show", status=1).stdout
    assert "breaker OPEN since" in shown
    assert "hosts: a, b" in shown
    assert "12 of 200 hosts" in run("status").stdout
    assert said("breaker", "show", status=1)["breaker"]["hosts"] == ["a", "b"]
    assert "2 host(s) had opened it" in run("breaker", "close", "--why", "driver 590 was taken back").stdout
    run("breaker", "close", "--why", "again", status=1)
    assert "breaker-close" in run("breaker", "show").stdout
    state = said("breaker", "show")
    assert state["breaker"]["open"] is False
    assert [entry["what"] for entry in state["journal"]] == ["breaker-open", "breaker-close"]
    assert store.journal()[-1] == Entry(
        store.journal()[-1].at, "breaker-close", "", state["breaker"]["closed_by"], "driver 590 was taken back"
    )


def test_a_damaged_file_is_one_line(state: Path) -> None:
    state.parent.mkdir(mode=0o700)
    state.write_bytes(b"x" * 5000)
    for args in (
        ("status",),
        ("history",),
        ("export",),
        ("mark", "h", "maintenance", "--why", "x"),
        ("breaker", "show"),
    ):
        with pytest.raises(MetalserveError, match="is damaged: file is not a database"):
            run(*args)


def test_sightings_make_a_host_known() -> None:
    Store().saw(Sighting("gpu-09", time.time(), ()))
    assert run("mark", "gpu-09", "maintenance", "--why", "x").stderr == ""
