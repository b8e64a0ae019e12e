"""`metalserve drift`: hosts compared with what they should be, nothing changed."""

from __future__ import annotations

import json

import click
from rich.console import Console
from rich.text import Text

from metalserve.cli.converge import refused
from metalserve.converge.drift import Difference, differences, unknowns
from metalserve.converge.selection import select
from metalserve.errors import MetalserveError
from metalserve.pyinfra_seam.cli_run import run_pyinfra
from metalserve.pyinfra_seam.report import RunReport


@click.command()
@click.argument("inventory")
@click.argument("deploy", default="deploys/gpu_node.py")
@click.option("--limit", "limits", multiple=True, metavar="NAME", help="Only this host, group or pattern; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--parallel", type=click.IntRange(1), metavar="N", help="How many hosts at once (pyinfra's default).")
@click.option("-v", "verbose", count=True, help="Show pyinfra's own output.")
def command(
    inventory: str, deploy: str, limits: tuple[str, ...], as_json: bool, parallel: int | None, verbose: int
) -> int:
    """Compare the hosts of INVENTORY with what DEPLOY wants of them.

    The same difference on many hosts is told once. Exit status: 0 no drift; 1 a host could not be compared;
    2 refused before any host was contacted; 3 drift; 130 interrupted.
    """
    try:
        selection = select(inventory, limits)
    except MetalserveError as error:
        return refused(error)
    hosts = selection.limits_for(selection.chosen)
    outcome = run_pyinfra(
        inventory, deploy, hosts, dry=True, parallel=parallel, verbose=verbose, quiet=as_json or not verbose
    )
    if outcome.interrupted:
        return 130
    report = outcome.report
    if report is None or not report.complete:
        # It ended before there was anything to compare: its own last words say why.
        click.echo(outcome.output, err=True, nl=False)
        if report is None:
            raise MetalserveError("no host was compared", where=inventory, remedy="mend what the lines above say")
    found, unknown = differences(report), unknowns(report)
    failed = [h for h in report.hosts.values() if report.status(h) not in ("unchanged", "would change")]
    if as_json:
        click.echo(json.dumps(_as_dict(report, found, unknown), indent=1))
    else:
        _show(report, found, unknown)
    if failed:
        return 1
    return 3 if found or unknown else 0


def _as_dict(report: RunReport, found: list[Difference], unknown: list[Difference]) -> dict[str, object]:
    return {
        "schema": 1,
        "simulated": any(h.simulated for h in report.hosts.values()),
        "drift": [d.as_dict() for d in found],
        "known_later": [d.as_dict() for d in unknown],
        "hosts": {name: report.status(host) for name, host in sorted(report.hosts.items())},
        "failures": {n: vars(h.failure) for n, h in sorted(report.hosts.items()) if h.failure is not None},
    }


def _show(report: RunReport, found: list[Difference], unknown: list[Difference]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for difference in found:
        console.print(
            Text.assemble(
                (difference.where, "bold"),
                ": ",
                (f"{difference.role} / {difference.stage}", "cyan"),
                ": ",
                difference.what,
            )
        )
    for difference in unknown:
        console.print(Text(f"{difference.where}: {difference.role}: {difference.what}", style="yellow"))
    for name, host in sorted(report.hosts.items()):
        if host.failure is not None:
            remedy = f" -> {host.failure.remedy}" if host.failure.remedy else ""
            console.print(Text(f"{name}: {host.failure.role}: {host.failure.what}{remedy}", style="bold red"))
    same = sum(report.status(h) == "unchanged" for h in report.hosts.values())
    console.print(Text(f"{same} of {len(report.hosts)} hosts as they should be", style="green" if not found else ""))
    if any(h.simulated for h in report.hosts.values()):
        console.print(Text("simulated: true (lab hosts: the GPU hardware and the engine are stand-ins)", style="dim"))
