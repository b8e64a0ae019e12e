"""Lines in the form of what prints them: each is taken for its cause, and healthy logs for none."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from metalserve.catalogue.causes import load_causes
from metalserve.paths import ROOT
from metalserve.recovery.bmc_evidence import read_event_log
from metalserve.recovery.evidence import Evidence
from metalserve.recovery.verdict import Verdict, judge

HERE = Path(__file__).parent
KNOWN = ROOT / "metalserve" / "catalogue" / "known_lines"
LINES: list[dict[str, dict[str, list[str]]]] = [
    yaml.safe_load(path.read_text()) for path in sorted(KNOWN.glob("signs*.yaml"))
]
ALL = [
    (log, cause, line)
    for logs in LINES for log, causes in logs.items() for cause, lines in causes.items() for line in lines
]  # fmt: skip
TRACES: list[dict[str, Any]] = yaml.safe_load((HERE / "traces.yaml").read_text())
HARMLESS: dict[str, str] = {
    name: text
    for path in sorted(HERE.glob("harmless*.yaml"))
    for name, text in yaml.safe_load(path.read_text()).items()
}


def judged(log: str, text: str) -> Verdict:
    if log == "kernel":
        return judge(Evidence(kernel=text))
    if log == "bmc":
        return judge(Evidence(bmc=read_event_log(text)))
    return judge(Evidence(fabric=text)) if log == "fabric" else judge(Evidence(engines={"0": text}))


@pytest.mark.parametrize(("log", "cause", "line"), ALL, ids=[f"{cause}-{line[:50]}" for _, cause, line in ALL])
def test_a_line_is_taken_for_its_cause(log: str, cause: str, line: str) -> None:
    stamped = f"[ 12.000000] {line}" if log == "kernel" else line
    (found,) = judged(log, stamped).causes
    assert found.id == cause


@pytest.mark.parametrize("trace", TRACES, ids=[trace["name"] for trace in TRACES])
def test_several_lines_are_taken_for_their_causes(trace: dict[str, Any]) -> None:
    assert {found.id for found in judge(Evidence(kernel=trace["kernel"])).causes} == set(trace["causes"])


@cache
def _shown() -> dict[str, str]:
    """Every line of the tests of this room, by the kind of log."""
    texts: dict[str, list[str]] = {log: [] for log in ("kernel", "fabric", "engine", "bmc")}
    for log, _, line in ALL:
        texts[log].append(line)
    cases: list[dict[str, Any]] = yaml.safe_load((HERE / "cases.yaml").read_text())
    for case in cases:
        texts["kernel"] += [case.get("kernel") or "", case.get("earlier") or ""]
        texts["fabric"].append(case.get("fabric") or "")
        texts["engine"].append(case.get("engine") or "")
    texts["kernel"] += [trace["kernel"] for trace in TRACES]
    held = [each for path in (HERE / "heldout").glob("*.yaml") for each in yaml.safe_load(path.read_text())]
    others = [text for case in held for text in case["logs"].values()] + [(HERE / "test_signs.py").read_text()]
    return {log: "\n".join([*each, *others]) for log, each in texts.items()}


@pytest.mark.parametrize(
    "sign",
    [sign for sign in load_causes().signs if sign.log != "bmc"],
    ids=lambda sign: f"{sign.cause}-{sign.pattern[:40]}",
)
def test_every_sign_is_shown_by_some_line(sign: Any) -> None:
    """A sign that no line shows may match nothing, or everything."""
    assert sign.compiled.search(_shown()[sign.log])
    assert not sign.compiled.search("")


@pytest.mark.parametrize("name", sorted(HARMLESS))
def test_what_healthy_hosts_and_engines_say_is_no_cause(name: str) -> None:
    verdict = judged(name.partition(" ")[0], HARMLESS[name])
    assert [(cause.id, cause.lines) for cause in verdict.causes] == []
    assert verdict.unread == ()


CAPTURES = Path(os.environ.get("METALSERVE_CAPTURES") or HERE.parents[2] / "shared" / "captures")
WELL = (
    "kernel-log/gpud-kmsg-raw.log",
    "kernel-log/rtx6kpro-asus-dmesg-nvidia-lines.log",
    "vllm-log/4xv100-custom-allreduce-disabled-journald-ru.log",
    "vllm-log/kimi-k2-8x-dcp8-vllm-recipes.log",
    "vllm-log/v0.2x-gb10-one-line-kv-and-concurrency.log",
    "vllm-log/v0.6-loading-model-weights-took.log",
    "vllm-log/vllm-0.8.0-qwq-32b-awq-nccl-1645-1.log",
)


@pytest.mark.skipif(not CAPTURES.is_dir(), reason="no captured logs here")
@pytest.mark.parametrize("name", WELL)
def test_captured_logs_of_healthy_hosts_hold_no_cause(name: str) -> None:
    verdict = judged("kernel" if name.startswith("kernel") else "engine", (CAPTURES / name).read_text())
    assert [(cause.id, cause.lines) for cause in verdict.causes] == []
    assert verdict.unread == ()


@pytest.mark.parametrize(
    ("log", "line"),
    [
        ("kernel", "[ 12.000000] NVRM: GPU0 fooBar_IMPL: Something new failed, status 0x1"),
        ("kernel", "[ 12.000000] nvme nvme3: some new kind of error"),
        ("fabric", "[Apr 17 2024 01:51:39] [ERROR] [tid 2] something new"),
        ("engine", "node:1:2 [0] foo.cc:10 NCCL WARN something new"),
    ],
)
def test_what_looks_like_an_error_and_is_not_known_is_listed_and_not_judged(log: str, line: str) -> None:
    verdict = judged(log, f"{line}\n{line}")
    assert (verdict.causes, verdict.rung, verdict.unread) == ((), "nothing", (line,))


def test_an_exception_that_is_not_known_ended_the_engine_perhaps() -> None:
    line = "torch.AcceleratorError: CUDA error: something new"
    verdict = judged("engine", f"{line}\n{line}")
    (found,) = verdict.causes
    assert (found.id, found.confidence, verdict.rung) == ("engine-died", "low", "restart-engine")
    assert verdict.unread == (line,)


def test_a_list_of_what_was_not_understood_stays_short() -> None:
    lines = [f"[ 12.0] NVRM: {chr(97 + n)}{chr(97 + n)} failed" for n in range(26)]
    assert len(judged("kernel", "\n".join(lines)).unread) == 20


def test_a_line_of_the_kernel_is_no_sign_of_an_engine() -> None:
    line = "Nov 26 10:00:00 node kernel: CUDA error: an illegal memory access was encountered"
    assert judge(Evidence(engines={"0": line})).causes == ()


def test_a_word_excuses_a_line_that_fits_a_general_sign() -> None:
    line = "[ 12.000000] mlx5_core 0000:3b:00.0: mlx5_load:1341:(pid 9): Failed to create {}, err = -5"
    assert [found.id for found in judged("kernel", line.format("async EQs")).causes] == ["nic-fault"]
    assert judged("kernel", line.format("fw reporter of the queue")).causes == ()
