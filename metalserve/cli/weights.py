"""`metalserve weights`: manifests of models, and the models on hosts."""

from __future__ import annotations

import click

from metalserve.cli import weights_hosts, weights_loads, weights_stage, weights_torrent
from metalserve.cli.weights_manifest import manifest


@click.group("weights")
def command() -> None:
    """Make manifests of models; stage models onto hosts, watch, check, mend and clear them there."""


for each in (
    manifest,
    weights_stage.command,
    weights_torrent.command,
    weights_loads.command,
    *weights_hosts.COMMANDS,
):
    command.add_command(each)
