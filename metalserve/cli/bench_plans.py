"""`metalserve bench plans`: one node under two launch plans in turn."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click

from metalserve.addresses import EVERYWHERE
from metalserve.benching import compare as comparing
from metalserve.benching.overrides import laid_over, overrides_of
from metalserve.cli.bench_options import loaded, plan_of
from metalserve.cli.bench_out import keep, one_load
from metalserve.errors import MetalserveError
from metalserve.loading.client import Endpoint
from metalserve.loading.run import run as run_to_end
from metalserve.loading.switching import run_plans
from metalserve.pyinfra_seam.cli_run import Outcome, run_pyinfra
from metalserve.pyinfra_seam.inventory import load_apart
from metalserve.secrets import resolve
from metalserve.settings import HostSettings

DEPLOY = "deploys/gpu_node.py"


@click.command("plans")
@click.argument("node_inventory", metavar="INVENTORY")
@click.argument("host")
@click.option(
    "--a", "a", multiple=True, metavar="KEY=VALUE", help="Plan A: settings of the engine laid over the host's."
)
@click.option("--b", "b", multiple=True, metavar="KEY=VALUE", help="Plan B; without any it is the host's own plan.")
@click.option("--clients", type=click.IntRange(1), help="Clients, each with one request at a time.")
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Requests/s instead (open loop).")
@click.option("--pairs", type=click.IntRange(3), default=4, show_default=True, help="Blocks of each plan.")
@click.option("--url", help="Where the node answers; without it the host's address and the engine's first port.")
@click.option("--yes", is_flag=True, help="Do it: the node's engine is replaced again and again meanwhile.")
@loaded(window_s=60)
def plans(
    node_inventory: str, host: str, a: tuple[str, ...], b: tuple[str, ...], clients: int | None, rate: float | None,
    pairs: int, url: str | None, yes: bool, **given: Any,
) -> int:  # fmt: skip
    """Load HOST under two launch plans in turn, B A A B ..., and say how B differs, with 95 % intervals.

    A plan is settings of the engine laid over the host's own (`--b engine.extra_args=[--no-enable-prefix-caching]`,
    `--b engine.tensor_parallel=4`). Before the first block both are checked by a dry run and started once; between
    blocks the main job replaces the engine. At the end, also after Ctrl-C, the inventory's own plan is put back.
    Take the node out of the router first: its engine stops again and again. Without --yes it only says what it
    would do.
    """
    mode, load = one_load(clients, rate)
    data = _host_data(node_inventory, host)
    settings = {side: _plan(data, words, f"--{side.lower()}", host) for side, words in (("A", a), ("B", b))}
    if settings["A"] == settings["B"]:
        raise MetalserveError("the two plans are the same", where="--a, --b", remedy="give --b KEY=VALUE")
    for side, words in (("A", a), ("B", b)):
        click.echo(f"plan {side}: {' '.join(words) or 'the host’s own'}")
    if not yes:
        click.echo(f"would replace the engine of {host} about {pairs + 2} times, and put it back; --yes does it")
        return 3
    endpoint = _endpoint(HostSettings.from_data(data, host=host, source=node_inventory), data, host, url, given)

    def converge(section: Mapping[str, Any] | None, *, dry: bool = False) -> None:
        words = {name: json.dumps(value) for name, value in (section or {}).items()}
        outcome = run_pyinfra(node_inventory, DEPLOY, [host], quiet=True, data=words, dry=dry)
        if outcome.interrupted:
            raise KeyboardInterrupt
        if outcome.rc != 0:
            raise _failed(outcome, host, node_inventory)

    for side in "AB":
        converge(settings[side], dry=True)
    watched = {**given, "inventory": given["inventory"] or node_inventory, "hosts": given["hosts"] or (host,)}
    told = {"A": list(a), "B": list(b)}
    try:
        result = run_to_end(
            run_plans(endpoint, plan_of(watched), mode, load, pairs, lambda s: converge(settings[s]), told, click.echo)
        )
    finally:
        click.echo(f"putting {host}'s own plan back")
        converge(None)
    for line in comparing.words(result["comparison"]["changes"]):
        click.echo(line)
    return keep(result, given)


def _host_data(inventory: str, host: str) -> dict[str, Any]:
    for name, data in load_apart(inventory):
        if name == host:
            return data
    raise MetalserveError(f"no host {host}", where=inventory)


def _plan(data: Mapping[str, Any], words: tuple[str, ...], option: str, host: str) -> dict[str, Any]:
    """The sections of a plan; settings are checked before the host is touched."""
    sections = laid_over(data, overrides_of(words, option))
    HostSettings.from_data({**data, **sections}, host=host, source=option)
    return sections


def _endpoint(
    settings: HostSettings, data: Mapping[str, Any], host: str, url: str | None, given: Mapping[str, Any]
) -> Endpoint:
    if settings.model is None:
        raise MetalserveError("serves no model", where=host, remedy="give it `model` settings")
    engine = settings.engine
    address = engine.host if engine.host not in EVERYWHERE else data.get("ssh_hostname") or host
    address = f"[{address}]" if ":" in address else address
    key = resolve(engine.api_key).reveal() if engine.api_key is not None else None
    base = (url or f"http://{address}:{engine.port}").rstrip("/").removesuffix("/v1")
    return Endpoint(base, given["model"] or settings.model.served_as, key, exact=not given.get("natural_end", False))


def _failed(outcome: Outcome, host: str, inventory: str) -> MetalserveError:
    failure = outcome.report.hosts[host].failure if outcome.report and host in outcome.report.hosts else None
    what = failure.what if failure else f"the main job ended with status {outcome.rc}"
    return MetalserveError(what, where=host, remedy=f"pyinfra {inventory} {DEPLOY} --limit {host}")
