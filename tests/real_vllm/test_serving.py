"""The role's arguments start a real engine, which answers, counts, asks for its key, and stops without losing work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

from metalserve.paths import FILES
from roles.vllm.answers import parse_answers
from tests.real_vllm.conftest import NAME
from tests.real_vllm.engine import Engine

PROMPT = "In the rack stood a node with eight cards, and every card had a name. " * 12


def completion(tokens: int = 8, prompt: str = "The capital of France is", **more: object) -> dict[str, object]:
    return {"model": NAME, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, **more}


def probe(engine: Engine) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MS_ADDRESS": "127.0.0.1", "MS_MODEL": NAME, "MS_AUTH": str(engine.header)}
    script = str(FILES / "vllm/probe.sh")
    return subprocess.run(
        ["sh", script, "--once", str(engine.port)], env=environment, capture_output=True, text=True, timeout=600
    )


def test_it_says_that_it_is_there(engine: Engine) -> None:
    assert engine.status("/health") == 200
    assert [row["id"] for row in engine.ask("/v1/models")["data"]] == [NAME]
    assert engine.ask("/v1/models")["data"][0]["max_model_len"] == 2048


def test_it_completes_a_prompt(engine: Engine) -> None:
    answer = engine.ask("/v1/completions", completion())
    assert answer["usage"]["completion_tokens"] == 8
    assert answer["choices"][0]["finish_reason"] == "length"
    chat = {"model": NAME, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, "ignore_eos": True}
    assert engine.ask("/v1/chat/completions", chat)["usage"]["completion_tokens"] == 4


def test_it_streams(engine: Engine) -> None:
    events = list(engine.events("/v1/completions", completion(16)))
    assert events[-1] == "[DONE]"
    assert len(events) > 8
    assert all(json.loads(event)["choices"][0]["index"] == 0 for event in events[:-1] if json.loads(event)["choices"])


def test_its_counters_move_and_the_prefix_cache_hits(engine: Engine) -> None:
    before = {name: engine.metric(f"vllm:{name}") for name in ("generation_tokens_total", "prefix_cache_hits_total")}
    for _ in range(2):
        engine.ask("/v1/completions", completion(4, PROMPT))
    assert engine.metric("vllm:generation_tokens_total") == before["generation_tokens_total"] + 8
    assert engine.metric("vllm:prefix_cache_hits_total") >= before["prefix_cache_hits_total"] + len(PROMPT) // 2
    assert engine.metric("vllm:num_requests_running") == 0
    cached = engine.ask("/v1/completions", completion(1, PROMPT))["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert cached > len(PROMPT) // 2


def test_the_key_guards_the_api_and_not_all_else(engine: Engine) -> None:
    assert engine.status("/v1/completions", completion(), key=None) == 401
    assert engine.status("/v1/completions", completion(), key="wrong") == 401
    assert engine.status("/v1/models", key=None) == 401
    # Why only an allow-list of paths may be reachable: these answer everybody.
    assert engine.status("/metrics", key=None) == 200
    assert engine.status("/invocations", completion(1), key=None) == 200


def test_wrong_requests_are_refused_and_do_no_harm(engine: Engine) -> None:
    assert engine.status("/v1/completions", {**completion(), "model": "another"}) == 404
    assert engine.status("/v1/completions", completion(4000)) == 400
    assert engine.status("/health") == 200


def test_the_roles_probe_gets_a_token(engine: Engine, tmp_path: Path) -> None:
    done = probe(engine)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_probes_lines_are_read_by_the_role(engine: Engine) -> None:
    """What `probe.sh --all` would print of this engine, asked with the engine's own answers."""
    models = json.dumps(engine.ask("/v1/models"))
    said = json.dumps(engine.ask("/v1/completions", completion()))
    text = f"@engine {engine.port}\nhealth 200 \nmodels 200 {models}\ncompletion 200 {said}\n"
    assert parse_answers(text)[engine.port].serves(NAME), text


def test_running_requests_finish_when_it_is_told_to_stop(engine: Engine) -> None:
    """The last test of this engine: SIGTERM under load."""
    results: list[int] = []

    def long_request() -> None:
        answer = engine.ask("/v1/completions", completion(400))
        results.append(answer["usage"]["completion_tokens"])

    threads = [threading.Thread(target=long_request) for _ in range(3)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 300
    while engine.metric("vllm:num_requests_running") < 3:
        assert time.monotonic() < deadline and any(thread.is_alive() for thread in threads)
        time.sleep(0.05)
    engine.process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join(timeout=600)
    assert results == [400, 400, 400]
    assert engine.process.wait(timeout=600) == 0
    deadline = time.monotonic() + 120
    while left := engine.children("VLLM"):  # its workers' names begin so
        assert time.monotonic() < deadline, f"workers {left} outlive the server"
        time.sleep(0.2)
