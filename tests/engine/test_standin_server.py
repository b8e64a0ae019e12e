"""The stand-in engine as a process: what it refuses, what it answers, how it stops."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metalserve.lab.engine.standin.weights import LoadError, Model, read_weights
from metalserve.paths import CATALOGUE

STANDIN = Path(__file__).resolve().parents[2] / "metalserve/lab/engine"
START = "import sys; from standin.server import main; sys.exit(main())"


def environment(**more: str) -> dict[str, str]:
    flags = CATALOGUE / "vllm/flags-0.33.0.json"
    base = {"PATH": os.environ["PATH"], "PYTHONPATH": str(STANDIN), "VLLM_STANDIN_FLAGS": str(flags)}
    return base | {"METALSERVE_LAB_LOAD_SECONDS": "0"} | more


def once(*arguments: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", START, "serve", *map(str, arguments)]
    return subprocess.run(command, env=environment(**more), capture_output=True, text=True, timeout=20, check=False)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Running:
    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process, self.port = process, port

    def call(self, method: str, path: str, body: object = None, key: str | None = None) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        assert answer.getheader("X-Metalserve-Simulated") == "true"
        text = answer.read().decode()
        connection.close()
        return answer.status, text

    def complete(self, prompt: str = "one two", tokens: int = 4, **more: Any) -> tuple[int, dict[str, Any]]:
        status, text = self.call(
            "POST", "/v1/completions", {"model": "tiny", "prompt": prompt, "max_tokens": tokens, **more}
        )
        return status, json.loads(text)

    def metric(self, name: str) -> float:
        lines = self.call("GET", "/metrics")[1].splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


@contextlib.contextmanager
def running(model: Path, *arguments: str, **more: str) -> Iterator[Running]:
    port = free_port()
    command = [sys.executable, "-c", START, "serve", str(model), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--served-model-name", "tiny", *arguments]
    process = subprocess.Popen(
        command, env=environment(**more), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    server = Running(process, port)
    try:
        deadline = time.monotonic() + 15
        while True:
            try:
                assert server.call("GET", "/health")[0] == 200
                break
            except OSError:
                assert process.poll() is None, process.communicate()[0]
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield server
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Running]:
    with running(model, "--max-model-len", "128") as value:
        yield value


def test_removed_flag_is_refused_in_the_words_of_argparse(model: Path) -> None:
    done = once(model, "--swap-space", "16")
    assert done.returncode == 2
    assert "vllm serve: error: unrecognized arguments: --swap-space 16" in done.stderr


def test_wrong_choice_is_refused(model: Path) -> None:
    done = once(model, "--dtype", "fp8")
    assert done.returncode == 2
    assert "argument --dtype: invalid choice: 'fp8' (choose from 'auto', 'bfloat16'" in done.stderr


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b"[]", "InvalidHeaderDeserialization"),
        (b'{"a": 1}', "InvalidHeaderDeserialization"),
        (b'{"a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 2]}}', "TensorInvalidInfo"),
        (b'{"a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}', "MetadataIncompleteBuffer"),
    ],
)
def test_headers_that_are_not_safetensors(tmp_path: Path, header: bytes, words: str) -> None:
    shard = tmp_path / "model.safetensors"
    shard.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(LoadError, match=words):
        read_weights(Model(tmp_path, {}, shards=[shard]))


@pytest.mark.parametrize(
    "damage", ["missing directory", "no config", "no weights", "cut shard", "lost shard", "not a shard"]
)
def test_damaged_weights_end_the_start(model: Path, tmp_path: Path, damage: str) -> None:
    staged = tmp_path / "staged"
    shutil.copytree(model, staged)
    shard = staged / "model-00002-of-00004.safetensors"
    words = {
        "missing directory": "Repo id must be in the form",
        "no config": "`config.json` is present",
        "no weights": "Cannot find any model weights",
        "cut shard": "MetadataIncompleteBuffer",
        "lost shard": "weights were not initialized from checkpoint",
        "not a shard": "InvalidHeaderLength",
    }[damage]
    if damage == "missing directory":
        shutil.rmtree(staged)
    elif damage == "no config":
        (staged / "config.json").unlink()
    elif damage == "no weights":
        for file in staged.glob("*.safetensors"):
            file.unlink()
    elif damage == "cut shard":
        shard.write_bytes(shard.read_bytes()[:-1])
    elif damage == "lost shard":
        shard.unlink()
    else:
        shard.write_bytes(b"<html>404 not found, said the mirror</html>")
    done = once(staged)
    assert done.returncode == 1
    assert words in done.stderr


def test_context_longer_than_the_model_is_refused(model: Path) -> None:
    done = once(model, "--max-model-len", "4K")
    assert done.returncode == 1
    assert "max_model_len (4096) is greater than the derived max_model_len" in done.stderr


def test_more_gpus_than_given_is_refused(model: Path) -> None:
    done = once(model, "--tensor-parallel-size", "4", NVIDIA_VISIBLE_DEVICES="0,1")
    assert done.returncode == 1
    assert "World size (4) is larger than the number of available GPUs (2)" in done.stderr


def test_no_gpu_is_refused(model: Path) -> None:
    done = once(model, NVIDIA_VISIBLE_DEVICES="none")
    assert done.returncode == 1
    assert "no GPU was passed to this container" in done.stderr
    in_image = once(model, METALSERVE_LAB_REQUIRE_GPUS="1", NVIDIA_VISIBLE_DEVICES="0,1")  # named, but no device node
    assert in_image.returncode == 1
    assert "no GPU was passed to this container" in in_image.stderr


def test_heads_that_tensor_parallel_does_not_divide(model: Path) -> None:
    done = once(model, "-tp", "3")
    assert done.returncode == 1
    assert "attention heads (8) must be divisible by tensor parallel size (3)" in done.stderr


def test_weights_that_leave_no_memory(model: Path) -> None:
    done = once(model, METALSERVE_LAB_GPU_MEMORY_MIB="512")
    assert done.returncode == 1
    assert "No available memory for the cache blocks" in done.stderr


def test_port_taken(model: Path, server: Running) -> None:
    done = once(model, "--host", "127.0.0.1", "--port", str(server.port))
    assert done.returncode == 1
    assert "[Errno 98]" in done.stderr


def test_models_and_version_say_simulated(server: Running) -> None:
    models = json.loads(server.call("GET", "/v1/models")[1])
    assert [(m["id"], m["max_model_len"], m["simulated"]) for m in models["data"]] == [("tiny", 128, True)]
    assert json.loads(server.call("GET", "/version")[1]) == {"version": "0.33.0", "simulated": True}


def test_completion(server: Running) -> None:
    status, answer = server.complete(tokens=4)
    assert status == 200
    assert answer["choices"][0]["text"] == "Simulated completion: no model"
    assert answer["usage"] == {"prompt_tokens": 2, "completion_tokens": 4, "total_tokens": 6}
    assert answer["simulated"] is True


def test_chat_stream(server: Running) -> None:
    body = {
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 3,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    status, text = server.call("POST", "/v1/chat/completions", body)
    events = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert status == 200
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    words = "".join(c["choices"][0]["delta"]["content"] for c in chunks if c["choices"])
    assert words == "Simulated completion: no"
    assert chunks[-1]["usage"]["completion_tokens"] == 3


def test_wrong_model_and_long_prompt(server: Running) -> None:
    status, answer = server.complete(model="other")
    assert (status, answer["error"]["message"]) == (404, "The model `other` does not exist.")
    status, answer = server.complete("word " * 130)
    assert status == 400
    assert "maximum context length is 128 tokens" in answer["error"]["message"]


def test_bad_bodies_do_not_break_the_connection(server: Running) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    for body in ("{", "[]", '{"model":"tiny"}', '{"model":"tiny","prompt":"a","max_tokens":"x"}'):
        connection.request("POST", "/v1/completions", body)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 400, body
    connection.request("GET", "/nowhere")
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())) == (404, {"detail": "Not Found"})
    connection.close()


def test_metrics_count(server: Running) -> None:
    before = {
        name: server.metric(name) for name in ("vllm:generation_tokens_total", "vllm:iteration_tokens_total_count")
    }
    server.complete(tokens=7)
    for name, value in before.items():
        assert server.metric(name) == value + 7


def test_prefix_cache_hits_rise_on_a_repeated_prefix(server: Running) -> None:
    prompt = " ".join(f"w{number}" for number in range(40))
    server.complete(prompt)
    hits = server.metric("vllm:prefix_cache_hits_total")
    server.complete(prompt + " more")
    assert server.metric("vllm:prefix_cache_hits_total") == hits + 32


def test_api_key_protects_v1_and_nothing_else(model: Path) -> None:
    with running(model, "--api-key", "sesame") as engine:
        body = {"prompt": "a", "max_tokens": 1}
        assert engine.call("GET", "/v1/models")[0] == 401
        assert engine.call("POST", "/v1/completions", body)[0] == 401
        assert engine.call("POST", "/v1/completions", body, key="wrong")[0] == 401
        assert engine.call("POST", "/v1/completions", body, key="sesame")[0] == 200
        for path in ("/health", "/metrics", "/load", "/version"):
            assert engine.call("GET", path)[0] == 200
        assert engine.call("POST", "/invocations", body)[0] == 200  # as in vLLM: the key does not cover it
        engine.process.send_signal(signal.SIGTERM)
        output = engine.process.communicate(timeout=10)[0]
    assert "SIMULATED" in output
    assert "sesame" not in output


def stop_during_a_request(engine: Running) -> tuple[int, int, str]:
    """Return (status of the request in flight, exit status, status of a request that came during the drain)."""
    got: list[int] = []
    thread = threading.Thread(target=lambda: got.append(engine.complete(tokens=40)[0]))
    thread.start()
    while engine.metric("vllm:num_requests_running") < 1:
        time.sleep(0.02)
    engine.process.send_signal(signal.SIGTERM)
    time.sleep(0.4)
    try:
        late = f"{engine.call('GET', '/health')[0]} {engine.complete(tokens=1)[0]}"
    except OSError:
        late = "refused"
    thread.join(10)
    return got[0], engine.process.wait(10), late


def test_stop_drains_for_the_shutdown_timeout(model: Path) -> None:
    with running(model, "--shutdown-timeout", "20", METALSERVE_LAB_TOKEN_SECONDS="0.05") as engine:
        assert stop_during_a_request(engine) == (200, 0, "200 500")


def test_faults_that_real_engines_have(model: Path, tmp_path: Path) -> None:
    fault = tmp_path / "fault"
    with running(model, METALSERVE_LAB_FAULT_FILE=str(fault)) as engine:
        fault.write_text("hang\n")  # healthy to look at, and no token comes
        done: list[int] = []
        thread = threading.Thread(target=lambda: done.append(engine.complete(tokens=2)[0]))
        thread.start()
        while engine.metric("vllm:num_requests_running") < 1:
            time.sleep(0.02)
        steps = engine.metric("vllm:iteration_tokens_total_count")
        time.sleep(0.5)
        assert engine.call("GET", "/health")[0] == 200
        assert engine.metric("vllm:num_requests_running") == 1
        assert engine.metric("vllm:iteration_tokens_total_count") == steps
        fault.write_text("")
        thread.join(5)
        assert done == [200]
        fault.write_text("error")
        assert engine.complete()[0] == 500
        fault.write_text("dead")
        assert engine.call("GET", "/health")[0] == 503
        assert engine.process.wait(10) == 0  # as vLLM 0.32 after its EngineCore was killed


def test_stop_without_timeout_aborts(model: Path) -> None:
    with running(model, METALSERVE_LAB_TOKEN_SECONDS="0.2") as engine:
        status, code, _ = stop_during_a_request(engine)
        assert (status, code) == (500, 0)
