"""What several commands do with files and standard output: read JSON, write a page, print tables."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from metalserve.errors import MetalserveError
from metalserve.report.writing import write_whole


def json_object(path: Path) -> dict[str, Any]:
    """Return the JSON object of a file.

    Raises:
        MetalserveError: it cannot be read, or is none.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MetalserveError(f"cannot be read: {error.strerror}", where=str(path)) from error
    except ValueError as error:
        raise MetalserveError(f"is no JSON: {error}", where=str(path)) from error
    if not isinstance(data, dict):
        raise MetalserveError("is not a JSON object", where=str(path))
    return data


def write_out(where: str, content: bytes, what: str) -> None:
    """Write a file and say so on standard error; "-" is standard output.

    Args:
        where: the file.
        content: all of it.
        what: what it is, in words.

    Raises:
        MetalserveError: it cannot be written.
    """
    if where == "-":
        sys.stdout.buffer.write(content)
        return
    write_whole(Path(where), content)
    size = f"{len(content) / 1e6:.2f} MB" if len(content) >= 1e6 else f"{len(content) / 1e3:.0f} kB"
    click.echo(f"{where}: {what}, {size}", err=True)


def printer() -> Console:
    """Return what prints tables. In a pipe nothing is wrapped: what reads it looks for lines."""
    terminal = sys.stdout.isatty()
    return Console(highlight=False, soft_wrap=not terminal, width=None if terminal else 160)
