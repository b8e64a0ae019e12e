"""`metalserve weights`: manifests of models, and the models on the hosts."""

from __future__ import annotations

from pathlib import Path

import click

from metalserve.cli import weights_hosts, weights_stage, weights_torrent
from metalserve.weights.manifest import manifest_from_directory, write_manifest


@click.group("weights")
def command() -> None:
    """Make manifests of models; stage models onto hosts, watch, check, mend and clear them there."""


@command.command("manifest")
@click.option("--from", "directory", required=True, help="Directory that holds the files of one commit.")
@click.option("--repository", required=True, help="Repository id, ORGANISATION/NAME.")
@click.option("--revision", required=True, help="The commit the files are of, 40 hexadecimal digits.")
@click.option("--output", required=True, help="YAML file to write; replaced when it exists.")
def manifest(directory: str, repository: str, revision: str, output: str) -> None:
    """Hash a directory into a manifest.

    That the files are of REVISION cannot be seen from them: fetch exactly that commit.
    """
    made = manifest_from_directory(directory, repository, revision)
    write_manifest(made, Path(output))
    click.echo(f"{output}: {len(made.files)} files, {made.total / 2**30:.2f} GiB, of {repository} at {revision}")


for each in (weights_stage.command, weights_torrent.command, *weights_hosts.COMMANDS):
    command.add_command(each)
