"""`metalserve template answers`: answers for a distribution's own installer."""

from __future__ import annotations

import json
from pathlib import Path

import click

from metalserve.cli.templates_shared import json_option
from metalserve.errors import MetalserveError
from metalserve.templates.answers import Target, answers
from metalserve.templates.manifest import write_whole
from metalserve.templates.spec import load_spec


@click.command("answers")
@click.argument("name")
@click.option("--hostname", required=True, metavar="NAME", help="Of the machine, without its domain.")
@click.option("--disk", required=True, metavar="SERIAL", help="Serial number of the disk that is wiped.")
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="Where the files go.")
@json_option
def command(name: str, hostname: str, disk: str, output: Path | None, as_json: bool) -> None:
    """Write the answers that install template NAME the distribution's own way, for sites that must do so.

    Ubuntu: user-data and meta-data of autoinstall; Debian: preseed.cfg; Rocky: ks.cfg. They wipe the disk with that
    serial number, make the users with their keys, and set up the first boot. Without --output they are printed.
    """
    files = answers(load_spec(name), Target(hostname, disk))
    if output is None:
        click.echo(json.dumps(files, indent=1) if as_json else "\n".join(files.values()), nl=as_json)
        return
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MetalserveError(f"cannot be made: {error.strerror}", where=str(output)) from error
    for file, text in files.items():
        write_whole(output / file, text.encode())
    paths = [str(output / file) for file in files]
    click.echo(json.dumps({"files": paths}) if as_json else "\n".join(paths))
