"""`metalserve template list`: the templates, their builds and channels."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import click
from rich.console import Console

from metalserve.cli.templates_shared import json_option, megabytes, plain_table, the_shelf
from metalserve.errors import MetalserveError
from metalserve.templates.manifest import DISK, SIGNATURE, Manifest, checked_name
from metalserve.templates.shelf import Build, Shelf
from metalserve.templates.spec import known_specs


@click.command("list")
@click.argument("name", required=False)
@json_option
def command(name: str | None, as_json: bool) -> None:
    """List the templates and their newest build; with NAME all its builds. Nothing is verified by this."""
    shelf = the_shelf()
    if name is not None:
        builds = [_row(build) for build in shelf.builds(checked_name(name))]
        if as_json:
            click.echo(json.dumps(builds, indent=1))
        elif builds:
            _show_builds(name, builds)
        else:
            click.echo(f"{name} has no build -> `metalserve template build {name}`")
        return
    rows = [_template(shelf, each) for each in sorted({*known_specs(), *shelf.names()})]
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    table = plain_table("template", "builds", "newest", "candidate", "stable")
    for row in rows:
        cells = [_day(row[key]) for key in ("newest", "candidate", "stable")]
        table.add_row(row["name"], str(row["builds"]), *cells)
    Console().print(table)


def _template(shelf: Shelf, name: str) -> dict[str, Any]:
    builds, channels = shelf.builds(name), shelf.channels(name)
    newest = builds[-1].build if builds else None
    channel = {each: channels.get(each) for each in ("candidate", "stable")}
    return {"name": name, "builds": len(builds), "newest": newest, **channel}


def _row(build: Build) -> dict[str, Any]:
    try:
        manifest: Manifest | None = build.manifest
        problem = ""
    except MetalserveError as error:
        manifest, problem = None, error.what
    signed = (build.path / SIGNATURE).is_file()
    return {
        "name": build.name,
        "build": build.build,
        "channels": list(build.channels),
        "signed": signed,
        "problem": problem or ("" if signed else "is not signed"),
        "kernel": manifest.kernel.version if manifest else None,
        "release": manifest.release if manifest else None,
        "packages": manifest.packages if manifest else None,
        "raw_bytes": manifest.raw.size if manifest else None,
        "disk_bytes": manifest.files[DISK].size if manifest else None,
    }


def _show_builds(name: str, rows: list[dict[str, Any]]) -> None:
    table = plain_table("build", "channels", "kernel", "packages", "disk")
    for row in rows:
        state = ", ".join(row["channels"]) or "-"
        if row["problem"]:
            table.add_row(row["build"], state, f"[red]{row['problem']}[/]", "", "")
        else:
            table.add_row(row["build"], state, row["kernel"], str(row["packages"]), megabytes(row["disk_bytes"]))
    Console().print(f"[bold]{name}[/]", highlight=False)
    Console().print(table, highlight=False)


def _day(build: str | None) -> str:
    if build is None:
        return "-"
    return datetime.strptime(build.split("-")[0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).strftime("%Y-%m-%d %H:%M")
