"""Every model of the catalogue on every GPU: a plan that the release accepts, or a refusal in words. And the CLI."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from metalserve.catalogue.loader import load_gpus
from metalserve.catalogue.vllm_check import check_args
from metalserve.cli import root
from metalserve.planning.known import known_models
from tests.planning.conftest import Planning

WITH_MEMORY = [gpu.id for gpu in load_gpus().gpus if gpu.memory.gb or gpu.memory.mib]


@pytest.mark.parametrize("gpu", WITH_MEMORY)
def test_plans_are_accepted_or_refused_in_words(planning: Planning, gpu: str) -> None:
    for count in (1, 2, 4, 8):
        for name in known_models():
            plan = planning(f"{count}x{gpu}", name)
            if plan.fits:
                assert [p for p in check_args(plan.vllm_args, "0.33.0") if p.severity == "error"] == []
                used = [g for group in plan.gpus_per_replica for g in group]
                assert len(used) == len(set(used)) <= count
                assert len(used) == plan.replicas * plan.split.gpus
                assert plan.kv_tokens >= min(8192, plan.max_model_len)
            else:
                assert plan.refused
                assert plan.vllm_args == ()


def run(*args: str) -> tuple[int, str]:
    result = CliRunner().invoke(root, list(args), standalone_mode=False)
    if result.exception:
        raise result.exception
    return int(result.return_value or 0), result.output


def test_plan_command(tmp_path: Path) -> None:
    code, text = run("plan", "--gpu", "8xH100-SXM", "--model", "Llama-3.3-70B-Instruct")
    assert code == 0
    assert "2 replicas, tensor parallel 4" in text
    assert "vllm/vllm-openai:v0.33.0" in text
    code, text = run("plan", "--gpu", "8xH100-SXM", "--model", "Llama-3.1-405B-Instruct", "--json")
    assert code == 1
    assert json.loads(text)["fits"] is False
    (tmp_path / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "intermediate_size": 11008, "vocab_size": 32000, "max_position_embeddings": 4096,
    }))  # fmt: skip
    code, text = run("plan", "--gpu", "2xL40S", "--model", str(tmp_path / "config.json"), "--json")
    assert (code, json.loads(text)["data_parallel_size"]) == (0, 2)


def test_check_command_on_the_article() -> None:
    article = (
        "docker run --gpus all --ipc=host --network host -e HUGGING_FACE_HUB_TOKEN=hf_abcSECRET "
        "vllm/vllm-openai:latest --model meta-llama/Llama-3.3-70B-Instruct --tensor-parallel-size 2 "
        "--dtype fp8 --swap-space 16 --port 8000"
    )
    for form in (article.split(), [article]):
        code, text = run("vllm", "check", "--release", "0.33.0", "--", *form)
        assert code == 1
        assert "SECRET" not in text
        for word in ("latest", "HUGGING_FACE_HUB_TOKEN", "--dtype", "--swap-space", "without a key", "--env-file"):
            assert word in text


def test_check_command_accepts(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = run("vllm", "check", "--release", "2026.11-lts", "--", "/srv/models/x", "--port", "8000")
    assert (code, text) == (0, "vLLM 0.33.0: accepted\n")
    code, text = run("vllm", "check", "--json", "--", "vllm", "serve", "/m", "--prot", "1")
    assert code == 1
    assert json.loads(text)["problems"][0]["remedy"] == "did you mean --port?"
