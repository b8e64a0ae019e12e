"""`metalserve converge`: a deploy over the inventory, with what pyinfra's command line lacks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from metalserve.converge.run import FleetRun, run_waves
from metalserve.converge.selection import select
from metalserve.converge.waves import Size, plan_waves, to_retry
from metalserve.errors import MetalserveError
from metalserve.pyinfra_seam.cli_run import Outcome, run_pyinfra
from metalserve.pyinfra_seam.report import RunReport
from metalserve.report.history import keep
from metalserve.settings import SettingsError


class SizeType(click.ParamType[Size]):
    """The size of a wave on the command line."""

    name = "N|N%"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Size:
        """Return the size that `value` names."""
        try:
            return value if isinstance(value, Size) else Size.parse(str(value))
        except MetalserveError as error:
            self.fail(str(error), param, ctx)


@click.command()
@click.argument("inventory")
@click.argument("deploy", default="deploys/gpu_node.py")
@click.option("--limit", "limits", multiple=True, metavar="NAME", help="Only this host, group or pattern; repeatable.")
@click.option("--dry", is_flag=True, help="Change nothing; exit 3 when something would change.")
@click.option("--canary", type=click.IntRange(1), metavar="N", help="Take N hosts first, and stop if one fails.")
@click.option("--then", type=SizeType(), help="Take the others in waves of N hosts or N% of all.")
@click.option("--retry-failed", type=click.Path(dir_okay=False), help="Only hosts that failed in this report's run.")
@click.option("--max-failures", type=click.IntRange(0), default=0, help="Go on while no more hosts than this failed.")
@click.option("--parallel", type=click.IntRange(1), metavar="N", help="How many hosts at once (pyinfra's default).")
@click.option("--report", default="reports/last-run.json", show_default=True, help="Where to write the JSON report.")
@click.option("-v", "verbose", count=True, help="pyinfra's -v, -vv, -vvv.")
def command(
    inventory: str,
    deploy: str,
    limits: tuple[str, ...],
    dry: bool,
    canary: int | None,
    then: Size | None,
    retry_failed: str | None,
    max_failures: int,
    parallel: int | None,
    report: str,
    verbose: int,
) -> int:
    """Run DEPLOY over the hosts of INVENTORY.

    Exit status: 0 all well; 1 a host failed or was not reached; 2 refused before any host was contacted (usage,
    settings); 3 with --dry, something would change; 130 interrupted.
    """
    if dry and (canary or then):
        raise click.UsageError("--dry changes nothing, so it needs no --canary or --then")
    try:
        selection = select(inventory, limits)
        hosts = list(selection.chosen)
        if retry_failed:
            hosts = to_retry(_statuses(retry_failed), hosts)
    except MetalserveError as error:
        return refused(error)
    if retry_failed and not hosts:
        click.echo(f"metalserve: no host failed in {retry_failed}: nothing to do", err=True)
        return 0
    waves = plan_waves(hosts, canary=canary or 0, then=then)

    def run(wave: Sequence[str]) -> Outcome:
        return run_pyinfra(inventory, deploy, selection.limits_for(wave), dry=dry, parallel=parallel, verbose=verbose)

    def announce(number: int, wave: Sequence[str]) -> None:
        if len(waves) > 1:
            names = ", ".join(wave[:6]) + (f" and {len(wave) - 6} more" if len(wave) > 6 else "")
            click.secho(f"==> wave {number} of {len(waves)}: {names}", bold=True, err=True)

    result = run_waves(waves, run, max_failures=max_failures, announce=announce)
    _write(result, Path(report), inventory, deploy)
    result.report.print(Console(stderr=True))
    if result.not_reached:
        names = ", ".join(result.not_reached[:12])
        click.echo(f"metalserve: stopped; {len(result.not_reached)} hosts were not reached: {names}", err=True)
    if result.ended != "complete":
        click.echo(f"metalserve: again for these hosts only: --retry-failed {report}", err=True)
    return exit_status(result, dry=dry)


def refused(error: MetalserveError) -> int:
    """Say why nothing was started, a line a problem, and return the exit status for that."""
    problems = error.problems if isinstance(error, SettingsError) else [str(error)]
    for problem in problems:
        click.echo(f"metalserve: {problem}", err=True)
    click.echo("metalserve: no host was contacted", err=True)
    return 2


def exit_status(result: FleetRun, *, dry: bool) -> int:
    """Return the exit status of a run over the fleet."""
    if result.ended == "interrupted":
        return 130
    if result.ended == "failed":
        return 1
    changes = any(result.report.status(h) == "would change" for h in result.report.hosts.values())
    return 3 if dry and changes else 0


def _write(result: FleetRun, path: Path, inventory: str, deploy: str) -> None:
    more = {"inventory": inventory, "deploy": deploy, "waves": [list(wave) for wave in result.waves]}
    try:
        result.report.write(path, more)
        if result.report.verifies and result.report.complete:
            keep({**result.report.as_dict(), **more}, path.parent / "verify")
    except OSError as error:
        raise MetalserveError(f"the report could not be written: {error.strerror}", where=str(path)) from error


def _statuses(path: str) -> dict[str, str]:
    try:
        report = RunReport.from_dict(json.loads(Path(path).read_text()))
    except OSError as error:
        raise MetalserveError(f"cannot be read: {error.strerror}", where=path) from error
    except (ValueError, KeyError, TypeError) as error:
        raise MetalserveError("is no report of metalserve", where=path) from error
    return {name: report.status(host) for name, host in report.hosts.items()}
