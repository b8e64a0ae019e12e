"""`metalserve template rebuild`: builds templates again, with --if-stale only those that are, and says why."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from metalserve.cli.template_build import shown
from metalserve.cli.templates_shared import json_option, the_shelf
from metalserve.errors import MetalserveError
from metalserve.templates.build import build_template
from metalserve.templates.spec import TemplateSpec, load_spec
from metalserve.templates.stale import Staleness, look
from metalserve.templates.toolroot import tool_root


@click.command("rebuild")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--if-stale", is_flag=True, help="Only what is stale; without it, all that is named.")
@click.option("--days", type=click.IntRange(min=1), default=30, show_default=True, help="Age at which it is stale.")
@click.option("--updates", is_flag=True, help="Updates that are not of security are a reason as well.")
@click.option("--key", type=click.Path(path_type=Path), metavar="FILE", help="Secret key to sign with.")
@click.option("--yes", is_flag=True, help="Build; otherwise only tell what would be built.")
@json_option
def command(
    names: tuple[str, ...], if_stale: bool, days: int, updates: bool, key: Path | None, yes: bool, as_json: bool
) -> int:
    """Build templates NAME again (those on the shelf when not given), saying why.

    With --if-stale only what is stale: a new kernel, security updates, another release, role, file or specification,
    or older than --days. The archive is asked with apt, in a directory of its own.

    Exit status: 0 all fresh or built; 3 something is to be built and --yes was not given; 1 it could not be found out
    whether a build is fresh, or building failed.
    """
    shelf = the_shelf()
    specs = [load_spec(name) for name in names or shelf.names()]
    if not specs:
        raise MetalserveError("there is none on the shelf", where="templates", remedy="name one")
    looked = [(spec, look(spec, shelf, days=days, updates=updates)) for spec in specs]
    wanted = [spec for spec, found in looked if not if_stale or found.state == "stale"]
    if not as_json:
        for _, found in looked:
            _say(found)
    failed = _build(wanted, key, quiet=as_json) if yes else {}
    if as_json:
        click.echo(json.dumps([_row(spec, found, spec in wanted, yes, failed) for spec, found in looked], indent=1))
    if wanted and not yes:
        if not as_json:
            click.echo(f"to be built: {', '.join(spec.name for spec in wanted)}; --yes builds", err=True)
        return 3
    unclear = any(found.state == "unknown" and spec not in wanted for spec, found in looked)
    return 1 if failed or unclear else 0


def _say(found: Staleness) -> None:
    click.echo(f"{found.name}/{found.build or '-'}: {found.state}")
    for reason in found.reasons:
        click.echo(f"  {reason.what}")
    for words in found.unknown:
        click.echo(f"  unknown: {words}")
    for words in found.notes:
        click.echo(f"  note: {words}")


def _build(specs: Iterable[TemplateSpec], key: Path | None, *, quiet: bool) -> dict[str, str]:
    """Build one after the other; one that fails does not keep the others from being built."""
    failed: dict[str, str] = {}
    shelf = the_shelf()
    for spec in specs:
        try:
            step = (lambda _title: nullcontext()) if quiet else shown
            built = build_template(spec, shelf=shelf, tools=tool_root(), key=key, step=step)
        except MetalserveError as error:
            failed[spec.name] = str(error)
            click.echo(f"metalserve: {error}", err=True)
        else:
            if not quiet:
                click.echo(f"{built.name}/{built.build}: built")
    return failed


def _row(spec: TemplateSpec, found: Staleness, wanted: bool, yes: bool, failed: dict[str, str]) -> dict[str, Any]:
    built = wanted and yes and spec.name not in failed
    return {**found.as_dict(), "wanted": wanted, "built": built, "error": failed.get(spec.name)}
