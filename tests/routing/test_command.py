"""`metalserve router`: what it prints and how it exits, with routers that answer from here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from metalserve.cli import main
from metalserve.paths import ROOT
from metalserve.pyinfra_seam import routers
from metalserve.routing.control import Answer, Outcome
from metalserve.routing.status import ReplicaState, RouterState


def replica(name: str, status: str = "up", why: str = "") -> ReplicaState:
    return ReplicaState("model-m", name, status, 1, 0, 12, why)


@pytest.mark.parametrize(
    ("outcomes", "rc"),
    [
        (["done", "done"], 0),
        (["done", "time is up"], 3),
        (["time is up", "refused"], 4),
        (["done", "refused", "failed"], 1),
    ],
)
def test_the_worst_router_decides_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, outcomes: list[Outcome], rc: int
) -> None:
    answers = [Answer(f"door-{i}", outcome, "words") for i, outcome in enumerate(outcomes)]
    monkeypatch.setattr(routers, "drain", lambda *_, **__: answers)
    assert main(["router", "drain", "inventory.py", "gpu-01"]) == rc


def test_status_shows_every_replica_and_why_one_is_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state = RouterState("0123", (replica("gpu-01:8000"), replica("gpu-02:8000", "down", "L7TOUT")))
    monkeypatch.setattr(routers, "status", lambda _: [Answer("door", "done", "", state)])
    assert main(["router", "status", "inventory.py"]) == 0
    out = capsys.readouterr().out
    assert "gpu-01:8000" in out and "L7TOUT" in out
    assert main(["router", "status", "inventory.py", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["routers"][0]
    assert [(r["name"], r["state"], r["why"]) for r in shown["replicas"]] == [
        ("gpu-01:8000", "up", ""),
        ("gpu-02:8000", "down", "L7TOUT"),
    ]


@pytest.mark.parametrize("replicas", [(), (replica("gpu-01:8000", "drain"),)])
def test_a_router_without_a_replica_that_is_up_is_no_success(
    monkeypatch: pytest.MonkeyPatch, replicas: tuple[ReplicaState, ...]
) -> None:
    monkeypatch.setattr(routers, "status", lambda _: [Answer("door", "done", "", RouterState("0", replicas))])
    assert main(["router", "status", "inventory.py"]) == 1


def test_an_inventory_without_routers_is_told(tmp_path: Path) -> None:
    inventory = tmp_path / "inventory.py"
    inventory.write_text("nodes = [('gpu-01', {'release': '2026.11-lts'})]\n")
    # in a process of its own: reading an inventory puts gevent in place of threads, for every test after it
    command = [sys.executable, "-m", "metalserve", "router", "status", str(inventory)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no host has `router` settings" in done.stderr
