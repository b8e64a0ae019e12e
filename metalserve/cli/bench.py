"""`metalserve bench`: load an engine or a router, and read what came of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from metalserve.benching import compare as comparing
from metalserve.benching import vllm_bench
from metalserve.benching.document import read
from metalserve.benching.page import html_page
from metalserve.catalogue.workloads import load_workloads
from metalserve.cli import bench_plans
from metalserve.cli.bench_options import Floats, endpoint_of, loaded, plan_of, quality_options, url_argument
from metalserve.cli.bench_out import keep, one_load
from metalserve.errors import MetalserveError
from metalserve.loading.asking import run_quality
from metalserve.loading.run import run as run_to_end
from metalserve.loading.run import run_ab, run_steps, run_sustained
from metalserve.report.writing import write_whole

F = TypeVar("F", bound=Callable[..., Any])


@click.group("bench")
def command() -> None:
    """Load an engine or a router: its knee, its drift, one against another; what came of it as JSON and a page."""


@command.command("run")
@url_argument("url")
@click.option(
    "--clients", type=Floats(), metavar="N,N,...", help="Clients of each step; without it doubled to the knee."
)
@click.option("--rate", "rates", type=Floats(), metavar="R,R,...", help="Requests/s of each step instead (open loop).")
@click.option("--most", type=click.IntRange(1), default=512, show_default=True, help="Clients to double up to.")
@click.option("--gain", type=click.FloatRange(0.01, 0.9), default=0.2, show_default=True,
              help="What another client must add to pay, of what the first gave.")  # fmt: skip
@loaded(window_s=60)
def run(url: str, clients: list[float] | None, rates: list[float] | None, most: int, **given: Any) -> int:
    """Step the load on URL up and find the knee: where another client adds little, or an objective breaks."""
    if clients and rates:
        raise click.UsageError("give either --clients (closed loop) or --rate (open loop)")
    loads = sorted(rates or clients or [])
    mode = "open" if rates else "closed"
    result = run_to_end(run_steps(endpoint_of(url, given), plan_of(given), mode, loads, most, click.echo))
    knee = result["knee"]
    click.echo(_knee_words(knee, "clients" if mode == "closed" else "requests/s"))
    return keep(result, given)


def _knee_words(knee: Mapping[str, Any], unit: str) -> str:
    if knee["load"] is None:
        return f"no knee: {knee['why']}"
    where = "knee" if knee["reached"] else "no knee up to"
    line = f"{where}: {knee['load']:g} {unit}; {knee['why']}"
    if knee["saturation"]:
        line += f"; saturation at {knee['saturation']:.1f} clients"
    return line + (f"; the objectives hold up to {knee['within']:g} {unit}" if knee["within"] is not None else "")


@command.command()
@url_argument("url")
@click.option("--clients", type=click.IntRange(1), help="Clients, each with one request at a time.")
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Requests/s instead (open loop).")
@click.option("--minutes", type=click.FloatRange(0.2), default=20.0, show_default=True, help="How long.")
@loaded()
def sustained(url: str, clients: int | None, rate: float | None, minutes: float, **given: Any) -> int:
    """Keep one load on URL, and say whether its last minutes were slower than its first, and why.

    With --inventory the GPUs are watched meanwhile: a drift is tied to what held their clocks down.
    """
    mode, load = one_load(clients, rate)
    plan = plan_of({**given, "window_s": 60 * minutes})
    result = run_to_end(run_sustained(endpoint_of(url, given), plan, mode, load, click.echo))
    for line in result["drift"]["says"]:
        click.echo(line)
    return keep(result, given)


@command.command()
@url_argument("a")
@url_argument("b")
@click.option("--clients", type=click.IntRange(1), help="Clients, each with one request at a time.")
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Requests/s instead (open loop).")
@click.option("--pairs", type=click.IntRange(3), default=6, show_default=True, help="Blocks of each side.")
@click.option("--model-b", default="", help="Served name at B, where it serves several.")
@click.option("--metrics-b", multiple=True, metavar="URL", help="Engine whose /metrics count B's tokens; repeatable.")
@loaded(window_s=60)
def ab(
    a: str, b: str, clients: int | None, rate: float | None, pairs: int, model_b: str, metrics_b: tuple[str, ...],
    **given: Any,
) -> int:  # fmt: skip
    """Load the endpoints A and B in turn, A B B A ..., and say how B differs, with 95 % intervals."""
    mode, load = one_load(clients, rate)
    other = {**given, "model": model_b or given["model"], "metrics": metrics_b}
    result = run_to_end(
        run_ab(endpoint_of(a, given), endpoint_of(b, other), plan_of(given), mode, load, pairs, click.echo)
    )
    for line in comparing.words(result["comparison"]["changes"]):
        click.echo(line)
    return keep(result, given)


@command.command()
@url_argument("a")
@url_argument("b")
@quality_options
def quality(a: str, b: str, count: int, max_tokens: int, model_b: str, **given: Any) -> int:
    """Ask A and B questions with one right answer each; say whether B is worse, or that these cannot tell.

    A is the plan that is trusted (BF16), B the one in question (FP8). Exit status 1 when B is worse.
    """
    ends = endpoint_of(a, given), endpoint_of(b, {**given, "model": model_b or given["model"]})
    result = run_to_end(
        run_quality(*ends, count=count, seed=given["seed"], max_tokens=max_tokens, insecure=given["insecure"])
    )
    click.echo(result["judgement"]["says"])
    for error in result["errors"]:
        click.echo(f"metalserve: {error}", err=True)
    keep(result, given)
    return 1 if result["judgement"]["verdict"] in ("worse", "unknown") else 0


@command.command()
@click.argument("a", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("b", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def compare(a: Path, b: Path, as_json: bool) -> int:
    """Compare two results load by load: change from A to B with its 95 % interval (bootstrap)."""
    found = comparing.compare_steps(read(a, "steps", "sustained"), read(b, "steps", "sustained"))
    if as_json:
        click.echo(json.dumps({"schema": 1, "a": str(a), "b": str(b), "loads": found}, indent=1))
        return 0
    for each in found:
        click.echo(f"{each['load']:g} {'clients' if each['mode'] == 'closed' else 'requests/s'}")
        for line in comparing.words(each["changes"]):
            click.echo(f"  {line}")
    click.echo(
        "two runs at two times: what changed between them besides A and B is in the difference too (see bench ab)"
    )
    return 0


@command.command()
@click.argument("result", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Where to; without it beside the result.")
def page(result: Path, out: Path | None) -> int:
    """Write a result as an HTML page."""
    target = out or result.with_suffix(".html")
    write_whole(target, html_page(read(result)).encode())
    click.echo(str(target))
    return 0


@command.command("workloads")
def workloads() -> int:
    """List the workloads: lengths in tokens, and where they come from."""
    for name, shape in load_workloads().items():
        click.echo(f"{name}: {json.dumps(shape.model_dump(exclude={'name', 'source'}))}\n  {shape.source}")
    return 0


@command.command("vllm")
@url_argument("url")
@click.option("--model", required=True, help="Served name.")
@click.option("--tokenizer", required=True, help="The model's directory on the host.")
@click.option("--image", required=True, help="The engine's image.")
@click.option("--clients", type=click.IntRange(1), required=True, help="Requests at once.")
@click.option(
    "--prompt-tokens", "prompt", type=click.IntRange(1), default=1024, show_default=True, help="Of each prompt."
)
@click.option(
    "--answer-tokens", "answer", type=click.IntRange(1), default=256, show_default=True, help="Of each answer."
)
@click.option("--requests", type=click.IntRange(1), default=500, show_default=True, help="How many in all.")
@click.option("--results", default="/tmp/metalserve-bench", show_default=True, help="Directory on the host.")  # noqa: S108
def vllm(
    url: str,
    model: str,
    tokenizer: str,
    image: str,
    clients: int,
    prompt: int,
    answer: int,
    requests: int,
    results: str,
) -> int:
    """Print the command that runs vLLM's own generator on the engine's host, in the engine's image."""
    import shlex

    words = vllm_bench.command(
        url, model, tokenizer, image, results, clients=clients, prompt=prompt, answer=answer, requests=requests
    )
    click.echo(shlex.join(words))
    return 0


@command.command("import")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="Where to write the result."
)
def import_(files: tuple[Path, ...], out: Path) -> int:
    """Make a result of files that `vllm bench serve` wrote, one a load."""
    told = []
    for file in files:
        try:
            told.append((str(file), json.loads(file.read_text(encoding="utf-8"))))
        except (OSError, ValueError) as error:
            raise MetalserveError(f"cannot be read: {error}", where=str(file)) from error
    result = vllm_bench.result_of(told)
    click.echo(_knee_words(result["knee"], "clients" if result["steps"][0]["mode"] == "closed" else "requests/s"))
    return keep(result, {"out": out, "html": None})


command.add_command(bench_plans.plans)
