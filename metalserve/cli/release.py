"""`metalserve release`: the pinned sets of versions, and whether they fit together."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import click
from rich.console import Console
from rich.table import Table

from metalserve.catalogue.loader import load_cuda_drivers
from metalserve.releases import Release, ReleaseError, check_release, load_release, release_names, release_warnings


@click.group("release")
def command() -> None:
    """List, show and check releases."""


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_releases(as_json: bool) -> None:
    """List every release with its main versions."""
    releases = [load_release(name) for name in release_names()]
    if as_json:
        click.echo(json.dumps([release.model_dump(mode="json") for release in releases], indent=2))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("release", no_wrap=True)
    for column in ("driver", "CUDA", "vLLM", "supported until"):
        table.add_column(column, no_wrap=True)
    for release in releases:
        end = str(release.end_of_life or "unknown")
        table.add_row(release.name, release.driver.version, release.cuda.toolkit, release.vllm.version, end)
    Console().print(table)
    for release in releases:
        Console().print(f"\n[bold]{release.name}[/]: {release.description}", highlight=False)


@command.command("show")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(name: str, as_json: bool) -> None:
    """Show the versions of release NAME and where they come from."""
    release = load_release(name)
    if as_json:
        click.echo(json.dumps({**release.model_dump(mode="json"), "image": release.image}, indent=2))
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in _lines(release):
        table.add_row(label, value)
    Console().print(table)


def _lines(release: Release) -> list[tuple[str, str]]:
    cdi = f"{release.docker.minimum} or newer; CDI devices from {release.docker.cdi_minimum} on"
    return [
        ("release", release.name),
        ("what for", release.description),
        ("kept from", str(release.kept_from)),
        ("supported until", str(release.end_of_life or "unknown")),
        ("driver", f"{release.driver.version} (branch {release.driver.branch})"),
        ("fabric manager", release.fabric_manager.version),
        ("CUDA toolkit", f"{release.cuda.toolkit} (only where cuda.toolkit is set)"),
        ("container toolkit", release.container_toolkit.version),
        ("DCGM", release.dcgm.version),
        ("Docker", cdi),
        ("vLLM", f"{release.vllm.version}, CUDA {release.vllm.cuda}"),
        ("image", release.image),
        *(("source" if index == 0 else "", source) for index, source in enumerate(release.sources)),
    ]


@command.command("check")
@click.argument("name", required=False)
def check(name: str | None) -> None:
    """Check that the versions of release NAME (or of every release) fit together.

    Exits with 1 when a release is refused; warnings alone leave 0.
    """
    names = [name] if name else release_names()
    if not names:
        raise ReleaseError("there are none", where="releases", remedy="files/releases holds them")
    today = datetime.now(UTC).date()
    failed = False
    for each in names:
        try:
            release = load_release(each)
        except ReleaseError as error:
            click.echo(f"{each}: refused: {error}", err=True)
            failed = True
            continue
        problems = check_release(release, load_cuda_drivers())
        for problem in problems:
            click.echo(f"{each}: refused: {problem}", err=True)
        for warning in release_warnings(release, load_cuda_drivers(), today=today):
            click.echo(f"{each}: warning: {warning}", err=True)
        if not problems:
            click.echo(f"{each}: versions fit together")
        failed = failed or bool(problems)
    if failed:
        raise click.exceptions.Exit(1)
