"""Two launch plans on one node in turn."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from metalserve.benching.overrides import laid_over, overrides_of
from metalserve.benching.page import html_page
from metalserve.cli import bench, bench_plans
from metalserve.errors import MetalserveError
from metalserve.loading.client import Endpoint
from metalserve.loading.switching import order, run_plans
from metalserve.pyinfra_seam.cli_run import Outcome
from metalserve.pyinfra_seam.inventory import load_apart
from tests.benching.standin import Known, run, serving
from tests.benching.test_known_engine import plan

INVENTORY = """\
nodes = [("node7", {
    "release": "2026.11-lts",
    "ssh_hostname": "127.0.0.1",
    "model": {"name": "some/model", "revision": "a" * 40, "manifest": "x.yaml"},
    "engine": {"port": 8123, "extra_args": ["--seed=1"], "api_key": {"env": "NODE_KEY"}},
})]
"""


@given(st.integers(1, 40))
def test_each_pair_has_both_and_a_steady_drift_cancels(pairs: int) -> None:
    sides = order(pairs)
    assert all(sorted(sides[i : i + 2]) == ["A", "B"] for i in range(0, 2 * pairs, 2))
    places = {side: sum(i for i, each in enumerate(sides) if each == side) for side in "AB"}
    assert abs(places["A"] - places["B"]) <= 1
    assert sum(a != b for a, b in itertools.pairwise(sides)) == pairs


def test_the_engine_is_switched_and_the_difference_is_found(tmp_path: Path) -> None:
    said: list[str] = []
    calls: list[str] = []

    async def both() -> Any:
        model = Known(first_s=0.02, token_s=0.001)

        def switch(side: str) -> None:
            calls.append(side)
            model.token_s = 0.001 if side == "A" else 0.0015

        async with serving(model) as url:
            given = plan(tmp_path, 10, window_s=1.5)
            return await run_plans(Endpoint(url), given, "closed", 2, 4, switch, {"A": [], "B": ["x"]}, said.append)

    result = run(both())
    assert calls == list("ABABAB")
    assert [block["side"] for block in result["steps"]] == list("BAABBAAB")
    tpot = result["comparison"]["changes"]["tpot_ms.p50"]
    assert tpot["verdict"] == "higher" and tpot["percent"] == pytest.approx(50, abs=3)
    assert result["plans"] == {"A": [], "B": ["x"]} and [s["to"] for s in result["switches"]] == calls
    assert "plan B is in service" in " ".join(said)
    page = html_page(json.loads(json.dumps(result)))
    assert "<b>A</b>: the host’s own plan" in page and "<b>B</b>: x" in page
    assert "Throughput over time, B shaded" in page and page.count('class="band"') == 4
    assert f"{result['started'][:10]} {result['started'][11:16]} UTC" in page


@pytest.mark.parametrize(
    "word, what",
    [
        ("engine.port", "is not KEY=VALUE"),
        ("driver.branch=580", "no setting of the engine"),
        ("engine=1", "no setting of the engine"),
        ("engine.extra_args=[a", "not YAML"),
    ],
)
def test_what_is_no_plan_is_refused(word: str, what: str) -> None:
    with pytest.raises(MetalserveError, match=what):
        overrides_of([word], "--b")


def test_a_plan_is_laid_over_and_the_hosts_own_stays_as_it_is() -> None:
    data = {"engine": {"port": 1, "limits": {"x": 1}}, "model": {}}
    over = overrides_of(["engine.max_model_len=8192", "engine.limits.y=[a, b]"], "--a")
    assert laid_over(data, over) == {"engine": {"port": 1, "limits": {"x": 1, "y": ["a", "b"]}, "max_model_len": 8192}}
    assert data["engine"] == {"port": 1, "limits": {"x": 1}}
    assert laid_over(data, {}) == {"engine": data["engine"]}


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    path = tmp_path / "fleet.py"
    path.write_text(INVENTORY)
    return path


def command(inventory: Path, tmp_path: Path, *words: str) -> Any:
    given = ["plans", str(inventory), "node7", "--clients", "2", "--out", str(tmp_path / "r.json"), *words]
    return CliRunner().invoke(bench.command, given, standalone_mode=False)


def test_an_inventory_is_read_apart_and_says_what_is_wrong(inventory: Path) -> None:
    ((name, data),) = load_apart(str(inventory))
    assert name == "node7" and data["engine"]["port"] == 8123
    inventory.write_text("nodes = [")
    with pytest.raises(MetalserveError, match="never closed"):
        load_apart(str(inventory))


def test_nothing_happens_without_yes_or_for_wrong_plans(
    inventory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: object, **more: object) -> Outcome:
        raise AssertionError("a host was touched")

    monkeypatch.setattr(bench_plans, "run_pyinfra", never)
    asked = command(inventory, tmp_path, "--b", "engine.max_model_len=4096")
    assert asked.return_value == 3 and "about 6 times" in asked.output
    assert "the same" in str(command(inventory, tmp_path, "--yes").exception)
    wrong = command(inventory, tmp_path, "--b", "engine.max_model_lenn=4096", "--yes")
    assert "max_model_lenn" in str(wrong.exception)


def test_the_own_plan_is_put_back_when_a_plan_does_not_start(
    inventory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NODE_KEY", "k" * 20)
    made: list[tuple[dict[str, str], bool]] = []

    def job(path: str, deploy: str, hosts: list[str], **more: Any) -> Outcome:
        made.append((more["data"], more["dry"]))
        return Outcome(1 if "4096" in more["data"].get("engine", "") and not more["dry"] else 0, False, None)

    monkeypatch.setattr(bench_plans, "run_pyinfra", job)

    async def reached(*_: object) -> Any:
        class Found:
            endpoint = Endpoint("http://x")

        return Found()

    monkeypatch.setattr("metalserve.loading.switching.ready_of", reached)
    failed = command(inventory, tmp_path, "--b", "engine.max_model_len=4096", "--yes")
    assert "main job ended with status 1" in str(failed.exception)
    assert [dry for _, dry in made] == [True, True, False, False, False]
    assert made[-1][0] == {}, "the inventory's own plan, without anything laid over it"
    assert json.loads(made[0][0]["engine"])["extra_args"] == ["--seed=1"]
    assert "k" * 20 not in repr(made)
