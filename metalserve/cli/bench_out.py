"""What the commands of `metalserve bench` share at their ends: the load that is asked for, and the result written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from metalserve.benching.document import write
from metalserve.benching.page import html_page
from metalserve.report.writing import write_whole


def one_load(clients: int | None, rate: float | None) -> tuple[str, float]:
    """Return mode and load.

    Raises:
        click.UsageError: both are given, or none.
    """
    if (clients is None) == (rate is None):
        raise click.UsageError("give either --clients (closed loop) or --rate (open loop)")
    return ("closed", float(clients)) if clients is not None else ("open", float(rate or 0))


def keep(result: dict[str, Any], given: Mapping[str, Any]) -> int:
    """Write the result and its page; returns 1 when no request succeeded."""
    write(given["out"], result)
    click.echo(f"result: {given['out']}")
    if given["html"] is not None:
        write_whole(given["html"], html_page(result).encode())
        click.echo(f"page: {given['html']}")
    for note in result.get("notes", []):
        click.echo(f"note: {note}", err=True)
    if result["simulated"]:
        click.echo("simulated: true", err=True)
    return 0 if any(step["completed"] for step in result.get("steps", [{"completed": 1}])) else 1
