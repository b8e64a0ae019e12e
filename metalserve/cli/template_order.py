"""`metalserve template order`: orders to install a build on a machine."""

from __future__ import annotations

import json
from datetime import timedelta

import click

from metalserve.errors import MetalserveError
from metalserve.paths import templates_directory
from metalserve.templates.machine_identity import Identity
from metalserve.templates.order import Order
from metalserve.templates.orders import Orders
from metalserve.templates.shelf import Shelf


@click.group("order")
def command() -> None:
    """Orders to install a build: one machine, one disk, one permission each."""


def _orders() -> Orders:
    return Orders(templates_directory() / "orders")


@command.command()
@click.argument("node")
@click.argument("template")
@click.argument("build", default="stable")
@click.option("--disk", required=True, metavar="SERIAL", help="Serial number of the disk that is written.")
@click.option("--serial", metavar="SERIAL", help="Serial number of the machine, as its BMC shows it.")
@click.option("--uuid", metavar="UUID", help="UUID of the machine.")
@click.option("--mac", "macs", multiple=True, metavar="MAC", help="Its Ethernet address; repeatable.")
@click.option("--hours", type=click.FloatRange(0.1, 720), default=24.0, show_default=True, help="How long it waits.")
@click.option("--replace", is_flag=True, help="Also when an order for the node is under way.")
@click.option("--yes", is_flag=True, help="Yes, everything on that disk is to be lost.")
def place(
    node: str,
    template: str,
    build: str,
    disk: str,
    serial: str | None,
    uuid: str | None,
    macs: tuple[str, ...],
    hours: float,
    replace: bool,
    yes: bool,
) -> int:
    """Order BUILD (a name, stable, candidate or latest) of TEMPLATE for NODE; says what is lost, and wants --yes.

    Exit status: 0 placed; 1 refused; 3 --yes is wanted.
    """
    found = Shelf(templates_directory() / "shelf").build(template, build)
    identity = Identity.model_validate({"serial": serial, "uuid": uuid, "macs": macs})
    words = f"{node} ({identity}): disk {disk} is wiped and written with {template} {found.build}"
    if not yes:
        click.echo(f"{words} -> say --yes", err=True)
        return 3
    order = _orders().place(
        node,
        identity=identity,
        template=template,
        build=found.build,
        disk_serial=disk,
        life=timedelta(hours=hours),
        replace=replace,
    )
    click.echo(f"{words} when it next boots the installer, until {order.expires_at:%Y-%m-%d %H:%M} UTC")
    return 0


@command.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON (no tokens).")
def show(as_json: bool) -> int:
    """Show all orders. Exit status 1 when one has failed."""
    orders = _orders().all()
    if as_json:
        rows = [order.model_dump(mode="json", by_alias=True, exclude={"token"}) for order in orders]
        click.echo(json.dumps({"schema": 1, "orders": rows}, indent=1))
    else:
        for order in orders:
            click.echo(_line(order))
    return 1 if any(order.state == "failed" for order in orders) else 0


@command.command()
@click.argument("node")
def withdraw(node: str) -> None:
    """Withdraw the order for NODE, while its machine has not asked for it."""
    if not _orders().withdraw(node):
        raise MetalserveError("has no order that waits", where=node)
    click.echo(f"{node}: withdrawn")


def _line(order: Order) -> str:
    when = order.ended_at or order.permitted_at or order.ordered_at
    return f"{order.node}\t{order.state}\t{when:%Y-%m-%d %H:%M}\t{order.template} {order.build}\t{order.words}"
