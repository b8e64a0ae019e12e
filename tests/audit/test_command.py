"""`metalserve audit` from end to end: terminal, JSON, page."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from metalserve.cli.audit import command
from metalserve.errors import MetalserveError
from metalserve.paths import ROOT
from metalserve.recovery.actor import this_actor
from metalserve.recovery.store import Store
from metalserve.recovery.values import Mark, Subject
from metalserve.report.history import keep
from tests.audit.samples import finding, report, verified_host


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METALSERVE_STATE", str(tmp_path / "state"))
    return tmp_path


def run(*args: str) -> Result:
    assert "--inventory" not in args, "reading one puts gevent in place of threads for all tests after it: `apart`"
    return CliRunner().invoke(command, list(args), catch_exceptions=False)


def apart(*args: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "metalserve", "audit", *args],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )


def written(directory: Path, data: dict[str, Any], name: str = "run.json") -> str:
    file = directory / name
    file.write_text(json.dumps(data))
    return str(file)


def test_json_has_a_schema_and_every_item(here: Path) -> None:
    file = written(here, report(verified_host(), verifies=True))
    data = json.loads(run("--report", file, "--json").stdout)
    assert data["schema"] == 1
    assert data["reports"] == [file]
    node = data["nodes"]["n1"]
    assert node["verified"]["verdict"] == "ok"
    assert node["items"]["driver"]["state"] == "proved"
    assert node["items"]["plan"]["seen"] is None
    assert node["items"]["plan"]["state"] == "unknown"
    assert {item["state"] for item in node["items"].values()} <= set(data["states"])


def test_the_reports_that_runs_leave_are_found(here: Path) -> None:
    keep(report(verified_host(), day=20, verifies=True), here / "reports" / "verify")
    keep(report(verified_host(depth="deep"), day=22, verifies=True), here / "reports" / "verify")
    (here / "reports" / "verify" / "20260101T000000Z.json").write_text("{broken")
    data = json.loads(run("--json").stdout)
    assert data["nodes"]["n1"]["verified"]["depth"] == "deep"
    assert data["nodes"]["n1"]["verified"]["started"] == "2026-11-22T06:00:00+00:00"


def test_an_inventory_alone_gives_all_its_hosts(here: Path) -> None:
    data = json.loads(apart("--inventory", str(ROOT / "inventories" / "prod.py"), "--json").stdout)
    assert len(data["nodes"]) >= 2
    assert all(node["in_inventory"] for node in data["nodes"].values())
    assert all(node["verified"]["verdict"] == "never" for node in data["nodes"].values())


def test_without_anything_it_is_told_what_to_give(here: Path) -> None:
    with pytest.raises(MetalserveError, match="--inventory"):
        run()


def test_a_report_that_was_named_must_be_one(here: Path) -> None:
    with pytest.raises(MetalserveError, match="is no report"):
        run("--report", written(here, {"schema": 1}))


def test_the_output_of_drift_is_read(here: Path) -> None:
    file = written(here, report(verified_host("a"), verified_host("b"), verified_host("c"), verifies=True))
    drift = {
        "schema": 1,
        "drift": [{"role": "base", "stage": "configure", "what": "file /etc/x", "hosts": ["a"]}],
        "known_later": [],
        "hosts": {"a": "would change", "b": "unchanged", "c": "unreachable"},
    }
    given = written(here, drift, "drift.json")
    nodes = json.loads(run("--report", file, "--drift", given, "--json").stdout)["nodes"]
    assert nodes["a"]["items"]["drift"]["seen"] == "1 difference"
    assert nodes["b"]["items"]["drift"]["state"] == "proved"
    assert nodes["c"]["items"]["drift"]["state"] == "unknown"
    with pytest.raises(MetalserveError, match="drift --json"):
        run("--report", file, "--drift", file)


def test_the_page_is_whole_and_escaped(here: Path) -> None:
    evil = verified_host("n1", findings=[finding("<b>check", "fail", "<script>alert(1)</script>")])
    evil.warnings.append("<img src=x>")
    evil.simulated = True
    file = written(here, report(evil, verified_host("n2"), verifies=True))
    assert run("--report", file, "--html", "out.html").exit_code == 0
    page = (here / "out.html").read_text()
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;script&gt;" in page
    assert "SIMULATED" in page
    assert not re.search(r"(?:src|href)=\"(?!#)", page)
    assert page.count('<section class="record"') == 2
    for words in ("none recorded", "Signature", "not seen", "unknown"):
        assert words in page


def test_the_terminal_says_what_is_not_proved(here: Path) -> None:
    file = written(here, report(verified_host(), verifies=True))
    out = run("--report", file).output
    assert "not proved" in out
    assert "none recorded" in out


def test_the_keys_are_those_of_the_documentation(here: Path) -> None:
    _, _, words = (ROOT / "docs" / "cost-audit-schema.md").read_text().partition("## `metalserve audit --json`")
    documented = set(re.findall(r"`([a-z_]+)`", words))
    file = written(here, report(verified_host(), verifies=True))
    data = json.loads(run("--report", file, "--json").stdout)
    node = data["nodes"]["n1"]
    keys = {*data, *node, *node["items"], *node["items"]["driver"], *node["verified"], *data["states"]}
    assert keys <= documented


def test_an_inventory_with_a_report_gives_plan_manifest_and_every_refused_host(here: Path) -> None:
    from metalserve.paths import FILES

    manifest = FILES / "models" / "EXAMPLE.yaml"
    inventory = here / "fleet.py"
    model = {"name": "meta-llama/Llama-3.1-8B-Instruct", "revision": "ab" * 20, "manifest": "files/models/EXAMPLE.yaml"}
    good = {"release": "2026.11-lts", "model": model, "expect": {"gpu": "h100-nvl", "count": 2}}
    hosts = [("n1", good), ("n2", good), ("wrong", {"release": "2026.11-lts", "modle": {}})]
    inventory.write_text(f"nodes = {hosts!r}\n")
    file = written(here, report(verified_host("n1"), verifies=True))
    nodes = json.loads(apart("--inventory", str(inventory), "--report", file, "--json").stdout)["nodes"]
    assert set(nodes) == {"n1", "n2", "wrong"}
    plan = nodes["n1"]["items"]["plan"]
    assert plan["state"] == "wanted"
    assert plan["wanted"].startswith("2 x TP1 PP1 DP1: ")
    assert "--max-model-len" in plan["wanted"]
    assert "not read off the host" in plan["note"]
    assert nodes["n1"]["items"]["quantisation"]["wanted"] == "as trained"
    # The weights that were seen are another model's than the inventory wants.
    assert nodes["n1"]["items"]["model"]["state"] == "differs"
    digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
    assert nodes["n1"]["items"]["manifest"]["wanted"] == digest
    # Without hardware that was seen there is nothing to plan on.
    assert nodes["n2"]["items"]["plan"]["state"] == "unknown"
    assert nodes["n2"]["verified"]["verdict"] == "never"
    assert "modle" in nodes["wrong"]["exceptions"][0]
    assert nodes["wrong"]["items"]["release"]["state"] == "unknown"


def test_the_last_recovery_and_marks_come_from_what_recover_remembers(here: Path) -> None:
    file = written(here, report(verified_host(), verifies=True))
    node = json.loads(run("--report", file, "--json").stdout)["nodes"]["n1"]
    assert node["items"]["last_recovery"]["state"] == "none"
    store = Store(here / "state" / "recovery.db")
    gpu = Subject("gpu", "0000:18:00.0", "1650")
    attempt = store.begin("n1", "all", this_actor(), ["gpu-off-bus"], [gpu], "reboot", "", 1_795_650_000.0)
    store.end(attempt.id, "quarantined", "no rung is left", 1_795_650_900.0)
    store.mark(Mark("n1", "quarantine", "anna", "waits for a GPU", 1_795_650_900.0))
    store.close()
    item = json.loads(run("--report", file, "--json").stdout)["nodes"]["n1"]["items"]["last_recovery"]
    assert item["seen"].startswith("quarantined, begun 2026-11-25 ")
    assert "gpu-off-bus; marked quarantine by anna: waits for a GPU" in item["seen"]
    assert item["source"] == str(here / "state" / "recovery.db")
