"""The models of a fleet: what a host's script prints, run by a shell with an agent, and what is made of it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metalserve.cli.weights_view import whole
from metalserve.settings import HostSettings
from metalserve.weights.fleet import command_script, read_answer, read_status, status_script
from metalserve.weights.host import CONFIGS, PACKAGE, agent_files
from metalserve.weights.store import AGENT_LIBRARY

REVISION = "ab" * 20
KEY = "org--model-abababababab"


def settings(mount: str = "/srv/models") -> HostSettings:
    model = {"name": "org/model", "revision": REVISION, "manifest": "models/m.yaml"}
    made = HostSettings.from_data({"release": "2026.11-lts", "model": model}, host="h", source="test")
    # laid over: where a test's files lie need not be where a host may have its models
    return made.model_copy(update={"storage": made.storage.model_copy(update={"mount": mount})})


def status(**more: Any) -> str:
    data = {
        "format": 1, "state": "published", "what": "", "bytes_there": 5, "bytes_total": 5, "job": KEY,
        "repository": "org/model", "revision": REVISION, "references": ["inventory"], "progress": None,
        "check_progress": None, "last_full_check": {"at": 900, "state": "intact"},
    }  # fmt: skip
    return json.dumps({**data, **more})


def lines(*jobs: tuple[str, str], runs: str = "") -> list[str]:
    told = ["@@now 1000"]
    for key, said in jobs:
        told += [f"@@job {key}", f"@@status {said}", "@@hashed 800", *([f"@@runs {runs}"] if runs else [])]
    return [*told, "@@end"]


def test_a_host_that_has_what_it_should() -> None:
    found = read_status("h", settings(), lines(("aaa--old-000000000000", status()), (KEY, status())))
    assert found.right and [model.key for model in found.models] == [KEY, "aaa--old-000000000000"], (
        "the wanted one first"
    )
    model = found.models[0]
    assert (model.state, model.hashed_at, model.checked_at, model.references) == ("published", 800, 900, ("inventory",))
    assert json.loads(json.dumps(found.as_dict()))["models"][0]["check_found"] == "intact"


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (["@@no-agent"], "no agent is on it yet"),
        (["@@now 5", "@@job x"], "its answer broke off"),
        ([], "its answer broke off"),
    ],
)
def test_a_host_of_which_nothing_is_known(told: list[str], words: str) -> None:
    found = read_status("h", settings(), told)
    assert words in found.error and not found.right


def test_what_is_wrong_or_not_there_is_not_right() -> None:
    assert not read_status("h", settings(), lines((KEY, status(state="partial")))).right
    assert not read_status("h", settings(), lines((KEY, status()), ("b", status(state="damaged")))).right
    assert not read_status("h", settings(), lines()).right
    broken = read_status("h", settings(), lines((KEY, "b: cannot be read -> run the weights role again")))
    assert not broken.right and broken.models[0].state == "unknown" and "cannot be read" in broken.models[0].what


def test_what_works_on_it() -> None:
    progress = {"format": 1, "job": KEY, "phase": "fetching", "bytes_total": 5, "bytes_done": 2}
    told = lines((KEY, status(state="partial", progress=progress)), runs="metalserve-weights-repair")
    model = read_status("h", settings(), told).models[0]
    assert model.running == ("repair",) and model.progress is not None and model.progress.bytes_done == 2
    assert read_status("h", settings(), lines((KEY, status()), runs="metalserve-weights")).models[0].running == (
        "stage",
    )


@given(st.lists(st.text(max_size=40), max_size=8))
def test_no_answer_is_taken_for_a_right_host(told: list[str]) -> None:
    assert not read_status("h", settings(), told).right
    assert read_answer("h", told).failed


def here(script: str, root: Path) -> list[str]:
    """Run a script with the agent and its places below `root`."""
    for place, own in ((AGENT_LIBRARY, "lib"), (CONFIGS, "configs")):
        script = script.replace(place, str(root / own))
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def host(tmp_path: Path) -> Path:
    for path, text in agent_files().items():
        target = tmp_path / "lib" / path.removeprefix(f"{AGENT_LIBRARY}/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    (tmp_path / "models").mkdir()
    (tmp_path / "configs").mkdir()
    assert PACKAGE.startswith(AGENT_LIBRARY)
    return tmp_path


def test_the_scripts_and_the_agent_understand_each_other(host: Path) -> None:
    mount = str(host / "models")
    (host / "configs" / "broken-000000000000.json").write_text("{}")
    found = read_status("h", settings(mount), here(status_script(settings(mount)), host))
    assert found.error == "" and found.now > 1e9 and found.references == ()
    assert [(model.state, "another version" in model.what) for model in found.models] == [("unknown", True)]
    added = here(
        command_script(["reference", "add", mount, "inventory", "--repository", "org/model", "--revision", REVISION]),
        host,
    )
    assert read_answer("h", added).data["changed"] is True
    found = read_status("h", settings(mount), here(status_script(settings(mount)), host))
    assert [(r.name, r.model) for r in found.references] == [("inventory", "org/model@abababababab")]
    refused = read_answer("h", here(command_script(["gc", f"{mount}/nowhere"]), host))
    assert "nowhere" in refused.failed and refused.data == {}
    assert "no agent" in read_answer("h", here(command_script(["gc", mount]), host / "models")).failed


def test_the_fleet_as_a_whole() -> None:
    one = {"phase": "fetching", "bytes_total": 10, "bytes_done": 4, "rate_bytes_s": 2, "eta_s": 3}
    done = {"phase": "done", "bytes_total": 10, "bytes_done": 10, "rate_bytes_s": 9, "eta_s": None}
    found = whole([one, {**one, "eta_s": 8}, done])
    assert (found["bytes_done"], found["rate_bytes_s"], found["eta_s"]) == (18, 4, 8)
    assert found["phase"] == "2 of 3 at work"
    assert whole([one, {**one, "eta_s": None}])["eta_s"] is None, "unknown of one is unknown of all"
    assert whole([])["bytes_total"] == 0
