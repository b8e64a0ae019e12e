"""`metalserve weights`: manifests of models, and the models on hosts."""

from __future__ import annotations

import click

from metalserve.cli import weights_loads
from metalserve.cli.weights_manifest import manifest


@click.group("weights")
def command() -> None:
    """Make manifests of models, and see to the models on hosts."""


command.add_command(manifest)
command.add_command(weights_loads.command)
