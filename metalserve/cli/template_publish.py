"""`metalserve template publish`: the boot tree, for network boot and virtual media."""

from __future__ import annotations

from pathlib import Path

import click

from metalserve.paths import templates_directory
from metalserve.templates.boot_tree import Site, publish
from metalserve.templates.ramdisk import ramdisk
from metalserve.templates.signing import trusted_keys
from metalserve.templates.toolroot import tool_root


@click.command("publish")
@click.option(
    "--url", required=True, metavar="URL", help="The boot server, as machines reach it: http://10.0.0.1:8088."
)
@click.option("--directory", type=click.Path(path_type=Path), help="Where (boot/ beside the shelf unless given).")
@click.option("--key", "keys", multiple=True, type=click.Path(path_type=Path), help="Public key; repeatable.")
@click.option("--interface", default="eth0", show_default=True, help="Of the DHCP server, for dnsmasq.conf.")
@click.option("--range", "dhcp_range", default="192.0.2.50,192.0.2.250,1h", show_default=True, help="Its addresses.")
@click.option("--arguments", default=Site.arguments, show_default=True, help="Further kernel arguments.")
@click.option("--secure-boot", is_flag=True, help="UEFI machines get the signed shim and GRUB instead of iPXE.")
def command(
    url: str,
    directory: Path | None,
    keys: tuple[Path, ...],
    interface: str,
    dhcp_range: str,
    arguments: str,
    secure_boot: bool,
) -> None:
    """Write what machines boot to be installed: iPXE and its script, the installer, an ISO for virtual media.

    The ISO starts with Secure Boot on and off. By network only shim and GRUB do (--secure-boot); iPXE is signed by
    nobody, and is the one that boots BIOS machines and UEFI's HTTP boot.

    The installer has the public keys built in and takes no image that none of them signed. `metalserve template serve`
    serves the tree; dnsmasq.conf in it is an example for the DHCP server.
    """
    target = (directory or templates_directory() / "boot").absolute()
    site = Site(url, interface, dhcp_range, arguments, secure_boot)
    trusted = trusted_keys(keys)
    publish(target, site, trusted, tool_root(), ramdisk())
    click.echo(f"{target}: boot tree for {url}, keys {', '.join(key.key_id for key in trusted)}")
