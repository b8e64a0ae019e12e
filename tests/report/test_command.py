from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from metalserve.cli import main
from metalserve.report.history import keep
from metalserve.report.plots import round_ticks
from tests.report.parsing import parse
from tests.report.samples import host, report


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "good.json", report([host("a", soak_s=20), host("b")]))
    write(tmp_path / "bad.json", report([host("a", fault="nvlink-degraded", soak_s=20), host("b")]))
    (tmp_path / "reports").mkdir()
    write(tmp_path / "reports" / "last-run.json", report([host("last")]))
    return tmp_path


def write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value))


def test_the_terminal_shows_what_is_above_ok_with_what_to_do(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "bad.json"]) == 0
    out = capsys.readouterr().out
    assert "SIMULATED: all hosts" in out and "2 hosts: 1 fail, 1 ok" in out
    assert "fail  nvlink-count: GPU 3 (0000:4e:00.0): 16 active, 2 inactive\n" in out
    assert "    do: read `nvidia-smi nvlink -e`" in out and "    expected: 18 active NVLinks\n" in out
    assert "pcie-width" not in out
    assert main(["report", "bad.json", "-v"]) == 0
    assert "pcie-width" in capsys.readouterr().out


def test_the_last_run_is_shown_where_no_file_is_named(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report"]) == 0
    assert "last" in capsys.readouterr().out
    assert main(["report", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["hosts"]) == ["last"]


def test_pages_and_xml_are_written(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "bad.json", "--html", "out/page.html", "--junit", "out/x.xml", "--host", "a"]) == 0
    assert len(parse((files / "out/page.html").read_text()).all("details", cls="node")) == 1
    assert len(ElementTree.fromstring((files / "out/x.xml").read_text())) == 1
    said = capsys.readouterr()
    assert said.out == "" and "out/page.html: page of 1 host" in said.err


def test_json_tells_the_verdicts(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "bad.json", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == 1 and found["simulated"] is True and found["verdicts"] == {"fail": 1, "ok": 1}
    assert [f["check"] for f in found["hosts"]["a"]["findings"]] == ["pair-links", "nvlink-count", "xid"]
    assert found["hosts"]["a"]["figures"][0]["low"] is True


def test_bad_input_is_one_line_and_one(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "words.json").write_text("words")
    for given in (["words.json"], ["none.json"], ["good.json", "--host", "zzz"], ["good.json", "--html", "/proc/x/y"]):
        assert main(["report", *given]) == 1, given
        said = capsys.readouterr()
        assert said.out == "" and said.err.startswith("metalserve: ") and said.err.count("\n") == 1, given
    assert main(["report", "diff", "good.json", "words.json"]) == 1
    assert main(["report", "good.json", "--html", "-", "--json"]) == 2


def test_diff_says_what_got_worse_by_its_exit_status(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "diff", "good.json", "bad.json"]) == 1
    out = capsys.readouterr().out
    assert "a: nvlink-count: GPU 3 (0000:4e:00.0): ok: 18 active, 0 inactive -> fail: 16 active, 2 inactive" in out
    assert "tolerance 5 %" in out
    assert main(["report", "diff", "bad.json", "good.json"]) == 0
    assert "nothing got worse" in capsys.readouterr().out
    assert main(["report", "diff", "good.json", "good.json", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["worse"] == []
    assert main(["report", "diff", "good.json", "bad.json", "--host", "b"]) == 0


def test_the_tolerance_can_be_given(files: Path) -> None:
    slower = copy.deepcopy(host("a", soak_s=20))
    for row in slower["measurements"]["nvlink"]["all_reduce"]:
        row["busbw_gb_s"] *= 0.9
    write(files / "old.json", report([host("a", soak_s=20)]))
    write(files / "new.json", report([slower]))
    assert main(["report", "diff", "old.json", "new.json"]) == 1
    assert main(["report", "diff", "old.json", "new.json", "--tolerance", "15"]) == 0


def test_the_same_on_many_hosts_is_told_once(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(files / "old.json", report([host(f"h{i}") for i in range(9)]))
    write(files / "new.json", report([{**host(f"h{i}"), "hardware": {}} for i in range(9)]))
    assert main(["report", "diff", "old.json", "new.json"]) == 1
    assert "9 hosts (h0, h1, h2, h3, h4, h5, ...): hardware: read -> not read" in capsys.readouterr().out


def test_history_lists_newest_first_and_what_cannot_be_read(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "history"]) == 0
    assert "no reports in reports/verify" in capsys.readouterr().out
    keep(report([host("a")], started="2026-11-01T00:00:00Z"), Path("reports/verify"))
    keep(report([host("a", fault="pcie-downgraded")], started="2026-11-02T00:00:00Z"), Path("reports/verify"))
    Path("reports/verify/20261103T000000Z.json").write_text("cut off")
    assert main(["report", "history", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["reports"]
    assert [r.get("verdicts") for r in rows] == [None, {"fail": 1}, {"ok": 1}]
    assert "no JSON" in rows[0]["error"]
    assert main(["report", "history"]) == 0
    assert "2026-11-02 00:00:00 UTC" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (34, 88), (1725.0, 1755.0), (5, 5), (0, 0), (-3, 1), (1e14, 1e14 + 1), (-1e14, 1e14)]
)
def test_axes_have_few_round_ticks_that_enclose_all(low: float, high: float) -> None:
    ticks = round_ticks(low, high)
    assert 2 <= len(ticks) <= 6 and ticks == sorted(set(ticks))
    assert ticks[0] <= low + 1e-6 * abs(low) and ticks[-1] >= high - 1e-6 * abs(high)
