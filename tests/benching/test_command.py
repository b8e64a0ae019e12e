"""The command line, the page, comparisons, and vLLM's own results."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from metalserve.benching import compare, vllm_bench
from metalserve.benching.document import read, write
from metalserve.benching.page import html_page
from metalserve.catalogue.clock_reasons import load_clock_reasons, reasons_of
from metalserve.cli import main
from metalserve.cli.bench import command
from metalserve.errors import MetalserveError
from metalserve.loading.client import Endpoint
from metalserve.loading.run import Plan, run_steps
from metalserve.paths import ROOT
from tests.benching.standin import Known, run, serving
from tests.benching.test_drift_quality import watched

VLLM = {
    "date": "20261123-113144", "backend": "openai", "model_id": "tiny", "request_rate": "inf", "max_concurrency": 8,
    "duration": 0.374, "completed": 40, "failed": 0, "total_input_tokens": 2569, "total_output_tokens": 640,
    "request_throughput": 107.0, "output_throughput": 1712.4,
    **{f"{point}_{name}_ms": 10.0 for name in ("ttft", "tpot", "itl", "e2el")
       for point in ("mean", "p50", "p90", "p95", "p99")},
}  # fmt: skip
"""As vLLM 0.32 writes it with --save-result."""


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return measured(tmp_path_factory.mktemp("run"), 0.002)


def measured(place: Path, token_s: float, loads: tuple[float, ...] = (1, 4, 8)) -> dict[str, Any]:
    requests = place / "requests.jsonl"
    requests.write_text(json.dumps({"prompt": "<b>one</b> two", "max_tokens": 8}))

    async def go() -> Any:
        async with serving(Known(slots=4, token_s=token_s)) as url:
            plan = Plan(jsonl=requests, warmup_s=0.2, window_s=4.0, ttft_ms=60)
            return await run_steps(Endpoint(url), plan, "closed", loads, 8, lambda _: None)

    found: dict[str, Any] = run(go())
    return found


class Tags(HTMLParser):
    """Whether every tag that is opened is closed."""

    VOID = ("meta", "path", "circle", "rect", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_page_stands_alone_and_shows_the_knee(result: dict[str, Any]) -> None:
    row = {"node": "a<script>", "gpus": watched(hot=True)[-1]["gpus"], "state": "ok"}
    page = html_page({**result, "telemetry": [{"t_s": float(t), **row} for t in range(12)]})
    tags = Tags()
    tags.feed(page)
    assert tags.open == [] and tags.seen.count("svg") == 8 and "script" not in tags.seen
    assert "knee: 4" in page and "SIMULATED" in page and "objective 60 ms" in page
    assert 'class="bad"' in page and "a&lt;script&gt; GPU 3" in page
    assert not re.search(r"(src|href)=|https?://(?!127)", page.replace(result["endpoint"]["url"], ""))
    assert "nan" not in page.lower().replace("quantitative", "") and "None" not in page


def test_results_are_read_back_whole_or_refused(result: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    write(path, result)
    assert read(path, "steps") == json.loads(json.dumps(result))
    with pytest.raises(MetalserveError, match="kind 'steps', needed is quality"):
        read(path, "quality")
    path.write_text(json.dumps({**result, "schema": 9}))
    with pytest.raises(MetalserveError, match="schema 9"):
        read(path)
    path.write_text("[]")
    with pytest.raises(MetalserveError, match="no result"):
        read(path)


def test_every_field_of_a_result_is_described(result: dict[str, Any]) -> None:
    text = (ROOT / "docs/bench-schema.md").read_text()
    described = set(re.findall(r"`([a-z_0-9]+)`", text))
    assert set(result) <= described
    assert set(result["steps"][0]) | set(result["knee"]) <= described
    assert set(result["steps"][0]["samples"]) <= described


def test_two_runs_are_compared_load_by_load(result: dict[str, Any], tmp_path: Path) -> None:
    other = measured(tmp_path, 0.004, (4,))
    found = compare.compare_steps(result, other)
    assert [each["load"] for each in found] == [4]
    tpot = found[0]["changes"]["tpot_ms.p50"]
    assert tpot["verdict"] == "higher" and tpot["percent"] == pytest.approx(100, abs=3)
    assert found[0]["changes"]["output_tokens_s"]["verdict"] == "lower"
    assert compare.words(found[0]["changes"])[0].endswith("B is worse")
    same = compare.compare_steps(result, {**result, "steps": result["steps"][:1]})
    assert {each["verdict"] for load in same for each in load["changes"].values()} == {"cannot tell"}
    with pytest.raises(MetalserveError, match="no load in common"):
        compare.compare_steps(result, {**other, "steps": [{**other["steps"][0], "load": 99}]})
    with pytest.raises(MetalserveError, match="the same workload"):
        compare.compare_steps(result, {**other, "workload": {"name": "x", "shape": {}}})


def test_vllms_own_results_become_ours(tmp_path: Path) -> None:
    files = []
    for clients, rate in ((1, 300.0), (8, 1712.4), (16, 1800.0)):
        path = tmp_path / f"{clients}.json"
        path.write_text(json.dumps({**VLLM, "max_concurrency": clients, "output_throughput": rate}))
        files.append(str(path))
    out = tmp_path / "ours.json"
    done = CliRunner().invoke(command, ["import", *files, "--out", str(out)])
    assert done.exit_code == 0 and "knee: 8 clients" in done.output, done.output
    told = read(out, "steps")
    assert [s["load"] for s in told["steps"]] == [1, 8, 16] and told["knee"]["saturation"] == 6
    assert told["workload"]["shape"] == {"input": 64, "output": 16}
    assert "Load test" in html_page(told)
    with pytest.raises(MetalserveError, match="no result of"):
        vllm_bench.result_of([("x", {"model_id": "a", "request_rate": "inf", "max_concurrency": 2})])


def test_the_command_for_vllms_generator_is_one_that_it_takes() -> None:
    words = vllm_bench.command(
        "http://n:8000", "m", "/models/m", "vllm/vllm-openai:v1", "/tmp/r", clients=8, prompt=64, answer=16, requests=40
    )
    assert words[:4] == ["docker", "run", "--rm", "--network"] and "--gpus" not in words
    assert " ".join(words).count("--max-concurrency 8") == 1 and "--ignore-eos" in words


@contextmanager
def in_a_thread(model: Known) -> Iterator[str]:
    """Serve in real time beside a command that has a loop of its own."""
    ready, stop, url = threading.Event(), threading.Event(), []

    async def serve() -> None:
        async with serving(model) as found:
            url.append(found)
            ready.set()
            while not stop.is_set():
                await asyncio.sleep(0.05)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(10)
    try:
        yield url[0]
    finally:
        stop.set()
        thread.join()


class RealKnown(Known):
    """Made before any loop runs."""

    def __post_init__(self) -> None:
        self.began = 0.0
        self._slots = asyncio.Semaphore(self.slots)


def test_the_command_writes_a_result_and_a_page(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out, html = tmp_path / "r.json", tmp_path / "r.html"
    with in_a_thread(RealKnown(first_s=0.02, token_s=0.001)) as url:
        words = ["bench", "run", f"{url}/v1", "--clients", "1,2", "--warmup", "0.1", "--window", "1", "--prompt-tokens",
                 "50", "--answer-tokens", "10", "--out", str(out), "--html", str(html)]  # fmt: skip
        assert main(words) == 0
    told = capfd.readouterr()
    assert "2 clients: " in told.out and "simulated: true" in told.err
    assert [step["counters_agree"] for step in read(out)["steps"]] == [True, True]
    assert "<svg" in html.read_text() and out.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "10.0.0.1:8000"], "must begin with http"),
        (["run", "http://a:b@c"], "must not carry a password"),
        (["run", "http://c", "--clients", "1", "--rate", "2"], "either --clients"),
        (["run", "http://c", "--clients", "1,x"], "no list of numbers"),
        (["sustained", "http://c"], "either --clients"),
        (["run", "http://c", "--host", "a"], "--host needs --inventory"),
        (["quality", "http://a", "http://b", "--questions", "10"], "60"),
    ],
)
def test_wrong_usage_is_refused_before_anything_is_sent(words: list[str], said: str) -> None:
    done = CliRunner().invoke(command, words)
    assert done.exit_code == 2 and said in done.output


def test_a_key_comes_from_the_environment_and_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    done = CliRunner().invoke(command, ["run", "http://c", "--key-env", "NO_SUCH"])
    assert isinstance(done.exception, MetalserveError) and "NO_SUCH" in str(done.exception)
    assert "hunter2" not in repr(Endpoint("http://c", key="hunter2"))


def test_clock_reasons_have_each_bit_once_and_the_bad_ones_are_those_of_the_checks() -> None:
    from metalserve.verify.thermal import BAD_REASONS

    rows = load_clock_reasons()
    assert len({row.bit for row in rows}) == len({row.name for row in rows}) == len(rows) == 9
    assert {row.name for row in rows if row.kind == "bad"} == set(BAD_REASONS)
    assert sum(row.bit for row in rows if row.kind == "bad") == 0xE8
    assert [row.name for row in reasons_of(0x8C)] == ["hw_power_brake_slowdown", "hw_slowdown", "sw_power_cap"]
