"""`metalserve template gc`: removes old builds."""

from __future__ import annotations

import json
from dataclasses import asdict

import click
from rich.console import Console

from metalserve.cli.templates_shared import json_option, megabytes, plain_table, the_shelf
from metalserve.paths import templates_directory
from metalserve.templates.orders import Orders


@click.command("gc")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--keep", type=click.IntRange(min=1), default=3, show_default=True, help="Newest builds that stay.")
@click.option("--yes", is_flag=True, help="Remove; otherwise only tell what would go.")
@json_option
def command(names: tuple[str, ...], keep: int, yes: bool, as_json: bool) -> int:
    """Remove old builds of the templates NAME (all when not given).

    The newest builds stay, those of channels, those in use, and those that an order is to install.
    Exit status 3 when something would go and --yes was not given.
    """
    shelf = the_shelf()
    orders = [order for order in Orders(templates_directory() / "orders").all() if order.state in _OPEN]
    removals = []
    for name in names or shelf.names():
        needed = {order.build for order in orders if order.template == name}
        removals.append(shelf.gc(name, keep=keep, needed=needed, yes=yes))
    would = any(removal.removed for removal in removals) and not yes
    if as_json:
        click.echo(json.dumps({"removed": yes, "templates": [asdict(each) for each in removals]}, indent=1))
        return 3 if would else 0
    table = plain_table("build", "template", "")
    for each in removals:
        for build, why in each.kept.items():
            table.add_row(build, each.name, f"stays: {why}")
        for build in each.removed:
            table.add_row(build, each.name, "removed" if yes else "[bold]would go[/]")
    if table.row_count:
        Console(highlight=False).print(table)
    freed = megabytes(sum(each.freed for each in removals))
    click.echo(f"{freed} freed" if yes else f"{freed} would be freed; --yes removes" if would else "nothing to remove")
    return 3 if would else 0


_OPEN = ("ordered", "permitted")
