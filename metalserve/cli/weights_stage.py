"""`metalserve weights stage`: deploys/weights.py over an inventory, with a live view of all hosts on a terminal."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.live import Live

from metalserve.cli.converge import exit_status, refused
from metalserve.cli.weights_view import progress_table
from metalserve.converge.run import FleetRun, run_waves
from metalserve.converge.selection import Selection, select
from metalserve.errors import MetalserveError
from metalserve.pyinfra_seam.cli_run import Outcome, run_pyinfra

DEPLOY = "deploys/weights.py"
PROGRESS_DIRECTORY = "METALSERVE_PROGRESS_DIR"


@click.command("stage")
@click.argument("inventory")
@click.option("--limit", "limits", multiple=True, metavar="NAME", help="Only this host, group or pattern; repeatable.")
@click.option("--plain", is_flag=True, help="Plain lines, also on a terminal.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON when it has ended.")
@click.option("--report", default="reports/last-run.json", show_default=True, help="Where to write the JSON report.")
def command(inventory: str, limits: tuple[str, ...], plain: bool, as_json: bool, report: str) -> int:
    """Bring the models of INVENTORY onto their hosts, and show how far each of them is.

    The hosts fetch by themselves, in a unit of their own. Ctrl-C ends only the view; the same command follows them
    again. Exit status: 0 all have their model; 1 a host failed or was not reached; 2 refused before any host was
    contacted; 130 interrupted.
    """
    try:
        selection = select(inventory, limits)
    except MetalserveError as error:
        return refused(error)
    console = Console()
    if console.is_terminal and not plain and not as_json:
        with _live(console, selection.chosen):
            result = _run(inventory, selection, quiet=True)
    else:
        result = _run(inventory, selection, quiet=as_json)
    result.report.write(Path(report), {"inventory": inventory, "deploy": DEPLOY})
    if as_json:
        click.echo(json.dumps(result.report.as_dict(), indent=1))
    else:
        result.report.print(Console(stderr=True))
    if result.ended == "interrupted":
        click.echo(
            "metalserve: the hosts go on by themselves; the same command follows them again, "
            "`metalserve weights status` looks once",
            err=True,
        )
    return exit_status(result, dry=False)


def _run(inventory: str, selection: Selection, *, quiet: bool) -> FleetRun:
    def run(hosts: Sequence[str]) -> Outcome:
        outcome = run_pyinfra(inventory, DEPLOY, selection.limits_for(hosts), quiet=quiet)
        if outcome.report is None and not outcome.interrupted:
            click.echo(outcome.output, err=True, nl=False)
            raise MetalserveError("no host was looked at", where=inventory, remedy="mend what the lines above say")
        return outcome

    return run_waves([selection.chosen], run)


@contextmanager
def _live(console: Console, hosts: Sequence[str]) -> Iterator[None]:
    with tempfile.TemporaryDirectory(prefix="metalserve-progress-") as directory:
        os.environ[PROGRESS_DIRECTORY] = directory
        try:
            with Live(
                console=console,
                get_renderable=lambda: progress_table(hosts, _looks(Path(directory))),
                refresh_per_second=2,
            ):
                yield
        finally:
            del os.environ[PROGRESS_DIRECTORY]


def _looks(directory: Path) -> dict[str, dict[str, Any]]:
    found = {}
    for path in directory.glob("*.json"):
        try:
            look = json.loads(path.read_text())
            found[str(look["host"])] = look
        except (OSError, ValueError, KeyError):  # being replaced
            continue
    return found
