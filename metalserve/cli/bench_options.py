"""Options that the commands of `metalserve bench` share, and what they become."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import click

from metalserve.catalogue.workloads import load_workloads
from metalserve.errors import MetalserveError
from metalserve.loading.client import Endpoint
from metalserve.loading.run import Plan, with_metrics

F = TypeVar("F", bound=Callable[..., Any])


class Floats(click.ParamType[list[float]]):
    """Numbers above 0, separated by commas."""

    name = "N,N,..."

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> list[float]:
        """Return the numbers."""
        if isinstance(value, list):
            return value
        try:
            found = [float(part) for part in str(value).split(",")]
        except ValueError:
            self.fail(f"{value!r} is no list of numbers", param, ctx)
        if min(found) <= 0:
            self.fail("must all be above 0", param, ctx)
        return found


def url_argument(name: str) -> Callable[[F], F]:
    """Return the argument for an endpoint's base URL."""
    return click.argument(name, callback=_url, metavar=name.upper() if len(name) > 1 else f"URL_{name.upper()}")


def _url(ctx: click.Context, param: click.Parameter, value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise click.BadParameter("must begin with http:// or https:// and name a server", ctx, param)
    if parts.username or parts.password:
        raise click.BadParameter("must not carry a password: use --key-env", ctx, param)
    return value.rstrip("/").removesuffix("/v1")


_ENDPOINT = (
    click.option("--model", default="", help="Served name; without it the first one that the endpoint serves."),
    click.option("--key-env", metavar="NAME", help="Environment variable with the API key."),
    click.option("--insecure", is_flag=True, help="Believe any TLS certificate."),
    click.option("--seed", type=int, default=1, show_default=True, help="Same seed, same requests."),
    click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default="reports/bench.json",
                 show_default=True, help="Where to write the result (JSON)."),
    click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write the page too."),
)  # fmt: skip

_LOAD = (
    click.option("--workload", type=click.Choice(list(load_workloads())), default="chat", show_default=True,
                 help="Shape of the requests, see `bench workloads`."),
    click.option("--jsonl", type=click.Path(exists=True, dir_okay=False, path_type=Path),
                 help="Your own requests: a JSON object a line with prompt or messages, and max_tokens."),
    click.option("--prompt-tokens", "prompt", type=click.IntRange(1), help="Median prompt instead of the workload's."),
    click.option("--answer-tokens", "answer", type=click.IntRange(1), help="Median answer instead of the workload's."),
    click.option("--natural-end", is_flag=True, help="Let answers end by themselves (no ignore_eos)."),
    click.option("--warmup", "warmup_s", type=click.FloatRange(0), default=10, show_default=True,
                 help="Seconds before each window, which do not count."),
    click.option("--arrivals", type=click.Choice(["constant", "poisson", "bursty"]),
                 help="Gaps of an open loop; without it the workload's."),
    click.option("--ttft", "ttft_ms", type=click.FloatRange(0, min_open=True),
                 help="Objective: p95 of the first token, ms."),
    click.option("--tpot", "tpot_ms", type=click.FloatRange(0, min_open=True), help="Objective: p95 a token, ms."),
    click.option("--metrics", multiple=True, metavar="URL",
                 help="Engine whose /metrics count the tokens, for a router; repeatable."),
    click.option("--inventory", help="Watch nodes of this inventory meanwhile, see `metalserve top`."),
    click.option("--host", "hosts", multiple=True, help="Which of its hosts or groups; repeatable."),
)  # fmt: skip


def loaded(window_s: float | None = None) -> Callable[[F], F]:
    """Return the options of a command that sends load; with `--window` where there is a default for it."""

    def decorate(function: F) -> F:
        for option in reversed((*_LOAD, *_ENDPOINT)):
            function = option(function)
        if window_s is not None:
            option = click.option("--window", "window_s", type=click.FloatRange(1), default=window_s, show_default=True,
                                  help="Seconds that count of each step.")  # fmt: skip
            function = option(function)
        return function

    return decorate


def quality_options(function: F) -> F:
    """Add the options of `bench quality`."""
    own = (
        click.option("--questions", "count", type=click.IntRange(60, 2000), default=240, show_default=True,
                     help="How many; more can tell smaller differences."),
        click.option("--max-tokens", type=click.IntRange(4), default=512, show_default=True, help="Of an answer."),
        click.option("--model-b", default="", help="Served name at B, where it serves several."),
    )  # fmt: skip
    for option in reversed((*own, *_ENDPOINT)):
        function = option(function)
    return function


def endpoint_of(url: str, given: Mapping[str, Any]) -> Endpoint:
    """Return the endpoint of a URL.

    Raises:
        MetalserveError: the variable of the key is not set.
    """
    key = None
    if given["key_env"]:
        key = os.environ.get(given["key_env"])
        if not key:
            raise MetalserveError("is not set", where=f"--key-env {given['key_env']}")
    endpoint = Endpoint(url, given["model"], key, exact=not given.get("natural_end", False))
    return with_metrics(endpoint, given["metrics"]) if given.get("metrics") else endpoint


def plan_of(given: Mapping[str, Any]) -> Plan:
    """Return the plan of a run."""
    if given["hosts"] and not given["inventory"]:
        raise click.UsageError("--host needs --inventory")
    names = ("workload", "jsonl", "prompt", "answer", "seed", "warmup_s", "window_s", "arrivals", "ttft_ms", "tpot_ms",
             "gain", "insecure", "inventory", "hosts")  # fmt: skip
    return Plan(**{name: given[name] for name in names if name in given})
