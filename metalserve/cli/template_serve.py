"""`metalserve template serve`: the boot server."""

from __future__ import annotations

from pathlib import Path

import click

from metalserve.paths import templates_directory
from metalserve.templates.orders import Orders
from metalserve.templates.serving import Served, boot_server
from metalserve.templates.signing import trusted_keys


@click.command("serve")
@click.option("--address", default="0.0.0.0", show_default=True, help="Where it listens.")  # noqa: S104
@click.option("--port", type=click.IntRange(0, 65535), default=8088, show_default=True, help="Its port.")
@click.option("--url", default="", metavar="URL", help="Its URL for machines, unless they ask by it.")
@click.option("--key", "keys", multiple=True, type=click.Path(path_type=Path), help="Public key; repeatable.")
@click.option("--boot", type=click.Path(path_type=Path), help="The boot tree (boot/ beside the shelf unless given).")
@click.option("--arguments", default="console=tty0 console=ttyS0,115200", show_default=True, help="Kernel arguments.")
def command(address: str, port: int, url: str, keys: tuple[Path, ...], boot: Path | None, arguments: str) -> None:
    """Serve machines that boot from the network: what to boot, the one permission to write, images.

    It ends with Ctrl-C. Each request is a line of JSON. It asks nobody to log in: let it listen on the provisioning
    network alone.
    """
    home = templates_directory()
    served = Served(
        shelf=home / "shelf",
        orders=Orders(home / "orders"),
        keys=tuple(trusted_keys(keys)),
        boot=(boot or home / "boot").absolute(),
        url=url,
        arguments=arguments,
    )
    with boot_server(served, address, port) as server:
        click.echo(f"serving on {address}:{server.server_address[1]}", err=True)
        server.serve_forever()
