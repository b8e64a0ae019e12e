"""`metalserve upgrade`: a fleet to another release, in waves, each host with its way back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from metalserve.catalogue.loader import load_cuda_drivers
from metalserve.cli.converge import SizeType, exit_status, refused
from metalserve.converge.run import run_waves
from metalserve.converge.selection import Selection, select
from metalserve.converge.upgrade import Planned, alike, plans, whereabouts
from metalserve.converge.waves import Size, plan_waves
from metalserve.errors import MetalserveError
from metalserve.pyinfra_seam.cli_run import Outcome, run_pyinfra
from metalserve.releases import check_release, load_release

DEPLOY = "deploys/upgrade.py"


@click.command()
@click.argument("inventory")
@click.option("--to", "target", metavar="RELEASE", help="The release; without it each host gets its inventory's own.")
@click.option("--limit", "limits", multiple=True, metavar="NAME", help="Only this host, group or pattern; repeatable.")
@click.option("--canary", type=click.IntRange(1), metavar="N", help="Take N hosts first, and stop if one fails.")
@click.option("--then", type=SizeType(), help="Take the others in waves of N hosts or N% of all.")
@click.option("--max-failures", type=click.IntRange(0), default=0, help="Go on while no more hosts than this failed.")
@click.option("--parallel", type=click.IntRange(1), metavar="N", help="How many hosts at once (pyinfra's default).")
@click.option("--yes", is_flag=True, help="Do it; without this only the plan is shown.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON (without --yes).")
@click.option("--report", default="reports/last-run.json", show_default=True, help="Where to write the JSON report.")
@click.option("-v", "verbose", count=True, help="pyinfra's -v, -vv, -vvv.")
def command(
    inventory: str,
    target: str | None,
    limits: tuple[str, ...],
    canary: int | None,
    then: Size | None,
    max_failures: int,
    parallel: int | None,
    yes: bool,
    as_json: bool,
    report: str,
    verbose: int,
) -> int:
    """Upgrade the hosts of INVENTORY to a release, in waves.

    Shows the plan: from which release each host comes, what changes, whether a reload or a reboot is expected. With
    --yes it is carried out; a host that fails goes back by itself, and a wave with a failed host stops the rest.

    Exit status: 0 all hosts are on it; 1 a host failed, would be refused or was not reached; 2 refused before any host
    was contacted; 3 without --yes, something would change; 130 interrupted.
    """
    try:
        if target is not None:
            _check(target)
        selection = select(inventory, limits)
    except MetalserveError as error:
        return refused(error)
    data = {"release": target} if target is not None else {}
    hosts = selection.chosen
    outcome = run_pyinfra(
        inventory, DEPLOY, selection.limits_for(hosts), dry=True, parallel=parallel, quiet=True, data=data
    )
    if outcome.interrupted:
        return 130
    if outcome.report is None:
        click.echo(outcome.output, err=True, nl=False)
        raise MetalserveError("no host was looked at", where=inventory, remedy="mend what the lines above say")
    found = plans(outcome.report, hosts)
    if not yes:
        click.echo(json.dumps([p.as_dict() for p in found], indent=1)) if as_json else _show(found)
        return 1 if any(p.obstacle for p in found) else 3 if any(p.steps for p in found) else 0
    return _carry_out(inventory, selection, found, data, Path(report), canary, then, max_failures, parallel, verbose)


def _check(name: str) -> None:
    problems = check_release(load_release(name), load_cuda_drivers())
    if problems:
        raise MetalserveError("; ".join(problems), where=f"release {name}", remedy="take another, or mend its file")


def _carry_out(
    inventory: str,
    selection: Selection,
    found: Sequence[Planned],
    data: dict[str, str],
    report: Path,
    canary: int | None,
    then: Size | None,
    max_failures: int,
    parallel: int | None,
    verbose: int,
) -> int:
    waves = plan_waves(list(selection.chosen), canary=canary or 0, then=then)

    def run(wave: Sequence[str]) -> Outcome:
        limited = selection.limits_for(wave)
        return run_pyinfra(inventory, DEPLOY, limited, parallel=parallel, verbose=verbose, data=data)

    def announce(number: int, wave: Sequence[str]) -> None:
        names = ", ".join(wave[:6]) + (f" and {len(wave) - 6} more" if len(wave) > 6 else "")
        click.secho(f"==> wave {number} of {len(waves)}: {names}", bold=True, err=True)

    result = run_waves(waves, run, max_failures=max_failures, announce=announce)
    console = Console(stderr=True)
    more = {"inventory": inventory, "deploy": DEPLOY, "waves": [list(wave) for wave in waves], **data}
    try:
        result.report.write(report, more)
    except OSError as error:
        raise MetalserveError(f"the report could not be written: {error.strerror}", where=str(report)) from error
    result.report.print(console)
    for release, names in whereabouts(result.report, found).items():
        console.print(Text(f"{release}: {len(names)} host(s): {', '.join(names[:12])}{' ...' if names[12:] else ''}"))
    if result.ended != "complete":
        click.echo(
            "metalserve: stopped; the same command goes on: hosts that are on the release are left alone", err=True
        )
    return exit_status(result, dry=False)


def _show(found: Sequence[Planned]) -> None:
    table = Table(title="Plan", title_justify="left")
    for name in ("Host", "From -> to", "What is done"):
        table.add_column(name, overflow="fold")
    for names, plan in alike(found):
        hosts = Text(", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else ""))
        if plan.obstacle:
            table.add_row(hosts, Text("not possible", style="bold red"), Text(plan.obstacle))
        elif not plan.steps:
            table.add_row(hosts, Text("in place", style="green"), Text("nothing"))
        else:
            lines = "\n".join(f"{step}: {words}" for step, words in plan.steps)
            table.add_row(hosts, Text(plan.way, style="yellow"), Text(lines))
    console = Console()
    console.print(table)
    if any(p.steps for p in found):
        console.print(Text("nothing was changed; --yes does it", style="bold"))
