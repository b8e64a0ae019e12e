"""The gate and the probe themselves, run by the shell: a made-up nvidia-smi, a real HTTP server."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from metalserve.paths import FILES
from roles.vllm.answers import Answer, parse_answers

GATE = FILES / "vllm" / "gate.sh"
PROBE = FILES / "vllm" / "probe.sh"
UUIDS = [f"GPU-{i}{i}{i}" for i in range(4)]

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")

FABRIC = """
GPU 00000000:{bus}:00.0
    GPU UUID                              : {uuid}
    Fabric
        State                             : {state}
        Status                            : {status}
        Health
            Summary                       : N/A
    Clocks
        State                             : nothing
"""


class Machine:
    """A directory with a nvidia-smi that says what the test wants, and an agent that finds the weights right or not."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.gate = root / "lib" / "engine-gate"
        self.gate.parent.mkdir()
        shutil.copy(GATE, self.gate)
        self.weights("sys.exit(0)")
        self.said = {"index": "\n".join(f"{i}, {u}" for i, u in enumerate(UUIDS)), "q": "", "apps": "", "used": ""}
        self.rc = 0

    def weights(self, script: str) -> None:
        package = self.gate.parent / "msweights"
        package.mkdir(exist_ok=True)
        (package / "__main__.py").write_text(f"import sys\n{script}\n")

    def fabric(self, state: str = "Completed", status: str = "Success", which: int = 2) -> None:
        self.said["q"] = "".join(
            FABRIC.format(
                bus=f"1{i}",
                uuid=uuid,
                state=state if i == which else "Completed",
                status=status if i == which else "Success",
            )
            for i, uuid in enumerate(UUIDS)
        )

    def run(self, **environment: str) -> subprocess.CompletedProcess[str]:
        bin_ = self.root / "bin"
        bin_.mkdir(exist_ok=True)
        for name, text in self.said.items():
            (self.root / name).write_text(f"{text}\n" if text else "")
        tool = bin_ / "nvidia-smi"
        tool.write_text(
            '#!/bin/sh\ncase "$1" in *compute-apps*) f=apps ;; *memory.used*) f=used ;; -q) f=q ;; *) f=index ;; esac\n'
            f"cat {self.root}/$f\nexit {self.rc}\n"
        )
        tool.chmod(0o755)
        return subprocess.run(
            ["sh", str(self.gate)],
            env={
                "PATH": f"{bin_}:{os.environ['PATH']}",
                "MS_GPUS": ",".join(UUIDS[:2]),
                "MS_WEIGHTS": "1",
                "MS_STORE": "/srv/models/org--model",
                "MS_REVISION": "ab" * 20,
                "MS_PATIENCE": "0",
                "MS_UNVERIFIED": str(self.root / "unverified"),
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=30,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert " -> " in done.stderr
    return done.stderr


def test_the_gate_opens(machine: Machine) -> None:
    machine.fabric()
    done = machine.run(MS_FABRIC="1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_node_just_made_from_a_template_starts_nothing_until_a_run_proved_it(machine: Machine) -> None:
    mark = machine.root / "unverified"
    mark.write_text("made from the template debian-13; not verified yet\n")
    assert "this node was made from the template debian-13; not verified yet -> run deploys/gpu_node.py" in refusal(
        machine.run()
    )
    mark.unlink()
    assert machine.run().returncode == 0


def test_no_driver(machine: Machine) -> None:
    machine.rc = 9
    machine.said["index"] = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
    assert "the driver does not answer (NVIDIA-SMI has failed" in refusal(machine.run())


def test_a_gpu_is_gone(machine: Machine) -> None:
    machine.said["index"] = f"0, {UUIDS[0]}\n1, {UUIDS[2]}"
    assert f"GPU {UUIDS[1]} is not there, nvidia-smi lists 2" in refusal(machine.run())


CTK = """#!/bin/sh
echo "$*" >>{root}/ctk-calls
[ ! -e {root}/ctk-fails ] || {{ echo 'ERRO: no devices'; exit 1; }}
printf 'devices:\n- name: "0"\n- name: "10"\n' >"${{3#--output=}}"
"""


def test_a_cdi_specification_that_was_not_made_at_boot_is_made_now(machine: Machine) -> None:
    bin_ = machine.root / "bin"
    bin_.mkdir()
    tool = bin_ / "nvidia-ctk"
    tool.write_text(CTK.format(root=machine.root))
    tool.chmod(0o755)
    spec = machine.root / "cdi" / "nvidia.yaml"
    environment = {"MS_SPEC": str(spec), "MS_RUN": str(machine.root / "ms"), "MS_DEVICES": "0"}
    done = machine.run(**environment)
    assert done.returncode == 0, done.stderr
    assert "made anew" in done.stdout and 'name: "0"' in spec.read_text()
    assert machine.run(**environment).stdout == ""
    assert len((machine.root / "ctk-calls").read_text().splitlines()) == 1
    # 1 is not 10; one that cannot be made is left as it was
    assert "does not name GPU 0,1 " in refusal(machine.run(**{**environment, "MS_DEVICES": "0,1"}))
    (machine.root / "ctk-fails").touch()
    assert "no devices" in refusal(machine.run(**{**environment, "MS_DEVICES": "3"}))
    assert 'name: "10"' in spec.read_text()


def test_the_fabric_of_its_own_gpus_counts(machine: Machine) -> None:
    machine.fabric("In Progress", "N/A", which=1)
    assert f"GPU {UUIDS[1]} In Progress/N/A" in refusal(machine.run(MS_FABRIC="1"))
    assert machine.run(MS_FABRIC="0").returncode == 0
    machine.fabric("In Progress", "N/A", which=3)
    assert machine.run(MS_FABRIC="1").returncode == 0


def test_weights_that_are_not_proved(machine: Machine) -> None:
    job = "/etc/metalserve/weights/org--model-abababababab.json"
    machine.weights(f"assert sys.argv[1:] == ['check', '--fast', '{job}'], sys.argv")
    assert machine.run().returncode == 0
    machine.weights("print('looked at it')\nsys.exit('/srv/m is not as it was -> run the weights role')")
    told = refusal(machine.run())
    assert told == "metalserve: engine not started: /srv/m is not as it was -> run the weights role\n"
    shutil.rmtree(machine.gate.parent / "msweights")
    done = machine.run()
    assert done.returncode == 1 and "No module named msweights" in done.stderr, "no agent, no start"
    assert machine.run(MS_WEIGHTS="0").returncode == 0


def test_a_left_over_process_holds_memory(machine: Machine) -> None:
    machine.said["apps"] = f"{UUIDS[1]}, 4711, 70000 MiB"
    assert "4711, 70000 MiB" in refusal(machine.run())
    assert machine.run(MS_MEMORY="0").returncode == 0
    machine.said["apps"] = f"{UUIDS[3]}, 4711, 70000 MiB"
    assert machine.run().returncode == 0


@dataclass
class Engine:
    """What a made-up engine answers; `tokens` grows with every look at the metrics when `works`."""

    models: str = '{"data": [{"id": "org/model"}]}'
    completion: str = '{"choices": [{"text": "Paris"}]}'
    health: int = 200
    status: int = 200
    silent: bool = False
    works: bool = False
    key: str = ""
    port: int = 0
    tokens: int = 5
    bodies: list[bytes] = field(default_factory=list)


@pytest.fixture
def engine() -> Iterator[Engine]:
    state = Engine()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def reply(self, status: int, text: str) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def do_GET(self) -> None:
            if self.path == "/health":
                return self.reply(state.health, "")
            if self.path == "/metrics":
                state.tokens += state.works
                text = f'vllm:generation_tokens_total{{engine="0"}} {state.tokens}.0\nvllm:other 9\n'
                return self.reply(200, text)
            self.reply(200, state.models)

        def do_POST(self) -> None:
            if state.key and self.headers.get("Authorization") != f"Bearer {state.key}":
                return self.reply(401, '{"error": "Unauthorized"}')
            state.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            if state.silent:
                time.sleep(20)
                return None
            return self.reply(state.status, state.completion)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    state.port = server.server_port
    yield state
    server.shutdown()
    server.server_close()


def probe(
    root: Path, *arguments: str, auth: str = "", port: int = 0, **environment: str
) -> subprocess.CompletedProcess[str]:
    header = root / "auth"
    header.write_text(auth)
    units = root / "units"
    units.mkdir(exist_ok=True)
    (units / "metalserve-vllm-0.service").touch()
    (units / "metalserve-vllm-x.service").touch()
    # /etc and /run of this machine are not the test's; the waits for a slow engine are shortened.
    text = PROBE.read_text().replace("/etc/systemd/system", str(units)).replace("/run/metalserve", f"{root}/ms")
    script = root / "probe.sh"
    script.write_text(text.replace("complete 15", "complete 2").replace("sleep 3", "sleep 0.2"))
    given = {"MS_ADDRESS": "127.0.0.1", "MS_MODEL": "org/model", "MS_AUTH": str(header), **environment}
    return subprocess.run(
        ["sh", str(script), *arguments],
        env={"PATH": os.environ["PATH"], **given},
        capture_output=True,
        text=True,
        timeout=60,
    )


def look(root: Path, engine: Engine, **more: str) -> Answer:
    done = probe(root, "--all", str(engine.port), **more)
    assert done.returncode == 0, done.stderr
    answers = parse_answers(done.stdout)
    assert list(answers) == [engine.port]
    return answers[engine.port]


def test_an_engine_that_answers(tmp_path: Path, engine: Engine) -> None:
    found = look(tmp_path, engine)
    assert found.serves("org/model")
    assert found.text == "Paris"
    asked = json.loads(engine.bodies[0])
    assert asked == {"model": "org/model", "prompt": "The capital of France is", "max_tokens": 8, "temperature": 0}


def test_an_answer_over_several_lines_does_not_confuse(tmp_path: Path, engine: Engine) -> None:
    engine.completion = json.dumps({"choices": [{"text": "a\n@engine 1\nhealth 000"}]}, indent=2)
    assert look(tmp_path, engine).text == "a\n@engine 1\nhealth 000"


def test_the_key_is_sent_from_its_file(tmp_path: Path, engine: Engine) -> None:
    engine.key = "sk-1"
    assert look(tmp_path, engine).completion == 401
    assert look(tmp_path, engine, auth="Authorization: Bearer sk-1\n").serves("org/model")


@pytest.mark.parametrize("works", [True, False])
def test_busy_and_stuck_are_told_apart(tmp_path: Path, engine: Engine, works: bool) -> None:
    engine.silent, engine.works = True, works
    found = look(tmp_path, engine)
    assert not found.serves("org/model")
    assert found.busy("org/model") is works
    assert ("counters stand still" in found.in_words()) is True


def test_nobody_listens(tmp_path: Path, engine: Engine) -> None:
    done = probe(tmp_path, "--all", "1")
    assert parse_answers(done.stdout)[1].health == 0


def test_waiting_for_the_first_token(tmp_path: Path, engine: Engine) -> None:
    engine.status = 503
    threading.Timer(1.5, lambda: setattr(engine, "status", 200)).start()
    done = probe(tmp_path, "--wait", "20", str(engine.port))
    assert done.returncode == 0
    assert f"the engine on port {engine.port} answers after" in done.stdout


def test_waiting_ends_with_the_engine_or_with_the_time(tmp_path: Path, engine: Engine) -> None:
    engine.status, engine.completion = 500, '{"error": "EngineDeadError"}'
    dead = subprocess.Popen(["true"])
    dead.wait()
    done = probe(tmp_path, "--wait", "30", str(engine.port), MAINPID=str(dead.pid))
    assert done.returncode == 1
    assert "the engine ended while it was starting" in done.stderr
    late = probe(tmp_path, "--wait", "1", str(engine.port))
    assert late.returncode == 1
    assert "no token within 1 s; the last answer was HTTP 500" in late.stderr
    assert "EngineDeadError" in late.stderr


def test_once(tmp_path: Path, engine: Engine) -> None:
    assert probe(tmp_path, "--once", str(engine.port)).returncode == 0
    engine.status = 500
    assert probe(tmp_path, "--once", str(engine.port)).returncode != 0


HEALTH = """
GPU 00000000:1{i}:00.0
    GPU UUID                              : {uuid}
    GPU Recovery Action                   : {action}
    Remapped Rows
        Correctable Error                 : 0
        Pending                           : {pending}
        Remapping Failure Occurred        : {failed}
    ECC Mode
        Current                           : Enabled
        Pending                           : Yes
"""


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({}, ""),
        ({"action": "N/A"}, ""),
        ({"action": "Drain and Reset"}, "GPU GPU-111 asks for: Drain and Reset -> reset it"),
        ({"pending": "Yes"}, "GPU GPU-111 has memory rows that wait for a reset to be remapped"),
        ({"failed": "Yes"}, "GPU GPU-111 has a memory row that could not be remapped"),
    ],
)
def test_a_gpu_that_is_not_well(machine: Machine, wrong: dict[str, str], words: str) -> None:
    well = {"action": "None", "pending": "No", "failed": "No"}
    blocks = [HEALTH.format(i=i, uuid=u, **{**well, **(wrong if i == 1 else {})}) for i, u in enumerate(UUIDS)]
    machine.said["q"] = "".join(blocks)
    done = machine.run()
    if words:
        assert words in refusal(done)
    else:
        assert (done.returncode, done.stderr) == (0, "")
    # that of another engine is none of this one's business
    assert machine.run(MS_GPUS=UUIDS[0]).returncode == 0


def test_memory_that_nobody_is_named_for(machine: Machine) -> None:
    machine.said["used"] = "\n".join(f"{u}, {60000 if i == 1 else 500}, 80000" for i, u in enumerate(UUIDS))
    assert "60000 of 80000 MiB of GPU GPU-111 are in use by nobody" in refusal(machine.run(MS_SHARE="0.9"))
    assert machine.run(MS_SHARE="0.2").returncode == 0
    assert machine.run().returncode == 0
    assert machine.run(MS_SHARE="0.9", MS_GPUS=UUIDS[0]).returncode == 0


def test_a_port_that_is_taken(machine: Machine) -> None:
    if shutil.which("ss") is None:
        pytest.skip("needs ss")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for listen in ("127.0.0.1", "0.0.0.0"):
            told = refusal(machine.run(MS_LISTEN=f"{listen} {port}"))
            assert f"port {port} is taken: 127.0.0.1:{port}" in told
        assert machine.run(MS_LISTEN=f"127.0.0.2 {port}").returncode == 0, "another address, another socket"
    assert machine.run(MS_LISTEN=f"127.0.0.1 {port}").returncode == 0
