"""`metalserve template diff`: what changed between two builds of a template."""

from __future__ import annotations

import json

import click
from rich.console import Console

from metalserve.cli.templates_shared import json_option, plain_table, the_shelf
from metalserve.templates.changes import Changes, Update
from metalserve.templates.changes_text import markdown
from metalserve.templates.since import changes_between

_SHOWN = 20
"""Packages of a kind that are printed; --json and --markdown have all."""


@click.command("diff")
@click.argument("name")
@click.argument("before", required=False)
@click.argument("after", default="latest")
@json_option
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown.")
def command(name: str, before: str | None, after: str, as_json: bool, as_markdown: bool) -> None:
    """Show what changed in template NAME from BEFORE to AFTER (a build, stable, candidate, latest).

    BEFORE is the stable build when not given, or without one the build before AFTER. What is known of security is what
    was written down when AFTER was built; between builds that do not follow each other it is put together from all.
    """
    shelf = the_shelf()
    newer = shelf.build(name, after)
    older = [each for each in shelf.builds(name) if each.build < newer.build]
    if before is None:
        stable = shelf.channels(name).get("stable")
        before = stable if stable and stable != newer.build else older[-1].build if older else None
    changes = changes_between(shelf, shelf.build(name, before) if before else None, newer)
    if as_json:
        click.echo(json.dumps(changes.as_dict(), indent=1))
    elif as_markdown:
        click.echo(markdown(changes), nl=False)
    else:
        _show(name, changes)


def _show(name: str, changes: Changes) -> None:
    console = Console(highlight=False)
    console.print(f"[bold]{name}[/]: {changes.before or 'nothing'} -> {changes.after}", soft_wrap=True)
    if changes.empty:
        console.print("nothing changed")
        return
    if changes.parts:
        table = plain_table("part", "before", "after")
        for part in changes.parts:
            table.add_row(part.part, part.before, part.after)
        console.print()
        console.print(table)
    _updates(console, "security updates", changes.security)
    for title, security in (("updates, unknown whether they close holes", "unknown"), ("other updates", "no")):
        _updates(console, title, [each for each in changes.updated if each.security == security])
    for title, packages in (("added", changes.added), ("removed", changes.removed)):
        if packages:
            names = [f"{each.name} {each.version}" for each in packages[:_SHOWN]]
            more = f" and {len(packages) - _SHOWN} more" if len(packages) > _SHOWN else ""
            console.print(f"\n[bold]{len(packages)} {title}[/]: {', '.join(names)}{more}")


def _updates(console: Console, title: str, updates: tuple[Update, ...] | list[Update]) -> None:
    if not updates:
        return
    table = plain_table("package", "before", "after", "known by")
    for each in updates[:_SHOWN]:
        cves = f"; {' '.join(each.cves[:3])}{' ...' if len(each.cves) > 3 else ''}" if each.cves else ""
        table.add_row(each.name, each.before, each.after, f"{each.why}{cves}")
    console.print(f"\n[bold]{len(updates)} {title}[/]")
    console.print(table)
    if len(updates) > _SHOWN:
        console.print(f"and {len(updates) - _SHOWN} more (--json has all)")
