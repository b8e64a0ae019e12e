"""vLLM's start-up log: lines of several ages, several starts in one log, times, any text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metalserve.hardware.parsers.text import ParseError
from metalserve.hardware.parsers.vllm_log import parse_vllm_log
from tests.planning.test_calibration import CPU, DP, V033, V08

# Lines of vLLM 0.8.0 on two GPUs, and of 0.2x on one (public logs; prefixes shortened).
TIMES_08 = """\
INFO 03-19 07:08:46 [core.py:53] Initializing a V1 LLM engine (v0.8.0) with config: model='x'
(VllmWorker rank=1 pid=2171) INFO 03-19 07:09:47 [loader.py:429] Loading weights took 53.30 seconds
(VllmWorker rank=0 pid=2154) INFO 03-19 07:09:48 [gpu_model_runner.py:1140] Model loading took 9.0968 GB and 54.175259 seconds
(VllmWorker rank=1 pid=2171) INFO 03-19 07:09:48 [gpu_model_runner.py:1140] Model loading took 9.0968 GB and 54.463499 seconds
(VllmWorker rank=1 pid=2171) INFO 03-19 07:10:00 [backends.py:409] Dynamo bytecode transform time: 11.04 s
(VllmWorker rank=1 pid=2171) INFO 03-19 07:11:03 [monitor.py:33] torch.compile takes 48.62 s in total
(VllmWorker rank=0 pid=2154) INFO 03-19 07:11:03 [monitor.py:33] torch.compile takes 48.05 s in total
INFO 03-19 07:11:10 [kv_cache_utils.py:537] GPU KV cache size: 48,928 tokens
(VllmWorker rank=0 pid=2154) INFO 03-19 07:12:01 [gpu_model_runner.py:1442] Graph capturing finished in 50 secs, took 2.28 GiB
INFO 03-19 07:12:01 [core.py:138] init engine (profile, create kv cache, warmup model) took 133.53 seconds
"""  # noqa: E501
TIMES_02X = """\
Loading weights took 30.02 seconds
Model loading took 13.63 GiB memory and 31.890731 seconds
torch.compile took 24.32 s in total
Initial profiling/warmup run took 2.47 s
Graph capturing finished in 34 secs, took 0.39 GiB
init engine (profile, create kv cache, warmup model) took 64.98 s (compilation: 24.32 s)
"""


def test_lines_of_old_and_new_engines() -> None:
    old = parse_vllm_log(V08)
    assert (old.version, old.weights, old.weights_unit) == ("0.8.0", 9.0968, "GB")
    assert (old.kv_cache_tokens_total, old.engines, old.device) == (48_928, 1, "GPU")
    assert old.load_seconds == 54.463499
    new = parse_vllm_log(V033)
    assert (new.version, new.weights, new.kv_cache) == ("0.33.0", 32.91, 36.11)
    assert (new.kv_cache_tokens, new.max_concurrency_tokens, new.max_concurrency) == (473_296, 131_072, 3.61)
    assert (new.graphs, new.graphs_estimated) == (1.21, 1.40)
    assert (new.free_memory, new.total_memory, new.budget) == (78.60, 79.11, 72.78)
    assert parse_vllm_log(CPU).device == "CPU"
    two = parse_vllm_log(DP)
    assert (two.kv_cache_tokens, two.kv_cache_tokens_total, two.engines) == (347_440, 347_456 + 347_440, 2)
    with pytest.raises(ParseError):
        parse_vllm_log("")


def test_times_are_those_of_the_slowest_worker() -> None:
    old = parse_vllm_log(TIMES_08)
    assert (old.weights_seconds, old.load_seconds) == (53.30, 54.463499)
    assert (old.compile_seconds, old.graph_capture_seconds, old.engine_init_seconds) == (48.62, 50.0, 133.53)
    new = parse_vllm_log(TIMES_02X)
    assert (new.weights_seconds, new.load_seconds, new.compile_seconds) == (30.02, 31.890731, 24.32)
    assert (new.graph_capture_seconds, new.graphs, new.engine_init_seconds) == (34.0, 0.39, 64.98)
    only = parse_vllm_log("init engine (profile, create kv cache, warmup model) took 67.80 s (compilation: 8.08 s)")
    assert only.compile_seconds == 8.08


def test_the_last_start_counts() -> None:
    both = parse_vllm_log(V08 + V033)
    assert (both.version, both.kv_cache_tokens_total, both.engines) == ("0.33.0", 473_296, 1)
    assert both.load_seconds == 31.2


@given(text=st.text(max_size=400) | st.lists(st.sampled_from(V033.splitlines() + V08.splitlines())).map("\n".join))
def test_any_text_is_read(text: str) -> None:
    try:
        found = parse_vllm_log(text)
    except ParseError:
        return
    assert (found.kv_cache_tokens_total is not None) == (found.engines > 0)
