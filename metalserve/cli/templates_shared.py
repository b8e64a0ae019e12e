"""What the commands of `metalserve template` share: the shelf, keys, how builds are shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from metalserve.paths import templates_directory
from metalserve.templates.shelf import Shelf


def the_shelf() -> Shelf:
    """Return the shelf of this machine."""
    return Shelf(templates_directory() / "shelf")


def key_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--key FILE` (`keys`): public keys that are trusted instead of those in files/templates/keys."""
    return click.option(
        "--key",
        "keys",
        multiple=True,
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Public key that is trusted, instead of files/templates/keys/*.pub; repeatable.",
    )(command)


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--json` (`as_json`)."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def plain_table(*columns: str) -> Table:
    """Return a table without lines, as the other commands have; its first column is never cut."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, no_wrap=index == 0, overflow="fold")
    return table


def megabytes(size: int) -> str:
    """Return a size in MB or GB, as people read it."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
