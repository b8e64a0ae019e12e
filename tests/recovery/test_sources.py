"""Messages as the sources of engines and runtimes have them: what each is taken for, with what stands around it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from metalserve.catalogue.causes import load_causes
from metalserve.recovery.evidence import Evidence
from metalserve.recovery.reading import evidence_of
from metalserve.recovery.verdict import Verdict, judge

HERE = Path(__file__).parent
TRACES: list[dict[str, Any]] = yaml.safe_load((HERE / "sources_traces.yaml").read_text())
LINES: dict[str, list[str]] = yaml.safe_load((HERE / "sources_lines.yaml").read_text())
ALL = [(cause, line) for cause, lines in LINES.items() for line in lines]

API: Final = (
    "vllm/entrypoints/cli/main.py:main", "vllm/entrypoints/cli/serve.py:cmd",
    "vllm/entrypoints/launchers/api_server/entry.py:run_server",
    "vllm/entrypoints/launchers/api_server/entry.py:build_async_engine_client_from_engine_args",
)  # fmt: skip
CORE: Final = (
    "vllm/v1/engine/core.py:run_engine_core", "vllm/v1/engine/core.py:__init__",
    "vllm/v1/executor/abstract.py:__init__", "vllm/v1/executor/uniproc_executor.py:_init_executor",
)  # fmt: skip
AROUND: Final = {
    "cfg": (*API, "vllm/engine/arg_utils.py:create_engine_config"),
    "dev": (*CORE, "vllm/v1/worker/worker_base.py:init_device", "vllm/v1/worker/gpu_worker.py:init_device"),
    "load": (
        *CORE, "vllm/v1/worker/gpu_worker.py:load_model", "vllm/v1/worker/gpu_model_runner.py:load_model",
        "vllm/model_executor/model_loader/base_loader.py:load_model",
    ),
    "run": (
        "vllm/v1/engine/core.py:run_engine_core", "vllm/v1/engine/core.py:run_busy_loop",
        "vllm/v1/engine/core.py:_process_engine_step", "vllm/v1/worker/gpu_model_runner.py:execute_model",
    ),
    "req": (
        "uvicorn/protocols/http/httptools_impl.py:run_asgi", "fastapi/routing.py:app",
        "vllm/entrypoints/openai/serving_chat.py:create_chat_completion",
    ),
}  # fmt: skip
BEGIN: Final = "(APIServer pid=1) INFO 11-26 10:00:01 [api_server.py:1896] vLLM API server version 0.11.2"
SERVED: Final = (
    "(APIServer pid=1) INFO:     Application startup complete.",
    '(APIServer pid=1) INFO:     10.0.0.9:5000 - "POST /v1/chat/completions HTTP/1.1" 200 OK',
)
DEAD: Final = "EngineCore encountered an issue. See stack trace (above) for the root cause."
FAILED: Final = "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"
SITE: Final = "/usr/local/lib/python3.12/dist-packages"


def _raised(frames: tuple[str, ...], says: str, prefix: str) -> list[str]:
    lines = ["Traceback (most recent call last):"]
    for place, _, name in (frame.rpartition(":") for frame in frames):
        lines += [f'  File "{SITE}/{place}", line 7, in {name}', f"    {name.strip('<>')}(...)"]
    return [prefix + line for line in (*lines, says)]


def _log(case: dict[str, Any]) -> str:
    """What an engine of vLLM's V1 writes around an exception of that phase."""
    phase, api, core = (
        case["phase"],
        "(APIServer pid=1) ",
        "(EngineCore_DP0 pid=77) ERROR 11-26 10:00:05 [core.py:842] ",
    )
    frames = (*AROUND[phase], case["at"])
    if phase == "cfg":
        return "\n".join([BEGIN, *_raised(frames, case["says"], api)])
    if phase == "req":
        head = f"{api}ERROR:    Exception in ASGI application"
        return "\n".join([BEGIN, *SERVED, head, *_raised(frames, case["says"], api), SERVED[1]])
    if phase == "run":
        dead = _raised(
            ("vllm/v1/engine/async_llm.py:output_handler",), f"vllm.v1.engine.exceptions.EngineDeadError: {DEAD}", api
        )
        head = f"{core}EngineCore encountered a fatal error."
        return "\n".join([BEGIN, *SERVED, head, *_raised(frames, case["says"], core), *dead])
    tail = _raised((*API, "vllm/v1/engine/utils.py:wait_for_engine_startup"), FAILED, api)
    return "\n".join([BEGIN, f"{core}EngineCore failed to start.", *_raised(frames, case["says"], core), *tail])


def _first(verdict: Verdict) -> str:
    return next((found.id for found in verdict.causes if not found.explained_by), "")


@pytest.mark.parametrize("case", TRACES, ids=[f"{case['phase']} {case['says'][:60]}" for case in TRACES])
def test_an_exception_is_taken_for_what_it_means_at_its_place(case: dict[str, Any]) -> None:
    catalogue = load_causes()
    verdict = judge(Evidence(engines={"0": _log(case)}))
    if not case["causes"]:
        assert (_first(verdict), verdict.rung) == ("", "nothing")
        return
    assert _first(verdict) in case["causes"]
    assert verdict.rung in {catalogue.cause(cause).rung for cause in case["causes"]}


@pytest.mark.parametrize(("cause", "line"), ALL, ids=[f"{cause} {line[:60]}" for cause, line in ALL])
def test_a_line_alone_is_taken_for_what_it_means(cause: str, line: str) -> None:
    verdict = judge(Evidence(engines={"0": line}))
    if cause == "nothing":
        assert (_first(verdict), verdict.rung) == ("", "nothing")
    else:
        assert (_first(verdict), verdict.rung) == (cause, load_causes().cause(cause).rung)


def test_what_docker_keeps_of_a_log_is_read_like_the_log() -> None:
    case = next(case for case in TRACES if case["phase"] == "load")
    kept = "\n".join(
        '{"log":"' + line.replace('"', '\\"') + '\\n","stream":"stderr","time":"2025-11-26T10:00:05Z"}'
        for line in _log(case).splitlines()
    )
    plain, wrapped = (
        judge(evidence_of([("x", [("engine.log", text)])])).as_dict() for text in (_log(case), f"{kept}\n{{broken")
    )
    assert plain["causes"] == wrapped["causes"] != []


CORE_PREFIX: Final = "(EngineCore_DP0 pid=77) ERROR 11-26 10:00:05 [core.py:842] "
WRAPPERS: Final = "\n".join(
    [
        *_raised(
            (*CORE[:3], "vllm/v1/executor/multiproc_executor.py:wait_for_ready"),
            "Exception: WorkerProc initialization failed due to an exception in a background process. See stack "
            "trace for root cause.",
            CORE_PREFIX,
        ),
        *_raised((*API, "vllm/v1/engine/utils.py:wait_for_engine_startup"), FAILED, "(APIServer pid=1) "),
    ]
)
REFUSED: Final = "node1:77:77 [0] misc/socket.cc:484 NCCL WARN socketStartConnect: Connect to 10.0.0.2<41000> failed"
TIMED_OUT: Final = (
    "[rank1]:[E1126 10:10:06.1 ProcessGroupNCCL.cpp:683] [Rank 1] Watchdog caught collective operation timeout"
)
OTHER_RANKS: Final = (
    REFUSED,
    TIMED_OUT,
    "node1:78:78 [1] misc/socket.cc:58 NCCL WARN socketProgress: Connection closed by remote peer node1<41000>",
    "torch.distributed.DistBackendError: NCCL error: remote process exited or there was a network error",
    "(EngineCore_DP0 pid=77) ERROR 11-26 10:00:06 [x.py:230] Worker proc VllmWorker-1 died unexpectedly",
    "systemd[1]: vllm-0.service: Main process exited, code=exited, status=1/FAILURE",
)


@pytest.mark.parametrize(
    ("before", "cause"), [("", "engine-died"), (REFUSED, "nccl-network"), (TIMED_OUT, "collective-hang")]
)
def test_an_exception_that_refers_to_another_is_no_reason(before: str, cause: str) -> None:
    verdict = judge(Evidence(engines={"0": "\n".join([BEGIN, before, WRAPPERS])}))
    assert (_first(verdict), verdict.rung) == (cause, "restart-engine")


@pytest.mark.parametrize("line", OTHER_RANKS)
@pytest.mark.parametrize("after", [True, False])
def test_what_other_ranks_tell_of_one_that_did_not_start_is_its_consequence(line: str, *, after: bool) -> None:
    cases = [case for case in TRACES if case["phase"] == "load"][::10]
    for case in cases:
        log = _log(case)
        verdict = judge(Evidence(engines={"0": f"{log}\n{line}" if after else f"{line}\n{log}"}))
        assert _first(verdict) in case["causes"]
        assert verdict.rung != "restart-engine" or "engine-died" in case["causes"] or "memory-taken" in case["causes"]
