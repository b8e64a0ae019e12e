"""`metalserve template verify`: signature, every file, and the uncompressed disk of a build."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from metalserve.cli.templates_shared import json_option, key_option, the_shelf
from metalserve.errors import MetalserveError
from metalserve.templates.check import verify_build
from metalserve.templates.manifest import Manifest
from metalserve.templates.shelf import Build
from metalserve.templates.signing import TrustedKey, trusted_keys


@click.command("verify")
@click.argument("name")
@click.argument("build", default="latest")
@click.option("--all", "every", is_flag=True, help="Every build of the template.")
@click.option("--quick", is_flag=True, help="Leave out uncompressing the disk.")
@key_option
@json_option
def command(name: str, build: str, every: bool, quick: bool, keys: tuple[Path, ...], as_json: bool) -> int:
    """Verify BUILD (a name, stable, candidate, latest) of template NAME to its last byte.

    Exit status 1 when anything is not as its signed manifest says; the first such thing is told.
    """
    shelf, trusted = the_shelf(), trusted_keys(keys)
    builds = shelf.builds(name) if every else []
    results = [_verified(each, trusted, raw=not quick) for each in builds or [shelf.build(name, build)]]
    if as_json:
        click.echo(json.dumps([result for result, _ in results], indent=1))
    else:
        for result, words in results:
            click.echo(words, err=not result["ok"])
    return 0 if all(result["ok"] for result, _ in results) else 1


def _verified(build: Build, keys: list[TrustedKey], *, raw: bool) -> tuple[dict[str, object], str]:
    where, begun = f"{build.name}/{build.build}", time.monotonic()
    try:
        with build.hold() as directory:
            manifest = _with_progress(directory, keys, raw=raw)
    except MetalserveError as error:
        return {"build": where, "ok": False, "problem": str(error)}, f"{where}: refused: {error}"
    seconds = round(time.monotonic() - begun, 1)
    disk = "and its disk" if raw else "but not its disk uncompressed"
    words = f"{where}: as it was signed: {len(manifest.files)} files {disk}, in {seconds} s"
    return {"build": where, "ok": True, "disk": raw, "files": len(manifest.files), "seconds": seconds}, words


def _with_progress(directory: Path, keys: list[TrustedKey], *, raw: bool) -> Manifest:
    if not sys.stderr.isatty():
        return verify_build(directory, keys, raw=raw)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("verifying", total=None)
        return verify_build(directory, keys, raw=raw, advance=lambda count: progress.advance(task, count))
