"""Counters, gauges and histograms with the names and labels of vLLM 0.32 and 0.33, in Prometheus' text format."""

from __future__ import annotations

import bisect
import threading
import time
from collections.abc import Sequence

# Upper bounds as vLLM's own histograms have them (read from a live 0.32.0 server).
TTFT = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1,
    2.5,
    5,
    7.5,
    10,
    20,
    40,
    80,
    160,
    640,
    2560,
)
LATENCY = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
REQUEST = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000)
ITERATION = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)

REASONS = ("stop", "length", "abort", "error", "repetition")


class Metrics:
    """All series of one engine; every method may be called from any thread."""

    def __init__(self, model: str, cache_info: dict[str, str]) -> None:
        self._lock = threading.Lock()
        self._labels = {"engine": "0", "model_name": model}
        self._cache_info = cache_info
        self._started = time.time()
        self._values: dict[str, tuple[str, str, dict[tuple[tuple[str, str], ...], float]]] = {}
        self._histograms: dict[str, tuple[str, Sequence[float], list[int], list[float]]] = {}
        self._declare()

    def _declare(self) -> None:
        gauges = {
            "vllm:num_requests_running": "Number of requests in model execution batches.",
            "vllm:num_requests_waiting": "Number of requests waiting to be processed.",
            "vllm:kv_cache_usage_perc": "KV-cache usage. 1 means 100 percent usage.",
        }
        for name, text in gauges.items():
            self._declare_value(name, "gauge", text)
        self._declare_value(
            "vllm:num_requests_waiting_by_reason", "gauge", "Number of waiting requests by reason.", "reason",
            ("capacity", "deferred"),
        )  # fmt: skip
        states = ("awake", "weights_offloaded", "discard_all")
        self._declare_value("vllm:engine_sleep_state", "gauge", "Engine sleep state.", "sleep_state", states)
        self.set("vllm:engine_sleep_state", 1, sleep_state="awake")
        counters = {
            "vllm:prefix_cache_queries_total": "Prefix cache queries, in terms of number of queried tokens.",
            "vllm:prefix_cache_hits_total": "Prefix cache hits, in terms of number of cached tokens.",
            "vllm:num_preemptions_total": "Cumulative number of preemption from the engine.",
            "vllm:prompt_tokens_total": "Number of prefill tokens processed.",
            "vllm:prompt_tokens_cached_total": "Number of cached prompt tokens (local + external).",
            "vllm:generation_tokens_total": "Number of generation tokens processed.",
        }
        for name, text in counters.items():
            self._declare_value(name, "counter", text)
        self._declare_value(
            "vllm:request_success_total", "counter", "Count of successfully processed requests.", "finished_reason",
            REASONS,
        )  # fmt: skip
        self._declare_value(
            "http_requests_total", "counter", "Total number of requests by method, status and handler.", None
        )
        histograms: dict[str, tuple[str, Sequence[float]]] = {
            "vllm:request_prompt_tokens": ("Number of prefill tokens processed.", TOKENS),
            "vllm:request_generation_tokens": ("Number of generation tokens processed.", TOKENS),
            "vllm:iteration_tokens_total": ("Histogram of number of tokens per engine_step.", ITERATION),
            "vllm:time_to_first_token_seconds": ("Histogram of time to first token in seconds.", TTFT),
            "vllm:inter_token_latency_seconds": ("Histogram of inter-token latency in seconds.", LATENCY),
            "vllm:request_time_per_output_token_seconds": (
                "Histogram of time_per_output_token_seconds per request.", LATENCY,
            ),
            "vllm:e2e_request_latency_seconds": ("Histogram of e2e request latency in seconds.", REQUEST),
            "vllm:request_queue_time_seconds": ("Histogram of time spent in WAITING phase for request.", REQUEST),
        }  # fmt: skip
        for name, (text, bounds) in histograms.items():
            self._histograms[name] = (text, bounds, [0] * (len(bounds) + 1), [0.0])

    def _declare_value(
        self, name: str, kind: str, text: str, label: str | None = "", values: Sequence[str] = ()
    ) -> None:
        series: dict[tuple[tuple[str, str], ...], float] = {}
        if label:
            series = {((label, value),): 0.0 for value in values}
        elif label == "":
            series = {(): 0.0}
        self._values[name] = (kind, text, series)

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        """Add to a counter or gauge."""
        with self._lock:
            series = self._values[name][2]
            key = tuple(sorted(labels.items()))
            series[key] = series.get(key, 0.0) + amount

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        with self._lock:
            self._values[name][2][tuple(sorted(labels.items()))] = value

    def observe(self, name: str, value: float) -> None:
        """Record one observation of a histogram."""
        with self._lock:
            _, bounds, counts, total = self._histograms[name]
            counts[bisect.bisect_left(bounds, value)] += 1
            total[0] += value

    def get(self, name: str, **labels: str) -> float:
        """Return the present value of a counter or gauge."""
        with self._lock:
            return self._values[name][2].get(tuple(sorted(labels.items())), 0.0)

    def render(self) -> str:
        """Return everything in Prometheus' text format."""
        with self._lock:
            lines = [
                "# SIMULATED: metalserve's stand-in for vLLM; no model runs behind these figures",
                "# HELP process_start_time_seconds Start time of the process since unix epoch in seconds.",
                "# TYPE process_start_time_seconds gauge",
                f"process_start_time_seconds {self._started}",
            ]
            for name, (kind, text, series) in self._values.items():
                lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
                own = self._labels if name.startswith("vllm:") else {}
                lines += [f"{name}{_labels({**own, **dict(key)})} {value}" for key, value in series.items()]
            for name, (text, bounds, counts, total) in self._histograms.items():
                lines += [f"# HELP {name} {text}", f"# TYPE {name} histogram"]
                running = 0
                for bound, count in zip((*map(float, bounds), "+Inf"), counts, strict=True):
                    running += count
                    lines.append(f"{name}_bucket{_labels({**self._labels, 'le': str(bound)})} {float(running)}")
                lines.append(f"{name}_count{_labels(self._labels)} {float(running)}")
                lines.append(f"{name}_sum{_labels(self._labels)} {total[0]}")
            lines += [
                "# HELP vllm:cache_config_info Information of the LLMEngine CacheConfig",
                "# TYPE vllm:cache_config_info gauge",
                f"vllm:cache_config_info{_labels({'engine': '0', **self._cache_info})} 1.0",
            ]
        return "\n".join(lines) + "\n"


def _labels(labels: dict[str, str]) -> str:
    inside = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
    return f"{{{inside}}}" if inside else ""
