"""The real parser of vLLM 0.32.0: it accepts every plan, and agrees with `metalserve vllm check`."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from metalserve.catalogue.loader import load_gpus
from metalserve.flags.check import check_text
from metalserve.planning import hardware_by_name, plan_launch
from metalserve.planning.known import known_model, known_models
from metalserve.releases import Release
from metalserve.settings import EngineSettings
from tests.real_vllm.conftest import VERSION

Parse = Callable[[Sequence[Sequence[str]]], list[dict[str, object]]]


@pytest.fixture(scope="module")
def parse(python: str) -> Parse:
    def run(lists: Sequence[Sequence[str]]) -> list[dict[str, object]]:
        text = "".join(json.dumps(list(words)) + "\n" for words in lists)
        script = str(Path(__file__).with_name("parse.py"))
        done = subprocess.run([python, script], input=text, capture_output=True, text=True, timeout=3600)
        assert done.returncode == 0, done.stderr[-2000:]
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"accepted"')]

    return run


def test_every_plan_of_the_catalogue_is_accepted(parse: Parse, release: Release) -> None:
    gpus = load_gpus()
    plans: dict[tuple[str, ...], str] = {}
    refused = 0
    for gpu in (gpu.id for gpu in gpus.gpus if gpu.memory.gb or gpu.memory.mib):
        for count in (1, 2, 4, 8):
            hardware = hardware_by_name(f"{count}x{gpu}", gpus)
            for name in known_models():
                plan = plan_launch(
                    hardware, known_model(name), EngineSettings(), release, gpus, model_path="/m", served_name=name
                )
                refused += not plan.fits
                for replica in range(plan.replicas):
                    plans.setdefault(plan.replica_args(replica), f"{count}x{gpu} {name}")
    assert len(plans) > 100
    results = parse(list(plans))
    assert len(results) == len(plans)
    wrong = [f"{what}: {result['said']}" for what, result in zip(plans.values(), results, strict=True)
             if not result["accepted"]]  # fmt: skip
    assert wrong == []
    print(f"{len(plans)} different argument lists accepted, {refused} combinations refused by the planner")


REFUSED = [
    "m/m --swap-space 16", "m/m --dtype fp8", "m/m --task generate", "m/m --port eight", "m/m --port",
    "m/m --tensor-paralel-size 2", "m/m --gpu-memory-utilization 90%", "m/m --max-model-len 1.5K",
    "m/m --kv-transfer-config {x", "m/m --enab", "m/m --port 1 2", "m/m --enable-prefix-caching=1",
    "m/m --enable-prefix-caching true", "m/m --moe-backend magic", "m/m --guided-decoding-backend xgrammar",
    "m/m --cuda-graph-sizes 1 2", "m/m --num-scheduler-steps 8", "m/m --disable-log-requests", "m/m --device cuda",
    "m/m --use-v2-block-manager", "m/m --rope-theta 1000", "m/m --calculate-kv-scales", "m/m --xyzzy 1",
    "m/m --enable-auto-tool-choice", "m/m --enable-log-outputs", "m/m --scheduling-policy best",
    "m/m --performance-mode fast", "m/m --max-num-seqs many", "m/m --max-num-seqs 2.5", "m/m --seed x",
    "m/m --kv-offloading-backend disk", "m/m --kv-offloading-size big", "m/m --hf-overrides {a:b}",
    "m/m --speculative-config not-json", "m/m --runner magic", "m/m --api-server-count one",
    "m/m --all2all-backend carrier-pigeon", "m/m --shutdown-timeout soon", "m/m --stream-interval 0.5",
    "m/m --enable-per-request-metrics --disable-log-stats", "m/m --preemption-mode swap", "--model m/m stray",
]  # fmt: skip
ACCEPTED = [
    "m/m", "m/m --port 8001 -tp 2", "--model m/m", "m/m --max-model-len 32k", "m/m --max-model-len auto", "m/m -O3",
    "m/m --quantization fp8", "m/m --no-enable-prefix-caching", "m/m --served_model_name a b", "m/m --seed=1",
    """m/m --kv-transfer-config '{"kv_role":"kv_both"}'""",
    "m/m --compilation-config.mode 3", "m/m --performance-mode interactivity", "m/m --stream-interval 4",
    "m/m --max-num-batched-tokens 2k --max-num-seqs 64", "m/m --log-config-file x", "m/m --enable-log-requests",
    "m/m --enable-auto-tool-choice --tool-call-parser hermes", "m/m --kv-offloading-size 8",
    "m/m --tensor-parallel-s 2",
]  # fmt: skip


def test_the_check_and_the_real_parser_agree(parse: Parse) -> None:
    lines = [*REFUSED, *ACCEPTED]
    results = parse([shlex.split(line) for line in lines])
    table = []
    for line, result in zip(lines, results, strict=True):
        checked = check_text(f"vllm serve {line}", VERSION)
        table.append((line, bool(result["accepted"]), checked.errors == 0, result["said"]))
    disagree = [row for row in table if row[1] != row[2]]
    assert disagree == []
    assert [row[0] for row in table if row[1]] == ACCEPTED
    print(f"{len(REFUSED)} refused and {len(ACCEPTED)} accepted by both")


def test_the_corrected_commands_are_accepted_by_the_real_parser(parse: Parse) -> None:
    corrected = [check_text(f"vllm serve {line}", VERSION).corrected for line in REFUSED]
    results = parse([shlex.split(text.replace("\\\n", " "))[2:] for text in corrected])
    wrong = [(text, result["said"]) for text, result in zip(corrected, results, strict=True) if not result["accepted"]]
    assert wrong == []
