"""What tracebacks in engines' logs tell: where, whether at a start, whether it was a request only."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metalserve.recovery.evidence import Evidence
from metalserve.recovery.stalls import stalled
from metalserve.recovery.tracebacks import bare, failures, reason, request_lines
from metalserve.recovery.verdict import judge

CORE = "vllm/v1/engine/core.py:run_busy_loop"
BROADCAST = "vllm/distributed/device_communicators/shm_broadcast.py:dequeue"
SITE = "/usr/local/lib/python3.12/dist-packages"


def _trace(*frames: str, end: str = "") -> list[str]:
    head = ["Traceback (most recent call last):"]
    body = [
        f'  File "{SITE}/{path}", line 7, in {name}' for path, _, name in (frame.partition(":") for frame in frames)
    ]
    return [*head, *body, *([end] if end else [])]


@pytest.mark.parametrize(
    "line",
    [
        "(EngineCore_DP0 pid=77) ERROR 11-26 10:00:05 [core.py:700] ValueError: x",
        "vllm-1  | (APIServer pid=1) ValueError: x",
        "2025-08-06T16:31:47.665777774Z [rank0]: ValueError: x",
        "Aug 19 18:34:27 host vllm[8727]: (EngineCore pid=8727) ValueError: x",
        "ERROR 12-05 20:24:46 engine.py:366] ValueError: x",
        "2025-08-19T18:34:27.123456+0000 host vllm-0[8727]: (EngineCore pid=8727) ValueError: x",
        "2025-11-26 10:00:05,123 - ERROR worker_base.py:620 -- ValueError: x",
        "ERROR 2025-11-26 10:00:05 core.py:842] ValueError: x",
        "   17 ValueError: x",
        "ValueError: x",
    ],
)
def test_a_line_is_read_without_what_is_written_before_it(line: str) -> None:
    assert bare(line) == "ValueError: x"


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        (_trace("vllm/engine/arg_utils.py:create_engine_config", end="ValueError: x"), "bad-flags"),
        (_trace("vllm/v1/engine/core.py:__init__", "vllm/model_executor/models/a.py:load_weights", end="KeyError: 'b'"),
         "model-unsupported"),
        (_trace(CORE, "vllm/model_executor/models/a.py:forward", end="KeyError: 'b'"),
         "engine-died"),
        (_trace(CORE, BROADCAST, end="TimeoutError"), "collective-hang"),
        (_trace("bin/vllm:<module>", "vllm/a.py:<module>", "vllm/b.py:<module>"), "build-unfit"),
        (["RuntimeError: x"], "engine-died"),
        (["Failed to start the server: x"], "engine-died"),
    ],
)  # fmt: skip
def test_an_exception_is_judged_by_its_place(lines: list[str], cause: str) -> None:
    why = reason(lines)
    assert why is not None and why.cause == cause
    (found,) = judge(Evidence(engines={"0": "\n".join(lines)})).causes
    assert (found.id, found.confidence) == (cause, "low")


@pytest.mark.parametrize(
    "lines",
    [
        _trace("uvicorn/protocols/http.py:run", "vllm/entrypoints/openai/serving_chat.py:create", end="ValueError: x"),
        ["ValueError: This model's maximum context length is 10 tokens"],
        _trace("vllm/entrypoints/cli/main.py:main", end="KeyboardInterrupt"),
        [
            *_trace("vllm/engine/arg_utils.py:create_engine_config", end="ValueError: x"),
            "Application startup complete.",
        ],
        ["RuntimeError: x", 'INFO: 10.0.0.9:1 - "POST /v1/completions HTTP/1.1" 200 OK'],
        ["WARNING 01-01 10:00:00 [a.py:1] Failed to load the model's processor, falling back"],
    ],
)
def test_what_ends_no_engine_is_no_reason(lines: list[str]) -> None:
    assert reason(lines) is None


def test_lines_of_a_request_are_known_and_signs_of_the_set_up_are_not_looked_for_in_them() -> None:
    lines = _trace("starlette/app.py:call", end="ValueError: a thing is not supported by the model")
    assert request_lines(lines) == set(range(len(lines)))
    assert judge(Evidence(engines={"0": "\n".join(lines)})).causes == ()


def test_a_reset_of_hardware_is_still_asked_for_when_a_start_followed() -> None:
    text = "RuntimeError: CUDA error: uncorrectable ECC error encountered\nApplication startup complete."
    assert [cause.id for cause in judge(Evidence(engines={"0": text})).causes] == ["engine-memory-error"]


def _state(prompt: float, tokens: float, running: int) -> str:
    return (
        f"INFO Engine 000: Avg prompt throughput: {prompt} tokens/s, Avg generation throughput: {tokens} tokens/s, "
        f"Running: {running} reqs, Waiting: 0 reqs"
    )


def test_an_engine_without_progress_is_stalled_only_at_the_end_and_after_a_while() -> None:
    still = _state(0.0, 0.0, 1)
    assert stalled([still] * 5) == still
    assert stalled([still] * 4) == "" == stalled([still] * 5 + [_state(0.0, 5.4, 1)])
    assert stalled([_state(0.0, 0.0, 0)] * 9) == ""
    (found,) = judge(Evidence(engines={"0": "\n".join([still] * 5)})).causes
    assert (found.id, found.rung) == ("engine-hang", "restart-engine")


@given(st.lists(st.text(max_size=80), max_size=20))
def test_any_text_is_read(lines: list[str]) -> None:
    found = failures(lines)
    assert all(0 <= each.first <= each.last < len(lines) for each in found)


@pytest.mark.parametrize(
    ("beside", "cause"),
    [
        ("this process has 77.46 GiB memory in use.", "model-does-not-fit"),
        ("Process 7 has 70 GiB", "gpu-out-of-memory"),
    ],
)
def test_an_engine_that_fills_its_gpus_before_it_serves_does_not_fit(beside: str, cause: str) -> None:
    log = (
        f"ERROR 07-07 15:19:48 [multiproc_executor.py:492] torch.OutOfMemoryError: CUDA out of memory. {beside}\n"
        "ERROR 07-07 15:19:51 [core.py:515] EngineCore failed to start.\n"
    )
    assert judge(Evidence(engines={"0": log})).causes[0].id == cause
