"""What a router is asked and what it answers: the script itself, against a HAProxy that these tests play."""

from __future__ import annotations

import os
import shutil
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from metalserve.errors import MetalserveError
from metalserve.paths import FILES
from metalserve.routing.control import drain_script, enable_script, read_answer, status_script
from metalserve.routing.status import parse_state, summary

HEAD = "# pxname,svname,qcur,qmax,scur,smax,slim,stot,bin,bout,dreq,dresp,ereq,econ,eresp,wretr,wredis,status,weight,"
needs_socat = pytest.mark.skipif(shutil.which("socat") is None, reason="needs socat")


class Router:
    """HAProxy's socket as far as the script uses it: replicas with requests that end one a question."""

    def __init__(self, replicas: dict[str, tuple[str, int]]) -> None:
        self.replicas = replicas
        self.asked: list[str] = []

    def answer(self, command: str) -> str:
        self.asked.append(command)
        words = command.split()
        if words[:2] == ["show", "stat"]:
            rows = []
            for name, (status, running) in self.replicas.items():
                pool, server = name.split("/")
                rows.append(f"{pool},{server},0,0,{running},9,,77,0,0,,0,,0,0,0,0,{status},1,")
                if status == "DRAIN" and running > 0:
                    self.replicas[name] = (status, running - 1)
            return "\n".join([HEAD, *rows, "api,FRONTEND,,,0,,,,,,,,,,,,,OPEN,,", ""])
        if words[:2] == ["set", "server"]:
            if words[2] not in self.replicas:
                return "No such server.\n"
            self.replicas[words[2]] = ({"drain": "DRAIN", "ready": "UP"}[words[4]], self.replicas[words[2]][1])
            return "\n"
        if words[:2] == ["show", "env"]:
            return "MS_GENERATION=0123456789abcdef\n\n"
        if words[:3] == ["show", "servers", "state"]:
            return "1\n# be_id be_name\n"
        return "Unknown command\n"


@pytest.fixture
def play(tmp_path: Path) -> Iterator[Router]:
    router = Router({})

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(router.answer(self.rfile.readline().decode().strip()).encode())

    server = socketserver.ThreadingUnixStreamServer(str(tmp_path / "admin.sock"), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield router
    server.shutdown()
    thread.join()
    server.server_close()


def control(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MS_RUN_ROUTER": str(place), "MS_SERVERS": str(place / "servers")}
    command = ["sh", str(FILES / "router" / "control.sh"), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


@needs_socat
def test_drain_waits_for_what_runs_and_saves_the_state(play: Router, tmp_path: Path) -> None:
    play.replicas = {
        "model-a/gpu-01:8000": ("UP", 3),
        "model-a/gpu-01:8001": ("UP", 0),
        "model-a/gpu-02:8000": ("UP", 5),
    }
    done = control(tmp_path, "drain", "30", "0", "gpu-01")
    assert done.returncode == 0, done.stderr
    assert "gpu-01:8000 gpu-01:8001" in done.stdout
    assert {name: status for name, (status, _) in play.replicas.items()} == {
        "model-a/gpu-01:8000": "DRAIN",
        "model-a/gpu-01:8001": "DRAIN",
        "model-a/gpu-02:8000": "UP",
    }
    assert (tmp_path / "servers").read_text().startswith("1\n")
    assert control(tmp_path, "enable", "gpu-01:8000").returncode == 0
    assert play.replicas["model-a/gpu-01:8000"][0] == "UP"
    assert play.replicas["model-a/gpu-01:8001"][0] == "DRAIN"


@needs_socat
def test_what_runs_longer_than_the_wait_is_told_and_left(play: Router, tmp_path: Path) -> None:
    play.replicas = {"model-a/gpu-01:8000": ("UP", 1000), "model-a/gpu-02:8000": ("UP", 0)}
    done = control(tmp_path, "drain", "0", "0", "gpu-01:8000")
    assert done.returncode == 3
    assert "requests still run on gpu-01:8000" in done.stderr
    assert play.replicas["model-a/gpu-01:8000"][0] == "DRAIN"


@needs_socat
@pytest.mark.parametrize("other", ["DOWN", "DRAIN", "MAINT", "DOWN 1/2"])
def test_the_last_one_up_is_not_drained_unless_forced(play: Router, tmp_path: Path, other: str) -> None:
    play.replicas = {
        "model-a::gpu-01:8000/gpu-01:8000": ("UP", 0),
        "model-a::gpu-02:8000/gpu-02:8000": (other, 0),
        "model-b/gpu-03:8000": ("UP", 0),
    }
    done = control(tmp_path, "drain", "5", "0", "gpu-01")
    assert done.returncode == 4
    assert "model-a: nothing else is up" in done.stderr
    assert not [command for command in play.asked if command.startswith("set ")]
    assert control(tmp_path, "drain", "5", "1", "gpu-01").returncode == 0


@needs_socat
def test_one_on_its_way_down_still_counts_as_up(play: Router, tmp_path: Path) -> None:
    play.replicas = {"model-a/gpu-01:8000": ("UP", 0), "model-a/gpu-02:8000": ("UP 1/3", 0)}
    assert control(tmp_path, "drain", "5", "0", "gpu-01").returncode == 0


@needs_socat
def test_an_unknown_replica_changes_nothing(play: Router, tmp_path: Path) -> None:
    play.replicas = {"model-a/gpu-01:8000": ("UP", 0), "model-a/gpu-011:8000": ("UP", 0)}
    for words in (("drain", "5", "0", "gpu-01:8000", "gpu-9"), ("enable", "gpu-9"), ("drain", "5", "0", "gpu")):
        done = control(tmp_path, *words)
        assert done.returncode == 1 and "has no replica gpu" in done.stderr, words
    assert {status for status, _ in play.replicas.values()} == {"UP"}
    assert not [command for command in play.asked if command.startswith("set ")]


def test_a_router_that_is_not_there_is_told(tmp_path: Path) -> None:
    done = control(tmp_path, "drain", "5", "0", "gpu-01")
    assert done.returncode == 1 and "does not answer" in done.stderr
    assert parse_state(control(tmp_path, "state").stdout).generation == ""


@needs_socat
def test_the_state_is_read_back(play: Router, tmp_path: Path) -> None:
    play.replicas = {"model-a/gpu-01:8000": ("UP 1/3", 2), "model-a::gpu-02:8000/gpu-02:8000": ("DOWN", 0)}
    state = parse_state(control(tmp_path, "state").stdout)
    assert state.generation == "0123456789abcdef"
    assert [(r.pool, r.name, r.status, r.requests, r.total) for r in state.replicas] == [
        ("model-a", "gpu-01:8000", "up", 2, 77),
        ("model-a", "gpu-02:8000", "down", 0, 77),
    ]
    assert summary(state.replicas) == "1 of 2 up, gpu-02:8000 down"


def test_answers_are_read_and_a_broken_one_has_failed() -> None:
    assert read_answer("door", ["drained in 2 s: gpu-01:8000", "@@router-control 0"]).outcome == "done"
    assert read_answer("door", ["late", "@@router-control 3"]).outcome == "time is up"
    assert read_answer("door", ["no", "@@router-control 4"]).outcome == "refused"
    assert read_answer("door", ["sh: router-control: not found", "@@router-control 127"]).outcome == "failed"
    assert read_answer("door", ["drained in 2 s"]).outcome == "failed"


@pytest.mark.parametrize("target", ["", "-rf", "a b", "gpu-01:", "gpu-01:x", "$(id)", "gpu-01;id", "a/b"])
def test_only_names_reach_a_shell(target: str) -> None:
    for script in (lambda: drain_script([target], wait_s=1), lambda: enable_script([target])):
        with pytest.raises(MetalserveError, match="neither HOST nor HOST:PORT"):
            script()
    assert status_script().splitlines()[0].endswith("router-control state")
