"""Waves, with pyinfra replaced by prepared outcomes."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from metalserve.cli.converge import exit_status
from metalserve.converge.drift import differences, unknowns
from metalserve.converge.run import FleetRun, run_waves
from metalserve.pyinfra_seam.cli_run import Outcome
from metalserve.pyinfra_seam.report import Failure, RunReport


def outcome(
    hosts: Sequence[str],
    *,
    failed: Sequence[str] = (),
    changed: Sequence[str] = (),
    planned: Sequence[str] = (),
    complete: bool = True,
    interrupted: bool = False,
    rc: int | None = None,
) -> Outcome:
    report = RunReport()
    report.complete, report.executed = complete, bool(changed)
    for name in hosts:
        host = report.host(name)
        if name in failed:
            host.failure = Failure("vllm", "prove", "no answer", "line 1\nline 2", "look")
        if name in changed:
            host.changes.append(("base", "install", "package x: absent -> installed"))
        if name in planned:
            host.planned.append(("base", "install", "package x: absent -> installed"))
    return Outcome(rc if rc is not None else int(bool(set(failed) & set(hosts))), interrupted, report)


def statuses(result: FleetRun) -> dict[str, str]:
    return {name: result.report.status(host) for name, host in result.report.hosts.items()}


def test_all_well() -> None:
    result = run_waves([["a"], ["b", "c"]], lambda wave: outcome(wave, changed=["b"]))
    assert statuses(result) == {"a": "unchanged", "b": "changed", "c": "unchanged"}
    assert (result.ended, exit_status(result, dry=False)) == ("complete", 0)
    assert result.report.complete


def test_a_failing_wave_stops_the_run_and_names_who_was_not_reached() -> None:
    taken: list[Sequence[str]] = []

    def run(wave: Sequence[str]) -> Outcome:
        taken.append(wave)
        return outcome(wave, failed=["b"])

    result = run_waves([["a"], ["b", "c"], ["d"], ["e"]], run)
    assert taken == [["a"], ["b", "c"]]
    assert statuses(result) == {
        "a": "unchanged",
        "b": "failed",
        "c": "unchanged",
        "d": "not reached",
        "e": "not reached",
    }
    assert result.not_reached == ["d", "e"]
    assert exit_status(result, dry=False) == 1
    assert not result.report.complete


def test_failures_that_are_tolerated_still_fail_the_run_in_the_end() -> None:
    waves = [["a"], ["b"], ["c"]]
    one = run_waves(waves, lambda wave: outcome(wave, failed=["a"]), max_failures=1)
    assert one.not_reached == [] and exit_status(one, dry=False) == 1
    two = run_waves(waves, lambda wave: outcome(wave, failed=["a", "b"]), max_failures=1)
    assert two.not_reached == ["c"]


def test_pyinfra_that_ends_badly_with_all_hosts_fine_stops_too() -> None:
    result = run_waves([["a"], ["b"]], lambda wave: outcome(wave, rc=1))
    assert result.not_reached == ["b"]
    assert exit_status(result, dry=False) == 1


def test_no_report_at_all_means_not_reached() -> None:
    result = run_waves([["a"], ["b"]], lambda wave: Outcome(1, False, None))
    assert statuses(result) == {"a": "not reached", "b": "not reached"}
    assert exit_status(result, dry=False) == 1


def test_interrupted() -> None:
    result = run_waves([["a", "b"], ["c"]], lambda wave: outcome(["a"], complete=False, interrupted=True, rc=130))
    assert statuses(result) == {"a": "interrupted", "b": "not reached", "c": "not reached"}
    assert exit_status(result, dry=False) == 130


def test_dry_runs_tell_drift_by_their_status() -> None:
    result = run_waves([["a", "b"]], lambda wave: outcome(wave, planned=["b"]))
    assert exit_status(result, dry=True) == 3
    assert exit_status(run_waves([["a"]], outcome), dry=True) == 0


def test_a_report_survives_being_written_and_read(tmp_path: Path) -> None:
    result = run_waves([["a", "b"], ["c"]], lambda wave: outcome(wave, failed=["a"], changed=["b"]))
    path = tmp_path / "sub" / "report.json"
    result.report.write(path, {"waves": [["a", "b"], ["c"]]})
    assert path.stat().st_mode & 0o777 == 0o600
    data = json.loads(path.read_text())
    assert data["waves"] == [["a", "b"], ["c"]]
    again = RunReport.from_dict(data)
    assert {n: again.status(h) for n, h in again.hosts.items()} == statuses(result)
    assert again.hosts["a"].failure == Failure("vllm", "prove", "no answer", "line 1\nline 2", "look")
    assert again.hosts["b"].changes == [("base", "install", "package x: absent -> installed")]


def test_the_same_difference_is_told_once() -> None:
    report = outcome(["c", "a", "b"], planned=["a", "c"]).report
    assert report is not None
    report.host("b").unknown.append(("vllm", "the plan: known only after the driver is there"))
    (difference,) = differences(report)
    assert (difference.hosts, difference.where) == (("a", "c"), "a, c")
    (unknown,) = unknowns(report)
    assert unknown.where == "b"


def printed(report: RunReport, width: int) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    report.print(console)
    return console.export_text()


def test_the_summary_of_a_large_fleet_fits_a_screen() -> None:
    names = [f"gpu-{i:04d}" for i in range(1000)]
    report = outcome(names, failed=names[:100], changed=names[100:130]).report
    assert report is not None
    for width in (80, 120):
        text = printed(report, width)
        assert len(text.splitlines()) < 70
        assert all(len(line) <= width for line in text.splitlines())
        assert "1000 hosts: 100 failed, 30 changed, 870 unchanged" in text
        assert "100 hosts (gpu-0000, gpu-0001" in text.replace("\n", " ")


def test_the_same_warning_on_many_hosts_is_told_once() -> None:
    report = outcome(["a", "b", "c"]).report
    assert report is not None
    for name in "ab":
        report.host(name).warnings += ["no api key", "no api key"]
    text = printed(report, 100)
    assert text.count("no api key") == 1
    assert "2 hosts (a, b): warning: no api key" in text


def test_what_was_unknown_beforehand_is_not_told_after_the_change() -> None:
    report = outcome(["a"], changed=["a"]).report
    assert report is not None
    report.host("a").unknown.append(("vllm", "the plan: known later"))
    report.host("a").proofs["completion"] = "Hello"
    text = printed(report, 100)
    assert "completion: Hello" in text and "known later" not in text
