"""`metalserve settings`: every setting of a host, and the check of an inventory."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import click
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from rich.console import Console
from rich.table import Table
from rich.text import Text

from metalserve.settings import HostSettings, KeySettings, SecretRef, Section, SettingsError
from metalserve.settings.reading import section_in


class Row(typing.NamedTuple):
    """One line of the table."""

    key: str
    type: str
    default: str
    meaning: str
    section: bool


@click.group("settings", invoke_without_command=True)
@click.option("--json-schema", is_flag=True, help="Print the JSON Schema instead of the table.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print the table as Markdown (it stands in README.md).")
@click.pass_context
def command(context: click.Context, json_schema: bool, as_markdown: bool) -> None:
    """Show every setting of a host: type, default, meaning and unit."""
    if context.invoked_subcommand is not None:
        return
    if as_markdown:
        click.echo(markdown())
        return
    if json_schema:
        click.echo(json.dumps(HostSettings.model_json_schema(), indent=2))
        return
    console = Console()
    console.print(table(console.width))
    console.print(f"\n{SECRETS_NOTE}", highlight=False)


@command.command("check")
@click.argument("inventory")
@click.option("--secrets", is_flag=True, help="Also read every secret the hosts refer to (commands are run).")
def check(inventory: str, secrets: bool) -> None:
    """Validate INVENTORY (a Python file) without contacting any host."""
    from metalserve.inventory import check_hosts, check_secrets, check_warnings
    from metalserve.pyinfra_seam.inventory import load_inventory

    try:
        hosts = load_inventory(inventory)
        settings = check_hosts(hosts, inventory)
        if secrets:
            check_secrets(settings, inventory)
    except SettingsError as error:
        for line in error.problems:
            click.echo(line, err=True)
        many = "1 problem" if len(error.problems) == 1 else f"{len(error.problems)} problems"
        click.echo(f"metalserve: {many} in {inventory}; no host was contacted", err=True)
        raise click.exceptions.Exit(1) from None
    for warning in check_warnings(hosts, settings, inventory, today=datetime.now(UTC).date()):
        click.echo(f"warning: {warning}", err=True)
    many = "1 host is" if len(settings) == 1 else f"{len(settings)} hosts are"
    click.echo(f"{inventory}: {many} in order; none was contacted")


def table(width: int) -> Table:
    """Return all settings as a table that reads well from 80 columns on.

    Args:
        width: columns of the terminal.
    """
    grid = Table(box=None, pad_edge=False, header_style="bold", expand=True)
    grid.add_column("setting", no_wrap=True)
    grid.add_column("type", no_wrap=True)
    grid.add_column("default", overflow="fold", width=15 if width < 100 else 22)
    grid.add_column("meaning and unit", overflow="fold", ratio=1)
    for row in rows(HostSettings):
        style = "bold" if row.section else ""
        grid.add_row(Text(row.key, style), Text(row.type, "dim"), Text(row.default), Text(row.meaning))
    return grid


def markdown() -> str:
    """Return all settings as a Markdown table, each with its whole key."""
    lines = ["| setting | type | default | meaning and unit |", "|---|---|---|---|"]
    path: list[str] = []
    for row in rows(HostSettings):
        name = row.key.strip()
        path = [*path[: (len(row.key) - len(name)) // 2], name]
        default = f"`{row.default}`" if row.default and row.default != "required" else row.default
        cells = (f"`{'.'.join(path)}`", row.type, default, row.meaning.replace("|", "\\|"))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def rows(schema: type[Section]) -> Iterator[Row]:
    """Yield the settings of `schema` in order, sections before their members, members indented.

    A section that several settings share is spelled out once; the others point to it.
    """
    yield from _rows(schema, "", 0, {})


def _rows(schema: type[Section], prefix: str, depth: int, spelled: dict[type[Section], str]) -> Iterator[Row]:
    for name, field in schema.model_fields.items():
        section = section_in(field.annotation)
        opened = section is not None and section is not SecretRef
        meaning = field.description or ""
        choices = _choices(field.annotation)
        if choices:
            meaning += f"; one of {', '.join(map(repr, choices))}"
        if section is not None and section in spelled:
            meaning += f" (settings as in {spelled[section]})"
        yield Row("  " * depth + name, _type(field.annotation), _default(field, section), meaning, opened)
        if section is not None and opened and section not in spelled:
            spelled[section] = f"{prefix}{name}"
            yield from _rows(section, f"{prefix}{name}.", depth + 1, spelled)


def _type(annotation: Any) -> str:
    """Return a type as an inventory's author writes it; that None is allowed shows in the default."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type(arguments[0])
    if origin is typing.Literal:
        return type(arguments[0]).__name__
    if origin in (typing.Union, types.UnionType):
        return " | ".join(_type(part) for part in arguments if part is not type(None))
    if origin is list:
        return f"list[{_type(arguments[0])}]"
    if origin is dict:
        return "dict"
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return "secret" if annotation is SecretRef else "dict"
    return getattr(annotation, "__name__", str(annotation))


def _choices(annotation: Any) -> tuple[Any, ...]:
    """Return the values a `Literal` allows, alone or as `Literal | None`."""
    if typing.get_origin(annotation) is typing.Literal:
        return typing.get_args(annotation)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return next(filter(None, map(_choices, typing.get_args(annotation))), ())
    return ()


def _default(field: FieldInfo, section: type[Section] | None) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True, validated_data={})
    if default is PydanticUndefined or (section is not None and default is not None):
        return ""
    if field.annotation == dict[str, KeySettings]:
        return "{}"
    return str(default)


SECRETS_NOTE = (
    "A secret is a dict with one of env (NAME of an environment variable), file (path, mode 0600, outside the "
    "checkout), command (list: program and arguments). Its value never stands in an inventory."
)
"""What `secret` in the table means."""
