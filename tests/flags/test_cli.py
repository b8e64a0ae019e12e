"""`metalserve vllm`: check, flags, diff, releases."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from metalserve.cli import root
from metalserve.flags import differences
from metalserve.paths import ROOT


def run(*args: str, stdin: str | None = None) -> tuple[int, str]:
    result = CliRunner().invoke(root, list(args), input=stdin, standalone_mode=False)
    if result.exception:
        raise result.exception
    return int(result.return_value or 0), result.output


def test_a_pasted_text_from_the_standard_input() -> None:
    text = (
        "docker run --gpus all --ipc=host \\\n -e HF_TOKEN=hf_SECRETSECRET \\\n vllm/vllm-openai:v0.28.0 org/m -tp 2\n"
    )
    code, said = run("vllm", "check", "-", stdin=text)
    assert code == 1
    assert "vLLM 0.28.0: 1 problem" in said
    assert "SECRET" not in said
    corrected, _, write = said.partition("):\n\n")[2].partition("\n\nWrite ")
    assert write == "/etc/vllm/vllm.env, mode 0600, with a line NAME=VALUE for HF_TOKEN.\n"
    assert "--env-file" in corrected
    assert run("vllm", "check", corrected)[0] == 0


def test_json_has_the_documented_keys() -> None:
    code, said = run("vllm", "check", "--json", "--", "vllm", "serve", "m/m", "--api-key", "SECRETSECRET")
    value = json.loads(said)
    assert code == 1 and "SECRETSECRET" not in said
    documented = (ROOT / "docs/vllm-check.md").read_text()
    for key in value:
        assert f"`{key}" in documented, key
    for key in value["problems"][0]:
        assert f"`problems[].{key}`" in documented, key


def test_nothing_to_correct_prints_no_command() -> None:
    assert run("vllm", "check", "--", "/m", "--port", "1") == (0, "vLLM 0.33.0: accepted\n")


def test_flags_by_part_of_a_name_and_by_pattern() -> None:
    code, said = run("vllm", "flags", "--release", "0.33.0", "num_seqs")
    assert code == 0 and said.splitlines() == ["--max-num-seqs INT"]
    assert "--max-num-batched-tokens HUMAN_INT" in run("vllm", "flags", "max-num-*")[1]
    assert "one of auto, bfloat16" in run("vllm", "flags", "--dtype")[1]
    [row] = json.loads(run("vllm", "flags", "--json", "--release", "0.17.0", "swap-space")[1])["flags"]
    assert (row["flag"], row["value"]) == ("--swap-space", "FLOAT")
    assert CliRunner().invoke(root, ["vllm", "flags", "no-such-flag"], standalone_mode=False).return_value == 1


def test_diff_between_two_releases() -> None:
    said = {(each.kind, each.flag) for each in differences("0.17.0", "0.20.0")}
    assert {
        ("removed", "--swap-space"),
        ("added", "--shutdown-timeout"),
        ("default", "--gpu-memory-utilization"),
    } <= said
    renamed = {each.flag: each.after for each in differences("0.11.2", "0.13.0") if each.kind == "renamed"}
    assert renamed["--cuda-graph-sizes"] == "--cudagraph-capture-sizes VALUE"
    assert differences("0.33.0", "0.33.0") == []
    assert ("added", "--swap-space") in {(each.kind, each.flag) for each in differences("0.20.0", "0.17.0")}
    text = run("vllm", "diff", "0.17.0", "2026.11-lts")[1]
    assert "removed  --swap-space" in text and "vLLM 0.17.0 -> 0.33.0:" in text
    rows = json.loads(run("vllm", "diff", "--json", "0.32.0", "0.33.0")[1])
    assert (rows["old"], rows["new"]) == ("0.32.0", "0.33.0") and rows["differences"]


@pytest.mark.parametrize("name", ["conflicts.yaml", "environment.json", "history.json"])
def test_the_catalogue_says_where_it_comes_from(name: str) -> None:
    assert "source" in (Path(ROOT) / "metalserve/catalogue/vllm" / name).read_text()
