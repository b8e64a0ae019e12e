"""Where runs leave what they found: deploys/verify.py by way of pyinfra, and by `metalserve converge`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from metalserve import __version__
from metalserve.paths import ROOT
from metalserve.pyinfra_seam import preflight
from metalserve.pyinfra_seam.report import RunReport
from metalserve.report.history import kept_reports
from metalserve.report.reading import read_report
from tests.report.samples import finding
from tests.seam.conftest import Seam, seam

__all__ = ["seam"]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunReport:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("METALSERVE_REPORT", raising=False)
    monkeypatch.setenv("METALSERVE_QUIET_SUMMARY", "1")
    made = RunReport()
    made.host("a").findings = [finding("x", "ok")]
    made.verifies = made.complete = True
    monkeypatch.setattr(preflight, "RUN_REPORT", made)
    return made


def test_a_verify_run_keeps_its_report_beside_the_last_one(run: RunReport) -> None:
    preflight._summary()
    (kept,) = kept_reports(Path("reports/verify"))
    read = read_report(kept)
    assert (read.version, read.hosts[0].verdict) == (__version__, "ok")
    assert json.loads(Path("reports/last-run.json").read_text())["verifies"] is True


@pytest.mark.parametrize("what", ["another deploy", "interrupted", "one wave of converge"])
def test_other_runs_do_not(run: RunReport, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    run.verifies, run.complete = what != "another deploy", what != "interrupted"
    if what == "one wave of converge":
        monkeypatch.setenv("METALSERVE_REPORT", "reports/wave.json")
    preflight._summary()
    assert [p.name for p in Path("reports").iterdir()] in (["last-run.json"], ["wave.json"])


def test_a_history_that_cannot_be_written_is_told_and_the_last_run_stays(
    run: RunReport, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("reports").mkdir()
    Path("reports/verify").write_text("a file")
    preflight._summary()
    assert "cannot be written" in capsys.readouterr().err
    assert Path("reports/last-run.json").exists()


def test_converge_keeps_the_whole_fleets_report(seam: Seam) -> None:
    path = seam.directory / "fleet.json"
    done = subprocess.run(
        [sys.executable, "-m", "metalserve", "converge", str(seam.inventory), "tests/seam/proofs.py", "--report", path],
        cwd=ROOT,
        env=seam.environment(None),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    (kept,) = kept_reports(seam.directory / "verify")
    data = json.loads(kept.read_text())
    assert data["hosts"] == json.loads(path.read_text())["hosts"], done.stderr
    assert data["deploy"] == "tests/seam/proofs.py"
    assert data["hosts"]["@local"]["release"]
