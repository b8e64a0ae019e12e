"""`metalserve cost` from end to end: terminal, JSON, page."""

from __future__ import annotations

import json
import re
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from metalserve.cli.cost import command
from metalserve.errors import MetalserveError
from metalserve.paths import ROOT

OWN = ("--gpu", "8xh100-sxm", "--price", "throughput.output_tok_s=5000", "--price", "throughput.input_per_output=2")


def run(*args: str) -> Result:
    return CliRunner().invoke(command, list(args), catch_exceptions=False)


def as_json(*args: str) -> dict[str, Any]:
    result = run(*args, "--json")
    assert result.exit_code == 0, result.output
    data: dict[str, Any] = json.loads(result.stdout)
    return data


def test_a_planned_rate_has_a_range_and_the_api_is_compared() -> None:
    found = as_json("--gpu", "8xh100-sxm", "--model", "meta-llama/Llama-3.3-70B-Instruct", "--nodes", "4")
    assert found["schema"] == 1
    assert found["simulated"] is False
    assert found["throughput"]["low"] < found["throughput"]["output"] < found["throughput"]["high"]
    assert {row["option"] for row in found["options"] if row["per_month"]} == {
        "bare-metal", "on-demand", "reserved", "spot", "on-premises", "api",
    }  # fmt: skip
    for row in found["options"]:
        assert sum(row["parts_per_month"].values()) == pytest.approx(row["per_month"])
        low, high = row["range"]
        assert low <= row["per_m_output_all_cost"] <= high
    assert len(found["break_even"]) == 15
    cheapest = min(found["options"], key=lambda row: row["per_month"])
    assert found["cheapest"] == cheapest["option"]
    assert all(a["source"] for a in found["assumptions"])


def test_the_api_wins_is_said_plainly() -> None:
    cheap = ("--price", "api_input=0.01", "--price", "api_output=0.02")
    out = run("--gpu", "8xh100-sxm", "--model", "meta-llama/Llama-3.3-70B-Instruct", *cheap).output
    assert out.startswith("The API wins at a mean load of 51% on 1 node")
    assert "the API stays cheaper" in out
    assert "no break-even" in out


def test_the_cloud_wins_and_bare_metal_wins_are_said_plainly() -> None:
    assert run(*OWN, "--price", "on-demand=0.05").output.startswith("The cloud wins")
    assert run(*OWN, "--price", "bare-metal=1000").output.startswith("Bare metal wins")
    assert run(*OWN, "--price", "server=5000", "--price", "on_premises.staff_fleet=0").output.startswith(
        "Own hardware wins"
    )


def test_a_missing_price_is_told_and_the_rest_is_computed() -> None:
    found = as_json(
        "--gpu", "4xl40s", "--price", "throughput.output_tok_s=900", "--price", "throughput.input_per_output=2"
    )
    missing = {row["option"]: row["missing"] for row in found["options"] if row["missing"]}
    assert missing["bare-metal"] == ["price.bare_metal"]
    assert "on-demand" not in missing
    assert any("bare-metal rental: not computed" in words for words in found["warnings"])
    assert found["rental_worth"]["against"] == "on-demand"


def test_old_prices_are_warned_of_with_their_day() -> None:
    found = as_json(*OWN)
    today = date.fromisoformat(found["date"])
    money = [a for a in found["assumptions"] if a["unit"].startswith("USD") and a["basis"] in ("listed", "published")]
    ages = {a["name"]: (a["date"], (today - date.fromisoformat(a["date"])).days) for a in money}
    old = {entry["name"]: (entry["date"], entry["days"]) for entry in found["old_prices"]}
    assert old == {name: told for name, told in ages.items() if told[1] > 90}
    assert "price.server" in old, "of 2026-04: when it is renewed take another one here"
    words = next(w for w in found["warnings"] if w.startswith("old prices"))
    assert all(f"{name} ({day}, {days} days)" in words for name, (day, days) in old.items())
    assert "price.server" not in {e["name"] for e in as_json(*OWN, "--price", "server=400000")["old_prices"]}


def test_a_measured_rate_and_a_load_of_ones_own(tmp_path: Path) -> None:
    bench = tmp_path / "bench.json"
    bench.write_text(
        json.dumps(
            {"duration": 10, "total_input_tokens": 4000, "total_output_tokens": 2000, "max_concurrency": 8, "failed": 0}
        )
    )
    hours = tmp_path / "hours.csv"
    hours.write_text("\n".join(["0.25"] * 24))
    found = as_json("--gpu", "8xh100-sxm", "--bench", str(bench), "--utilisation", str(hours), "--nodes", "2")
    assert found["throughput"]["basis"] == "measured"
    assert found["throughput"]["output"] == 200
    assert found["utilisation"] == 0.25
    # 2 nodes x 200 tok/s x 0.25 x 730 h x 3,600 s x 0.99
    assert found["tokens_per_month_m"]["output"] == pytest.approx(260.172)
    assert found["options"][0]["per_m_output"] is None, "a benchmark does not say how to divide"
    assert any("allocation.prefill_share" in words for words in found["warnings"])


def test_with_model_and_gpus_a_measured_rate_is_divided(tmp_path: Path) -> None:
    bench = tmp_path / "bench.json"
    bench.write_text(
        json.dumps(
            {"duration": 10, "total_input_tokens": 40960, "total_output_tokens": 2000, "completed": 4, "failed": 0}
        )
    )
    args = ("--gpu", "8xh100-sxm", "--bench", str(bench), "--model", "meta-llama/Llama-3.3-70B-Instruct")
    found = as_json(*args)
    share = next(a for a in found["assumptions"] if a["name"] == "allocation.prefill_share")
    assert share["basis"] == "planned"
    assert "prompts of 10240 and answers of 500 tokens" in share["source"]
    assert found["options"][0]["per_m_output"] > 0


def test_a_plan_file_brings_its_gpus(tmp_path: Path) -> None:
    from tests.economics.test_throughput import PLAN

    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({**PLAN, "simulated": True}))
    found = as_json("--plan", str(plan))
    assert found["gpus_per_node"] == 8
    assert found["simulated"] is True
    assert run("--plan", str(plan)).output.startswith("SIMULATED")


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (("--gpu", "8xh100-sxm"), "--bench FILE"),
        (("--price", "throughput.output_tok_s=1"), "--gpu"),
        ((*OWN, "--price", "spott=1"), "price.spot"),
        ((*OWN, "--price", "spot"), "NAME=VALUE"),
        ((*OWN, "--utilisation", "nobody"), "no profile and no file"),
        (
            (
                "--gpu",
                "8xh1000",
            ),
            "h100",
        ),
        (("--config", "/nowhere/cost.yaml"), "cannot be read"),
    ],
)
def test_what_is_wrong_is_one_line(args: tuple[str, ...], word: str) -> None:
    with pytest.raises(MetalserveError) as caught:
        run(*args)
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_page_is_whole_and_needs_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "cost.html"
    evil = tmp_path / "cost.yaml"
    evil.write_text("assumptions:\n  price.spot: {value: 1.5, source: '<script>alert(1)</script>'}\n")
    result = run(*OWN, "--nodes", "4", "--config", str(evil), "--html", str(out))
    assert result.exit_code == 0
    page = out.read_text()
    assert page.count("<svg") == page.count("</svg>") >= 7
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert not re.search(r"(?:src|href)=", page)
    assert "url(" not in page
    assert "nan" not in re.sub(r"[a-z]+nan|nan[a-z]+", "", page.lower())
    for words in ("Side by side", "Break-even", "What it hangs on", "Assumptions", "old prices"):
        assert words in page


def test_lists_what_can_be_given() -> None:
    out = run("--list-prices").output
    for name in ("power.kwh", "price.bare_metal", "h200-sxm", "DeepInfra"):
        assert name in out


def test_the_keys_are_those_of_the_documentation() -> None:
    words = (ROOT / "docs" / "cost-audit-schema.md").read_text()
    cost, _, _ = words.partition("## `metalserve audit --json`")
    documented = set(re.findall(r"`([a-z_]+)`", cost))
    found = as_json(*OWN)
    inner = [*found["options"], *found["break_even"], found["sensitivity"], found["throughput"]]
    keys = set(found) | {key for part in inner for key in part} | set(found["assumptions"][0])
    assert keys <= documented
