"""Start-up logs of real engines, what is learned from them, and how it is kept."""

from __future__ import annotations

import pytest

from metalserve.catalogue.loader import load_gpus
from metalserve.errors import MetalserveError
from metalserve.hardware.parsers.text import ParseError
from metalserve.hardware.parsers.vllm_log import VllmLog, parse_vllm_log
from metalserve.planning import hardware_by_name, plan_launch
from metalserve.planning.calibration import (
    Learned,
    as_json,
    correction_after,
    correction_of,
    deviations,
    read_corrections,
    remember,
)
from metalserve.planning.known import known_model
from metalserve.planning.memory import GIB, Correction, share_of
from metalserve.releases import load_release
from metalserve.settings import EngineSettings

# Lines as engines of several ages printed them (public logs; names and times shortened).
V08 = """\
INFO 03-19 07:08:46 [core.py:53] Initializing a V1 LLM engine (v0.8.0) with config: model='x'
(VllmWorker rank=0 pid=2154) INFO 03-19 07:09:48 [gpu_model_runner.py:1140] Model loading took 9.0968 GB and 54.175259 seconds
(VllmWorker rank=1 pid=2171) INFO 03-19 07:09:48 [gpu_model_runner.py:1140] Model loading took 9.0968 GB and 54.463499 seconds
INFO 03-19 07:11:10 [kv_cache_utils.py:537] GPU KV cache size: 48,928 tokens
INFO 03-19 07:11:10 [kv_cache_utils.py:540] Maximum concurrency for 30,000 tokens per request: 1.63x
INFO 03-19 07:11:10 [kv_cache_utils.py:537] GPU KV cache size: 48,928 tokens
"""  # noqa: E501
V033 = """\
(EngineCore pid=26400) INFO 11-23 10:41:18 [core.py:133] Initializing a V1 LLM engine (v0.33.0) with config: model='x'
(Worker_TP0 pid=1) INFO 11-23 [gpu_worker.py:1] Free memory on device cuda:0 (78.60/79.11 GiB) on startup. Desired GPU memory utilization is (0.92, 72.78 GiB). Actual usage is 32.9 GiB.
(Worker_TP0 pid=1) INFO 11-23 [gpu_model_runner.py:1] Model loading took 32.91 GiB memory and 31.2 seconds
(Worker_TP1 pid=2) INFO 11-23 [gpu_model_runner.py:1] Model loading took 32.85 GiB memory and 30.8 seconds
(Worker_TP0 pid=1) INFO 11-23 [gpu_worker.py:2] Available KV cache memory: 36.11 GiB
(Worker_TP1 pid=2) INFO 11-23 [gpu_worker.py:2] Available KV cache memory: 36.20 GiB
(EngineCore pid=26400) INFO 11-23 [kv_cache_utils.py:2327] GPU KV cache size: 473,296 tokens, Maximum concurrency for 131,072 tokens per request: 3.61x
(Worker_TP0 pid=1) INFO 11-23 [gpu_model_runner.py:3] Graph capturing finished in 21 secs, took 1.21 GiB
(Worker_TP0 pid=1) INFO 11-23 [gpu_worker.py:4] CUDA graph pool memory: 1.21 GiB (actual), 1.40 GiB (estimated)
"""  # noqa: E501
CPU = """\
(EngineCore pid=26400) INFO 11-23 10:41:18 [core.py:133] Initializing a V1 LLM engine (v0.32.0) with config: model='x'
(EngineCore pid=26400) INFO 11-23 10:41:26 [kv_cache_utils.py:2327] CPU KV cache size: 1,048,576 tokens, Maximum concurrency for 512 tokens per request: 2048.00x
"""  # noqa: E501
DP = """\
(EngineCore_DP0 pid=1) INFO [kv_cache_utils.py:1] GPU KV cache size: 347,456 tokens
(EngineCore_DP1 pid=2) INFO [kv_cache_utils.py:1] GPU KV cache size: 347,440 tokens
"""
SHARE = share_of(known_model("Llama-3.3-70B-Instruct"), 81559, 0.92, tensor_parallel=4, gpu_id="h100-sxm")


def started(log: str) -> VllmLog:
    """Return what a log says; nothing where no line of it is of vLLM, as the record of a start does."""
    try:
        return parse_vllm_log(log)
    except ParseError:
        return VllmLog()


def test_the_plan_beside_the_log() -> None:
    told = {d.what: d for d in deviations(SHARE, started(V033))}
    assert set(told) == {"weights", "KV cache", "KV tokens"}
    assert told["weights"].within
    assert told["KV cache"].percent == pytest.approx(100 * ((SHARE.kv_bytes / GIB) / 36.11 - 1))
    assert "the engine printed 473,296 (" in str(told["KV tokens"])
    assert deviations(SHARE, started(CPU)) == []


def test_what_was_learned_makes_the_next_plan_right() -> None:
    learned = correction_after(SHARE, started(V033))
    assert isinstance(learned, Correction)
    model = known_model("Llama-3.3-70B-Instruct")
    again = share_of(model, 81559, 0.92, tensor_parallel=4, gpu_id="h100-sxm", correction=learned)
    assert again.weights / GIB == pytest.approx(32.91, abs=0.01)
    assert again.kv_bytes / GIB == pytest.approx(36.11, abs=0.05)
    # a second start that prints the same teaches the same, not twice as much
    second = correction_after(again, started(V033), learned)
    assert isinstance(second, Correction)
    assert second.weights_factor == pytest.approx(learned.weights_factor, abs=1e-4)
    assert second.overhead == pytest.approx(learned.overhead, abs=GIB / 100)


@pytest.mark.parametrize(
    ("log", "words"),
    [
        (CPU, "ran on a CPU"),
        ("", "does not say both"),
        (V033.replace("32.91", "65.7"), "another model or split"),
        (V033.replace("36.11", "2.11"), "leave 37.8 GiB for all else"),
        (V033.replace("36.11", "-2.14"), "no room"),
    ],
)
def test_logs_that_teach_nothing(log: str, words: str) -> None:
    found = correction_after(SHARE, started(log))
    assert isinstance(found, str)
    assert words in found


ONE = Learned("gpu1", "meta-llama/Llama-3.3-70B-Instruct", "0.33.0", 4, 1, 1.002, 2**28, "2026-11-25T18:00:00Z")


def test_corrections_are_kept_a_host_a_model_and_a_version() -> None:
    newer = Learned(**{**ONE.__dict__, "overhead_bytes": 2**29})
    other = Learned(**{**ONE.__dict__, "host": "gpu2"})
    known = remember(remember([ONE], other), newer)
    assert known == [other, newer]
    assert read_corrections(as_json(known), "x.json") == known
    assert correction_of(known, "gpu1", ONE.model, "0.33.0") == Correction(1.002, 2**29)
    assert correction_of(known, "gpu1", ONE.model, "0.34.0") is None
    assert correction_of(known, "gpu3", ONE.model, "0.33.0") is None


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"schema": 2, "corrections": []}', '{"schema": 1, "corrections": [{"host": "a"}]}',
     as_json([ONE]).replace("1.002", "9.9"), as_json([ONE]).replace("268435456", "{}")],
)  # fmt: skip
def test_damaged_corrections_are_refused(text: str) -> None:
    with pytest.raises(MetalserveError, match=r"x\.json"):
        read_corrections(text, "x.json")


def test_a_plan_takes_a_correction() -> None:
    gpus = load_gpus()
    hardware, model = hardware_by_name("8xH100-SXM", gpus), known_model("Llama-3.3-70B-Instruct")
    settings, release = EngineSettings(tensor_parallel=4), load_release("2026.11-lts")
    plain = plan_launch(hardware, model, settings, release, gpus)
    taught = plan_launch(hardware, model, settings, release, gpus, correction=Correction(1.0, 5 * GIB))
    assert taught.kv_tokens < plain.kv_tokens
    assert "What earlier launches on this host printed is counted in." in taught.reasons
