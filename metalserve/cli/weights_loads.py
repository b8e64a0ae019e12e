"""`metalserve weights loads`: how long engines took to start, where the time went, and which start was slow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from metalserve.errors import MetalserveError
from metalserve.planning.observed import read_rate_from
from metalserve.pyinfra_seam.report import HostReport, RunReport
from metalserve.report.reading import load as read_json
from metalserve.weights.loads import Load, latest, load_of, slower

LAST_RUN = "reports/last-run.json"


@click.command("loads")
@click.argument("hosts", nargs=-1, metavar="[HOST]...")
@click.option("--report", "file", default=LAST_RUN, show_default=True, help="Report of a run that proved the engines.")
@click.option("--all", "everything", is_flag=True, help="Every start that is known, not only each engine's last.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(hosts: tuple[str, ...], file: str, everything: bool, as_json: bool) -> int:
    """Show how long the engines of HOST took to start, and where the time went.

    Exit status: 0; 1 the last start of an engine was slower than the best of its kind by more than the catalogue's
    threshold allows.
    """
    chosen = _hosts(file, hosts)
    told = {host.name: [load_of(values) for values in host.loads] for host in chosen}
    if as_json:
        click.echo(json.dumps({host.name: _as_dict(host, told[host.name]) for host in chosen}, indent=1))
    else:
        for host in chosen:
            _show(host, told[host.name], everything=everything)
    return int(any(_slow(told[host.name], simulated=host.simulated) for host in chosen))


def _hosts(file: str, names: tuple[str, ...]) -> list[HostReport]:
    try:
        report = RunReport.from_dict(read_json(Path(file)))
    except MetalserveError as error:
        raise MetalserveError(
            error.what, where=file, remedy="run deploys/gpu_node.py first, or name a report"
        ) from error
    unknown = sorted(set(names) - set(report.hosts))
    if unknown:
        there = ", ".join(sorted(report.hosts)[:5]) or "none"
        raise MetalserveError(f"has no host {unknown[0]}; it has: {there}", where=file)
    return [host for name, host in sorted(report.hosts.items()) if not names or name in names]


def _slow(loads: list[Load], *, simulated: bool) -> list[str]:
    if simulated:
        return []  # a stand-in's times say nothing
    found = (slower(loads, load.replica) for load in latest(loads))
    return [
        f"{one.subject}: {one.observed}, expected {one.expected}" for one in found if one is not None and one.warning
    ]


def _show(host: HostReport, loads: list[Load], *, everything: bool) -> None:
    if not loads:
        click.echo(f"{host.name}: the report has no start of an engine")
        return
    drive = read_rate_from(host.measurements)
    simulated = " (simulated)" if host.simulated else ""
    gave = f"; its drive gave {drive:.1f} GB/s when it was measured" if drive else ""
    click.echo(f"{host.name}{simulated}{gave}")
    for load in loads if everything else latest(loads):
        gpus = f"{load.gpus} GPU{'s' if load.gpus != 1 else ''}"
        click.echo(f"  {load.at} engine {load.replica} ({load.model}, {gpus}) {load.in_words(drive)}")
    for words in _slow(loads, simulated=host.simulated):
        click.echo(f"  slow: {words}")


def _as_dict(host: HostReport, loads: list[Load]) -> dict[str, Any]:
    return {
        "simulated": host.simulated,
        "drive_gb_s": read_rate_from(host.measurements),
        "loads": [load.as_dict() for load in loads],
        "slow": _slow(loads, simulated=host.simulated),
    }
