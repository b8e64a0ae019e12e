"""The engine behind the API: SIMULATED. Fixed words at a steady pace, real counters, a real queue, a real drain."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .group import LOST
from .metrics import Metrics

WORDS = ("Simulated", "completion:", "no", "model", "ran", "here,", "these", "words", "are", "fixed.")
FAULT_FILE = Path(os.environ.get("METALSERVE_LAB_FAULT_FILE", "/run/metalserve-lab/fault"))
"""One word in this file makes the engine misbehave: `hang` (health 200, no token), `error` (every request 500),
`dead` (health 503, then exit with status 0: what vLLM 0.32 does when its EngineCore is killed)."""

_BLOCK_TOKENS = 16  # vLLM's default block on CUDA; prefix-cache hits come in whole blocks


class EngineStoppedError(Exception):
    """The request cannot run: the engine is stopping or broken; answered with HTTP 500."""


@dataclass
class Settings:
    """What the arguments say about the running engine; times in seconds."""

    served_names: list[str]
    max_model_len: int
    max_num_seqs: int
    token_seconds: float
    prefix_caching: bool = True


def count_tokens(text: str) -> int:
    """Return the tokens of a text as the stand-in counts them: words and marks."""
    return len(tokens_of(text))


def tokens_of(text: str) -> list[str]:
    """Return words and punctuation marks, one token each."""
    return re.findall(r"\w+|[^\w\s]", text)


def fault() -> str:
    """Return the fault that is asked for, or an empty text."""
    try:
        return FAULT_FILE.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


class Engine:
    """Runs requests one thread each, at most `max_num_seqs` at a time."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.settings = settings
        self.metrics = metrics
        self.draining = threading.Event()
        self.aborting = threading.Event()
        self._slots = threading.BoundedSemaphore(settings.max_num_seqs)
        self._lock = threading.Lock()
        self._in_flight = 0
        self._blocks: set[bytes] = set()

    @property
    def in_flight(self) -> int:
        """Requests that have entered and not yet left."""
        return self._in_flight

    def _cached_tokens(self, tokens: list[str]) -> int:
        """Return how many leading tokens are in the prefix cache, and put the prompt's whole blocks into it."""
        if not self.settings.prefix_caching:
            return 0
        digest, cached, hit = hashlib.sha256(), 0, True
        # The last token is always computed, so a fully cached prompt still leaves work for one block.
        for start in range(0, len(tokens) - _BLOCK_TOKENS + 1, _BLOCK_TOKENS):
            digest.update("\0".join(tokens[start : start + _BLOCK_TOKENS]).encode())
            key = digest.digest()
            hit = hit and key in self._blocks
            if hit and start + _BLOCK_TOKENS < len(tokens):
                cached += _BLOCK_TOKENS
            self._blocks.add(key)
        return cached

    def generate(self, prompt: str, max_tokens: int) -> Iterator[str]:
        """Yield the tokens of one answer; raises EngineStoppedError when the engine stops or is broken."""
        if self.draining.is_set():
            raise EngineStoppedError("cannot schedule new futures after shutdown")
        if fault() in {"error", "dead"}:
            raise EngineStoppedError("EngineCore encountered an issue. See stack trace (above) for the root cause.")
        began = time.monotonic()
        with self._lock:
            self._in_flight += 1
        self.metrics.add("vllm:num_requests_waiting")
        reason = "abort"
        try:
            with self._slots:
                self.metrics.add("vllm:num_requests_waiting", -1)
                self.metrics.add("vllm:num_requests_running")
                self.metrics.observe("vllm:request_queue_time_seconds", time.monotonic() - began)
                try:
                    yield from self._run(prompt, max_tokens, began)
                    reason = "length"
                finally:
                    self.metrics.add("vllm:num_requests_running", -1)
        except EngineStoppedError:
            reason = "error"
            raise
        finally:
            with self._lock:
                self._in_flight -= 1
            self.metrics.add("vllm:request_success_total", finished_reason=reason)

    def _run(self, prompt: str, max_tokens: int, began: float) -> Iterator[str]:
        tokens = tokens_of(prompt)
        with self._lock:
            cached = self._cached_tokens(tokens)
        self.metrics.add("vllm:prefix_cache_queries_total", len(tokens))
        self.metrics.add("vllm:prefix_cache_hits_total", cached)
        self.metrics.add("vllm:prompt_tokens_total", len(tokens))
        self.metrics.add("vllm:prompt_tokens_cached_total", cached)
        self.metrics.observe("vllm:request_prompt_tokens", len(tokens))
        previous = began
        for number, word in enumerate(itertools.islice(itertools.cycle(WORDS), max_tokens)):
            self._step()
            now = time.monotonic()
            name = "vllm:inter_token_latency_seconds" if number else "vllm:time_to_first_token_seconds"
            self.metrics.observe(name, now - previous)
            self.metrics.observe("vllm:iteration_tokens_total", 1 if number else max(1, len(tokens) - cached))
            self.metrics.add("vllm:generation_tokens_total")
            previous = now
            yield word if number == 0 else f" {word}"
        spent = time.monotonic() - began
        self.metrics.observe("vllm:request_generation_tokens", max_tokens)
        self.metrics.observe("vllm:e2e_request_latency_seconds", spent)
        self.metrics.observe("vllm:request_time_per_output_token_seconds", spent / max(1, max_tokens))

    def _step(self) -> None:
        """Wait for one token's time, or as long as the engine hangs."""
        if self.aborting.wait(self.settings.token_seconds):
            raise EngineStoppedError("EngineCore encountered an issue. See stack trace (above) for the root cause.")
        while fault() == "hang" or LOST.is_set():
            if self.aborting.wait(0.2):
                raise EngineStoppedError("Request aborted")
