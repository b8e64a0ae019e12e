"""What a chunk budget does to people who are being answered, measured on a real vLLM (CPU): --max-num-batched-tokens.

A few answers are streamed while long prompts of others come in, one after another. Each token's wait since the one
before is counted. Two engines, the same but for the budget, one after the other.

Use:  METALSERVE_VLLM_PYTHON=.vllm-venv/bin/python .venv/bin/python bench/latency.py [--small 256] [--large 2048]

The model is tiny and the processor is no GPU: what carries over is the direction and the reason (a chunk stands in
front of everybody's next token), not the milliseconds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from metalserve.lab.engine import build_model
from tests.real_vllm.engine import Engine, free_port

NAME = "tiny"
PROMPT_TOKENS = 1900
"""Tokens of each long prompt; the tiny model has one token a byte and a context of 2048."""


def stream(engine: Engine, tokens: int, waits: list[float], stop: threading.Event) -> None:
    """Stream answers until told to stop; append the seconds between tokens, without the first of each answer."""
    while not stop.is_set():
        body = {"model": NAME, "prompt": "Tell me of the node.", "max_tokens": tokens, "ignore_eos": True}
        last: float | None = None
        for event in engine.events("/v1/completions", {**body, "temperature": 0}):
            now = time.perf_counter()
            if last is not None and event != "[DONE]":
                waits.append(now - last)
            last = now
            if stop.is_set():
                break


def long_prompts(engine: Engine, seconds: float, pause_s: float) -> list[float]:
    """Send long prompts, each a new one, for a while; return how long each took to its first token."""
    took = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        # new from its first block on, so that no prefix cache answers it
        prompt = (uuid.uuid4().hex + " word") * (PROMPT_TOKENS // 37 + 1)
        body = {"model": NAME, "prompt": prompt[:PROMPT_TOKENS], "max_tokens": 1, "ignore_eos": True}
        began = time.perf_counter()
        engine.ask("/v1/completions", body)
        took.append(time.perf_counter() - began)
        time.sleep(pause_s)
    return took


def measure(python: str, model: Path, budget: int, streams: int, seconds: float) -> dict[str, float]:
    """Return the figures of one budget, milliseconds."""
    with tempfile.TemporaryDirectory() as place:
        port = free_port()
        args = [str(model), "--served-model-name", NAME, "--host", "127.0.0.1", "--port", str(port),
                "--dtype", "float32", "--enforce-eager", "--max-model-len", "2048", "--max-num-seqs", "16",
                "--max-num-batched-tokens", str(budget)]  # fmt: skip
        engine = Engine(python, args, port, Path(place))
        try:
            engine.wait_until_ready()
            long_prompts(engine, 2, 0)  # warm up
            alone, mixed = _waits(engine, streams, seconds / 2, None), []
            first: list[float] = []
            mixed = _waits(engine, streams, seconds, first)
        finally:
            engine.kill()
    return {
        "budget": budget,
        "tokens": len(mixed),
        "alone_p50_ms": _quantile(alone, 50), "alone_p99_ms": _quantile(alone, 99),
        "itl_p50_ms": _quantile(mixed, 50), "itl_p95_ms": _quantile(mixed, 95), "itl_p99_ms": _quantile(mixed, 99),
        "itl_max_ms": round(1000 * max(mixed), 1),
        "long_prompts": len(first), "long_ttft_p50_ms": _quantile(first, 50),
    }  # fmt: skip


def _waits(engine: Engine, streams: int, seconds: float, first: list[float] | None) -> list[float]:
    stop = threading.Event()
    waits: list[float] = []
    threads = [threading.Thread(target=stream, args=(engine, 600, waits, stop)) for _ in range(streams)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    waits.clear()
    if first is None:
        time.sleep(seconds)
    else:
        first += long_prompts(engine, seconds, 0.2)
    stop.set()
    for thread in threads:
        thread.join()
    return waits


def _quantile(values: list[float], percent: int) -> float:
    return round(1000 * statistics.quantiles(values, n=100, method="inclusive")[percent - 1], 1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", type=int, default=256)
    parser.add_argument("--large", type=int, default=2048)
    parser.add_argument("--streams", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=30)
    options = parser.parse_args()
    python = os.environ.get("METALSERVE_VLLM_PYTHON")
    if not python:
        print("bench/latency.py: METALSERVE_VLLM_PYTHON names no Python with vLLM: ./run test-vllm installs one")
        return 75
    with tempfile.TemporaryDirectory() as place:
        manifest = build_model(Path(place))
        model = next((manifest.parent / "resolve").iterdir())
        rows = [measure(python, model, budget, options.streams, options.seconds)
                for budget in (options.small, options.large)]  # fmt: skip
    for row in rows:
        print(
            f"budget {row['budget']:>5}: time between tokens p50 {row['itl_p50_ms']} ms, p95 {row['itl_p95_ms']} ms, "
            f"p99 {row['itl_p99_ms']} ms, longest {row['itl_max_ms']} ms ({row['tokens']} tokens; alone p50 "
            f"{row['alone_p50_ms']}, p99 {row['alone_p99_ms']} ms); long prompt of {PROMPT_TOKENS} tokens: first token "
            f"after {row['long_ttft_p50_ms']} ms (median of {row['long_prompts']})"
        )
    print(json.dumps({"cpu": True, "tiny_model": True, "streams": options.streams, "rows": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
