"""`metalserve drift`: hosts compared with what they should be, nothing changed."""

from __future__ import annotations

import json

import click
from rich.console import Console
from rich.text import Text

from metalserve.cli.converge import refused
from metalserve.converge.drift import Difference, differences, unknowns
from metalserve.converge.next_boot import HostOutlook, outlooks
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

    The same difference on many hosts is told once. Then, of each host, whether the next reboot would break it, and
    what else decays. Exit status: 0 neither drift nor decay; 1 a host could not be compared; 2 refused before any
    host was contacted; 3 drift or decay; 130 interrupted.
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
    found, unknown, ahead = differences(report), unknowns(report), outlooks(report)
    failed = [h for h in report.hosts.values() if report.status(h) not in ("unchanged", "would change")]
    if as_json:
        click.echo(json.dumps(_as_dict(report, found, unknown, ahead), indent=1))
    else:
        _show(report, found, unknown, ahead)
    if failed:
        return 1
    return 3 if found or unknown or any(o.decayed for o in ahead) else 0


def _as_dict(
    report: RunReport, found: list[Difference], unknown: list[Difference], ahead: list[HostOutlook]
) -> dict[str, object]:
    return {
        "schema": 1,
        "simulated": any(h.simulated for h in report.hosts.values()),
        "drift": [d.as_dict() for d in found],
        "known_later": [d.as_dict() for d in unknown],
        "next_boot": {o.host: o.as_dict() for o in ahead},
        "hosts": {name: report.status(host) for name, host in sorted(report.hosts.items())},
        "failures": {n: vars(h.failure) for n, h in sorted(report.hosts.items()) if h.failure is not None},
    }


def _show(report: RunReport, found: list[Difference], unknown: list[Difference], ahead: list[HostOutlook]) -> None:
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
    _show_next_boot(console, ahead)
    if any(h.simulated for h in report.hosts.values()):
        console.print(Text("simulated: true (lab hosts: the GPU hardware and the engine are stand-ins)", style="dim"))


def _show_next_boot(console: Console, ahead: list[HostOutlook]) -> None:
    """The section "next boot": would the next reboot break this node, a line a host, and what else decays there."""
    if not ahead:
        return
    console.print(Text("next boot", style="bold"))
    colours = {"YES": "bold red", "UNKNOWN": "yellow"}
    for outlook in ahead:
        if not outlook.decayed:
            continue
        remedy = f" -> {outlook.remedy}" if outlook.remedy else ""
        line = f"  {outlook.host}: the next reboot would break this node: {outlook.words}{remedy}"
        console.print(Text(line, style=colours.get(outlook.answer, "green")))
        for finding in outlook.findings:
            remedy = f" -> {finding['remedy']}" if finding.get("remedy") else ""
            console.print(Text(f"    {finding['check']}: {finding['observed']}{remedy}", style="yellow"))
    same: dict[str, list[str]] = {}
    for outlook in ahead:
        if not outlook.decayed:
            words = outlook.words if outlook.answer == "NOT APPLICABLE" else "NO"
            same.setdefault(words, []).append(outlook.host)
    for words, hosts in same.items():
        where = ", ".join(hosts) if len(hosts) <= 3 else f"{len(hosts)} hosts"
        console.print(Text(f"  {where}: the next reboot would break this node: {words}", style="green"))
