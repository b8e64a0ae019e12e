"""`metalserve weights status|verify|repair|gc`: what is asked and printed, how it exits; hosts answer from here."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from metalserve.cli import main, weights_hosts
from metalserve.converge import selection
from metalserve.pyinfra_seam.connections import Told
from metalserve.settings import HostSettings
from tests.weights.test_fleet import KEY, lines, settings, status

INVENTORY = """\
nodes = [
    ("a", {"release": "2026.11-lts", "model": MODEL}),
    ("b", {"release": "2026.11-lts", "model": MODEL}),
    ("router", {"release": "2026.11-lts"}),
]
"""


class Hosts:
    """Stands for the hosts: answers by the first of `answers` whose words are in the script."""

    def __init__(self, answers: dict[str, Sequence[str] | str]) -> None:
        self.answers = answers
        self.asked: list[tuple[str, str]] = []
        self.settings: dict[str, HostSettings] = {}

    def ask(self, script: Callable[[str], str], timeout_s: int, among: Sequence[str] | None = None) -> list[Told]:
        return [self._one(name, script(name)) for name in self.settings if among is None or name in among]

    def _one(self, name: str, script: str) -> Told:
        self.asked.append((name, script))
        for words, answer in self.answers.items():
            if words in script:
                if isinstance(answer, str):
                    return Told(name, error=answer)
                return Told(name, True, tuple(answer))
        raise AssertionError(script)


@pytest.fixture
def inventory(tmp_path: Path) -> str:
    model = settings().model
    assert model is not None
    manifest = tmp_path / "manifest.yaml"
    rows = [{"path": "config.json", "size": 5, "sha256": "a" * 64}]
    manifest.write_text(yaml.safe_dump({"repository": model.name, "revision": model.revision, "files": rows}))
    told = {"name": model.name, "revision": model.revision, "manifest": str(manifest)}
    path = tmp_path / "inventory.py"
    path.write_text(INVENTORY.replace("MODEL", repr(told)))
    return str(path)


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> Hosts:
    made = Hosts({})

    @contextmanager
    def connected(path: str, wanted: Callable[[str, HostSettings], bool]) -> Iterator[Hosts]:
        known = {
            "a": settings(),
            "b": settings(),
            "router": HostSettings.from_data({"release": "2026.11-lts"}, host="r", source="t"),
        }
        made.settings = {name: each for name, each in known.items() if wanted(name, each)}
        yield made

    def read(path: str) -> tuple[list[tuple[str, dict[str, Any]]], dict[str, list[str]]]:
        # pyinfra's own reader would put gevent in place of threads, for every test after this one
        told: dict[str, Any] = {}
        exec(Path(path).read_text(), told)
        return told["nodes"], {"nodes": [name for name, _ in told["nodes"]]}

    monkeypatch.setattr(weights_hosts, "connected", connected)
    monkeypatch.setattr(selection, "load_hosts_and_groups", read)
    return made


def test_status(
    hosts: Hosts, inventory: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    hosts.answers = {"@@now": lines((KEY, status()))}
    assert main(["weights", "status", inventory, "--limit", "a"]) == 0
    assert "org/model@abababababab" in capsys.readouterr().out
    hosts.answers = {"@@now": lines((KEY, status(state="damaged", what="x: bytes are wrong")))}
    assert main(["weights", "status", inventory, "--limit", "a", "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert (said["schema"], said["hosts"][0]["models"][0]["state"]) == (1, "damaged")
    hosts.answers = {"@@now": "no connection"}
    assert main(["weights", "status", inventory, "--limit", "a"]) == 1
    assert "metalserve: a: no connection" in capsys.readouterr().err


def test_an_unknown_limit_is_an_error(hosts: Hosts, inventory: str, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("status", "verify", "repair", "gc"):
        assert main(["weights", command, inventory, "--limit", "z"]) == 1
        assert "no such host or group" in capsys.readouterr().err
    assert hosts.asked == []
    assert main(["weights", "stage", inventory, "--limit", "z"]) == 2


def test_verify_fast_asks_the_agent_of_hosts_that_have_a_model(
    hosts: Hosts, inventory: str, capsys: pytest.CaptureFixture[str]
) -> None:
    right = json.dumps({"state": "intact", "published": "/srv/models/m", "bytes_read": 2**30, "seconds": 1.5})
    hosts.answers = {"check --fast": [right, "@@rc 0"]}
    assert main(["weights", "verify", inventory]) == 0
    assert [name for name, _ in hosts.asked] == ["a", "b"]
    assert "a: /srv/models/m is intact, 1.00 GiB read in 1.5 s" in capsys.readouterr().out
    wrong = ['{"state": "damaged"}', "/srv/models/m: x: bytes are wrong -> mend it", "@@rc 3"]
    hosts.answers = {"check --fast": wrong}
    assert main(["weights", "verify", inventory, "--json"]) == 1
    told = capsys.readouterr()
    assert json.loads(told.out)["hosts"][0]["failed"] == "/srv/models/m: x: bytes are wrong -> mend it"
    assert "metalserve: b: /srv/models/m" in told.err


@pytest.mark.parametrize(("command", "unit"), [("verify --full", "weights-check"), ("repair", "weights-repair")])
def test_what_takes_long_runs_in_a_unit_that_is_followed(
    hosts: Hosts, inventory: str, capsys: pytest.CaptureFixture[str], command: str, unit: str
) -> None:
    progress = json.dumps({"format": 1, "job": KEY, "phase": "done", "bytes_total": 5, "bytes_done": 5})
    ended = ["@@ActiveState=inactive", "@@Result=success", f"@@progress {progress}"]
    begun = f"systemctl start metalserve-{unit}@{KEY}.service"
    hosts.answers = {begun: [], "is-active": ended}
    words = command.split()
    assert main(["weights", words[0], inventory, *words[1:]]) == 0
    assert "a: done" in capsys.readouterr().out
    failed = ["@@ActiveState=failed", "@@Result=exit-code", "@@said x: bytes are wrong -> mend it"]
    hosts.answers = {begun: [], "is-active": failed}
    assert main(["weights", words[0], inventory, *words[1:], "--limit", "b"]) == 1
    assert "metalserve: b: x: bytes are wrong -> mend it" in capsys.readouterr().err
    hosts.answers = {begun: [], "is-active": "the connection broke"}
    assert main(["weights", words[0], inventory, *words[1:], "--limit", "b"]) == 1
    assert "the connection broke -> run again" in capsys.readouterr().err


def test_nothing_is_removed_that_nobody_agreed_to(
    hosts: Hosts, inventory: str, capsys: pytest.CaptureFixture[str]
) -> None:
    would = json.dumps({"dry": True, "removed": ["/srv/models/old"], "kept": {"/srv/models/m": "referenced by x"}})
    did = json.dumps({"dry": False, "removed": ["/srv/models/old"], "kept": {}})
    hosts.answers = {"--dry": [would, "@@rc 0"], "gc": [did, "@@rc 0"]}
    assert main(["weights", "gc", inventory, "--dry"]) == 0
    assert "a: would remove /srv/models/old\na: kept /srv/models/m: referenced by x" in capsys.readouterr().out
    assert main(["weights", "gc", inventory]) == 1
    assert "--yes does it" in capsys.readouterr().err
    assert all("--dry" in script for _, script in hosts.asked)
    assert main(["weights", "gc", inventory, "--yes", "--keep", "3"]) == 0
    assert "a: removed /srv/models/old" in capsys.readouterr().out
    assert "gc /srv/models --keep 3 --json" in hosts.asked[-1][1]
    hosts.answers = {"--dry": [json.dumps({"dry": True, "removed": []}), "@@rc 0"]}
    assert main(["weights", "gc", inventory]) == 0
    assert "nothing to remove" in capsys.readouterr().out
