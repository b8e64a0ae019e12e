"""`metalserve router`: take replicas out of the running routers and back in, and see how they are."""

from __future__ import annotations

import json
from collections.abc import Sequence

import click
from rich.console import Console
from rich.table import Table

from metalserve.errors import MetalserveError
from metalserve.pyinfra_seam import routers
from metalserve.routing.control import Answer

TIME_IS_UP, REFUSED = 3, 4


@click.group("router")
def command() -> None:
    """The running routers: drain a replica before it is stopped, enable it again, see all of them.

    A replica is named HOST:PORT; HOST alone means all engines of that host.
    """


@command.command()
@click.argument("inventory")
@click.argument("targets", nargs=-1, required=True, metavar="HOST[:PORT]...")
@click.option("--wait", "wait_s", type=click.IntRange(0), default=300, show_default=True, help="Seconds to wait.")
@click.option("--force", is_flag=True, help="Also when nothing else that is up serves the model.")
def drain(inventory: str, targets: tuple[str, ...], wait_s: int, force: bool) -> int:
    """Send no new requests to replicas, and wait until those that run have ended.

    It lasts until `enable`, also over a reload or restart of the router. Exit status: 0 nothing runs there any more;
    1 a router could not be asked; 3 requests still run after the wait; 4 refused, nothing else serves the model.
    """
    return _tell(routers.drain(inventory, targets, wait_s=wait_s, force=force), inventory)


@command.command()
@click.argument("inventory")
@click.argument("targets", nargs=-1, required=True, metavar="HOST[:PORT]...")
def enable(inventory: str, targets: tuple[str, ...]) -> int:
    """Send requests to replicas again, as soon as they give tokens."""
    return _tell(routers.enable(inventory, targets), inventory)


@command.command()
@click.argument("inventory")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(inventory: str, as_json: bool) -> int:
    """Show every replica of every router: state, requests, why it is out. Exit status 1 when a model has none up."""
    answers = _some(routers.status(inventory), inventory)
    if as_json:
        click.echo(json.dumps({"schema": 1, "routers": [_as_dict(answer) for answer in answers]}, indent=1))
    else:
        table = Table("router", "model's pool", box=None)
        table.add_column("replica", no_wrap=True)
        for column in ("state", "running", "waiting", "served"):
            table.add_column(column)
        for answer in answers:
            for each in answer.state.replicas:
                colour = {"up": "green", "drain": "yellow"}.get(each.status, "red")
                numbers = (str(each.requests), str(each.waiting), str(each.total))
                pool = each.pool.removeprefix("model-")
                table.add_row(answer.router, pool, each.name, f"[{colour}]{each.in_words()}[/]", *numbers)
        Console().print(table)
        for answer in answers:
            if not answer.state.replicas:
                click.echo(f"metalserve: {answer.router}: {answer.said or 'the router does not answer'}", err=True)
    return 0 if all(_serves(answer) for answer in answers) else 1


def _serves(answer: Answer) -> bool:
    pools = {each.pool for each in answer.state.replicas}
    return bool(pools) and all(any(each.up for each in answer.state.of(pool)) for pool in pools)


def _as_dict(answer: Answer) -> dict[str, object]:
    replicas = [
        {
            "pool": each.pool,
            "name": each.name,
            "state": each.status,
            "running": each.requests,
            "waiting": each.waiting,
            "served": each.total,
            "why": each.why,
        }
        for each in answer.state.replicas
    ]
    return {"router": answer.router, "configuration": answer.state.generation, "replicas": replicas}


def _some(answers: list[Answer], inventory: str) -> list[Answer]:
    if not answers:
        raise MetalserveError("no host has `router` settings", where=inventory, remedy="see roles/router/README.md")
    return answers


def _tell(answers: list[Answer], inventory: str) -> int:
    for answer in _some(answers, inventory):
        click.echo(f"{answer.router}: {answer.said}", err=answer.outcome != "done")
    return _exit_status([answer.outcome for answer in answers])


def _exit_status(outcomes: Sequence[str]) -> int:
    for outcome, status_ in (("failed", 1), ("refused", REFUSED), ("time is up", TIME_IS_UP)):
        if outcome in outcomes:
            return status_
    return 0
