"""`metalserve template promote`: points a channel at a build."""

from __future__ import annotations

import json
from pathlib import Path

import click

from metalserve.cli.templates_shared import json_option, key_option, the_shelf
from metalserve.templates.shelf import CHANNELS, Channel
from metalserve.templates.signing import trusted_keys, verified_manifest


@click.command("promote")
@click.argument("name")
@click.argument("build", required=False)
@click.option(
    "--to", "channel", type=click.Choice(CHANNELS), default="stable", show_default=True, help="Channel that moves."
)
@key_option
@json_option
def command(name: str, build: str | None, channel: Channel, keys: tuple[Path, ...], as_json: bool) -> None:
    """Point a channel of template NAME at BUILD: a name, candidate, latest.

    When not given, `stable` takes the candidate, and `candidate` the newest build. An older build may be named: that is
    how one goes back. The signature is verified first.
    """
    shelf = the_shelf()
    before = shelf.channels(name).get(channel)
    chosen = shelf.build(name, build or ("candidate" if channel == "stable" else "latest"))
    verified_manifest(chosen.path, trusted_keys(keys))
    now = shelf.promote(name, chosen.build, channel)
    if as_json:
        click.echo(json.dumps({"name": name, "channel": channel, "before": before, "build": now.build}))
    elif before == now.build:
        click.echo(f"{name}: {channel} is {now.build} already")
    else:
        click.echo(f"{name}: {channel} is {now.build} now (before: {before or 'none'})")
