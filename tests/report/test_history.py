from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from metalserve.errors import MetalserveError
from metalserve.report import writing
from metalserve.report.history import keep, kept_reports
from tests.report.samples import finding, report


def made(started: str) -> dict[str, object]:
    return report([{"name": "a", "findings": [finding("x", "ok")]}], started=started)


def test_a_report_is_kept_by_its_time_whole_and_private(tmp_path: Path) -> None:
    path = keep(made("2026-11-25T14:37:07Z"), tmp_path / "deep" / "verify")
    assert path.name == "20261125T143707Z.json"
    assert json.loads(path.read_text()) == made("2026-11-25T14:37:07Z")
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(path.parent) == [path.name]


def test_two_runs_of_one_second_are_both_kept_in_order(tmp_path: Path) -> None:
    names = [keep(made("2026-11-25T14:37:07Z"), tmp_path).name for _ in range(11)]
    assert names[:3] == ["20261125T143707Z.json", "20261125T143707Z-2.json", "20261125T143707Z-3.json"]
    assert [p.name for p in kept_reports(tmp_path)] == names


def test_the_oldest_go_and_what_is_not_ours_stays(tmp_path: Path) -> None:
    (tmp_path / "acceptance.json").write_text("{}")
    (tmp_path / "20200101T000000Z.json.bak").write_text("{}")
    for day in (3, 1, 2, 4, 5):
        keep(made(f"2026-11-0{day}T00:00:00Z"), tmp_path, kept=3)
    assert [p.name[:8] for p in kept_reports(tmp_path)] == ["20261103", "20261104", "20261105"]
    assert (tmp_path / "acceptance.json").exists() and (tmp_path / "20200101T000000Z.json.bak").exists()


def test_a_time_that_is_none_is_now(tmp_path: Path) -> None:
    assert keep(made("long ago"), tmp_path).name >= "20260101"


def test_what_is_no_report_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(MetalserveError, match="no hosts"):
        keep({"schema": 1}, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_disk_that_fills_up_leaves_the_old_file_and_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    target = tmp_path / "report.html"
    writing.write_whole(target, b"old")

    def full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing.os, step, full)
    with pytest.raises(MetalserveError, match="No space left"):
        writing.write_whole(target, b"new")
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["report.html"]


def test_a_history_that_is_not_there_is_empty_and_one_that_is_a_file_is_told(tmp_path: Path) -> None:
    assert kept_reports(tmp_path / "none") == []
    (tmp_path / "file").write_text("")
    with pytest.raises(MetalserveError, match="cannot be read"):
        kept_reports(tmp_path / "file")
