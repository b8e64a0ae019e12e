"""`metalserve weights`: manifests of models."""

from __future__ import annotations

import click

from metalserve.cli.weights_manifest import manifest


@click.group("weights")
def command() -> None:
    """Make manifests of models."""


command.add_command(manifest)
