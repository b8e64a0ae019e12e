"""`metalserve release`: what it prints, and how it exits."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result

from metalserve.cli.release import command
from tests.releases.test_releases import DATA, REFUSED_BY_CHECK, REFUSED_BY_SCHEMA


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, list(arguments))


def test_check_exits_by_result(monkeypatch: pytest.MonkeyPatch) -> None:
    good = run("check")
    assert good.exit_code == 0
    assert "2026.11-lts: versions fit together; 36 of 36 GPUs of the catalogue served" in good.stdout
    monkeypatch.setenv("METALSERVE_RELEASES_DIR", str(DATA))
    result = run("check")
    assert result.exit_code == 1
    for name in [*REFUSED_BY_SCHEMA, *REFUSED_BY_CHECK]:
        assert f"{name}: refused: " in result.stderr


def test_check_takes_names_and_files_together() -> None:
    file = DATA / "broken-toolkit.yaml"
    result = run("check", "2026.11-lts", str(file))
    assert result.exit_code == 1
    assert "2026.11-lts: versions fit" in result.stdout
    assert f"{file}: refused: container_toolkit.version: 1.17.7-1 is open to" in result.stderr
    assert "(rule toolkit-is-safe: NVIDIA security bulletin 5850" in result.stderr
    assert "-> take 1.19.1 or newer" in result.stderr


def test_check_as_json_has_rule_source_and_fix() -> None:
    result = run("check", "--json", "2026.11-lts", *(str(DATA / f"broken-{n}.yaml") for n in ("everything", "latest")))
    assert result.exit_code == 1
    good, everything, latest = json.loads(result.stdout)
    assert good["verdict"] == "fits" and good["problems"] == []
    assert good["warnings"][0]["rule"] == "image-has-digest"
    assert {"gpu": "b300", "status": "served", "why": [], "sources": []} in good["gpus"]
    assert everything["verdict"] == "refused" and len(everything["problems"]) == 9
    assert all(p["rule"] and p["source"] and p["fix"] and p["what"] for p in everything["problems"])
    assert latest["problems"][0]["rule"] == "readable" and "'latest' pins nothing" in latest["problems"][0]["what"]


@pytest.mark.parametrize("name", ["no-such", "no/such.yaml", "missing.yaml"])
def test_check_of_what_is_not_there(name: str) -> None:
    result = run("check", name)
    assert result.exit_code == 1 and len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith(f"{name}: refused: ") and "rule readable" in result.stderr


def test_show_has_versions_gpus_and_sources() -> None:
    shown = " ".join(run("show", "2026.11-lts").output.split())
    for words in (
        "580.178.04 (branch 580)",
        "datacenter-gpu-manager-4-cuda13",
        "b300",
        "fits (1 warning)",
        "bulletin 5850",
    ):
        assert words in shown
    data = json.loads(run("show", "2026.11-lts", "--json").output)
    assert data["image"] == "vllm/vllm-openai:v0.33.0" and data["driver"]["branch"] == 580
    assert data["verdict"] == "fits" and len(data["gpus"]) == 36


def test_list_has_end_of_life_and_verdict() -> None:
    lines = run("list").output.splitlines()
    assert lines[0].split() == ["release", "end", "of", "life", "driver", "CUDA", "vLLM", "verdict"]
    row = next(line for line in lines if line.startswith("2026.11-production"))
    assert row.split() == ["2026.11-production", "2027-03-31", "595.91.07", "13.0", "0.33.0", "fits", "(1", "warning)"]
    data = json.loads(run("list", "--json").output)
    assert [each["verdict"] for each in data] == ["fits"] * len(data)


def test_list_goes_on_past_a_file_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METALSERVE_RELEASES_DIR", str(DATA))
    result = run("list")
    assert result.exit_code == 0
    assert "refused (1)" in result.output and "tag 'latest' pins nothing" in " ".join(result.output.split())
    by_name = {each["name"]: each for each in json.loads(run("list", "--json").output)}
    assert by_name["broken-latest"]["verdict"] == by_name["broken-everything"]["verdict"] == "refused"
    assert "error" in by_name["broken-latest"]


def test_diff_is_readable_before_an_upgrade() -> None:
    result = run("diff", "2026.10-lts", "2026.11-lts")
    assert result.exit_code == 0
    assert result.output.startswith("2026.10-lts -> 2026.11-lts: engines and all that holds the GPUs stop")
    for words in (
        "What it means",
        "580.173.02",
        "vLLM 0.32.0 -> 0.33.0: other defaults",
        "--tool-strict-level: auto -> unset",
    ):
        assert words in result.output
    same = run("diff", "2026.11-lts", "2026.11-lts")
    assert same.output == "2026.11-lts -> 2026.11-lts: no difference\n"
    back = run("diff", "2026.11-lts", "2026.10-lts").output
    assert "--monokernel -> drop it, or pin vLLM 0.33.0 or newer" in back
    assert "other spellings of options that stay" in back and "--disable-sleep-mode" not in back


def test_diff_as_json_and_to_a_release_that_is_refused() -> None:
    data = json.loads(run("diff", "--json", "2026.11-lts", "2026.11-production").output)
    assert data["stops"] == "driver" and data["verdict"]["verdict"] == "fits" and data["flags"] is None
    assert {"part": "driver branch", "before": "580", "after": "595", "direction": "up"} in data["parts"]
    refused = run("diff", "2026.11-lts", str(DATA / "broken-driver.yaml"))
    assert refused.exit_code == 1
    lost = refused.output.partition("GPUs NOT served any more, or not known to be\n")[2]
    assert lost.startswith("  b300: the first driver branch for Blackwell Ultra is not in the catalogue")
    assert "broken-driver: refused: driver.version: 570.211.01 cannot run the CUDA 13.0" in refused.stderr
