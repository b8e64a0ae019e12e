"""`metalserve report`: what a verify run found, for people (terminal, HTML) and for CI (JUnit, JSON)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.table import Table
from rich.text import Text

from metalserve.cli.files import printer, write_out
from metalserve.errors import MetalserveError
from metalserve.report.diff import Difference, Way, compare
from metalserve.report.diff_measured import TOLERANCES
from metalserve.report.history import HISTORY, kept_reports
from metalserve.report.junit import junit_xml
from metalserve.report.model import STATUSES, Report
from metalserve.report.page import html_page
from metalserve.report.reading import read_report
from metalserve.report.summary import summary_dict
from metalserve.report.terminal import COLOURS, print_report, when

_Key = TypeVar("_Key")

LAST_RUN = "reports/last-run.json"


class _ShowFirst(click.Group):
    """A group whose first word may also be a file: `report FILE` is `report show FILE`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {"-h", "--help", *self.commands}
        return super().parse_args(ctx, args if args and args[0] in own else ["show", *args])

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with click.Context(show, info_name=ctx.info_name) as shown:
            show.format_options(shown, formatter)
        self.format_commands(ctx, formatter)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(ctx.command_path, f"[FILE] [OPTIONS], or one of: {', '.join(sorted(self.commands))}")


@click.group("report", cls=_ShowFirst)
def command() -> None:
    """Show the report of a verify run.

    FILE is reports/last-run.json when it is not given; `metalserve report ./diff` shows a file of a command's name.
    What the report says does not change the exit status: JUnit and `diff` are there to gate on.
    """


@command.command("show")
@click.argument("file", default=LAST_RUN)
@click.option("--html", metavar="OUT", help="Write one HTML page that needs no network; - for stdout.")
@click.option("--junit", metavar="OUT", help="Write JUnit XML; - for stdout.")
@click.option("--json", "as_json", is_flag=True, help="Print verdicts and what is above ok as JSON.")
@click.option("--host", "hosts", multiple=True, metavar="NAME", help="Only this host; repeatable.")
@click.option("-v", "everything", is_flag=True, help="Also what is ok, measured, and all evidence.")
def show(
    file: str, html: str | None, junit: str | None, as_json: bool, hosts: tuple[str, ...], everything: bool
) -> None:
    """Show FILE in the terminal, or write it as HTML page or JUnit XML."""
    report = _read(file)
    if hosts:
        report = report.only(hosts)
    if [html, junit].count("-") + as_json > 1:
        raise click.UsageError("only one of --html -, --junit - and --json can go to stdout")
    if html:
        write_out(html, html_page(report).encode(), f"page of {_hosts(report)}")
    if junit:
        write_out(junit, junit_xml(report), f"JUnit XML of {_hosts(report)}")
    if as_json:
        click.echo(json.dumps(summary_dict(report), indent=1))
    elif not html and not junit:
        print_report(report, printer(), everything=everything)


@command.command("diff")
@click.argument("old")
@click.argument("new", default=LAST_RUN)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--host", "hosts", multiple=True, metavar="NAME", help="Only this host; repeatable.")
@click.option(
    "--tolerance",
    type=click.FloatRange(0, 100),
    metavar="PERCENT",
    help="How far a measurement may fall, for all kinds but temperature.",
)
def diff(old: str, new: str, as_json: bool, hosts: tuple[str, ...], tolerance: float | None) -> int:
    """Show what got worse, and better, from OLD (such as the acceptance) to NEW.

    Measurements count from a tolerance on, shown with each: bandwidth 5 %, storage 10 %, throughput 3 %, temperatures
    5 degrees C. Exit status: 0 nothing got worse; 1 something did.
    """
    before, after = _read(old), _read(new)
    if hosts:
        before, after = before.only(hosts), after.only(hosts)
    tolerances = dict(TOLERANCES)
    if tolerance is not None:
        tolerances |= {kind: tolerance for kind in tolerances if kind != "temperature"}
    found = compare(before, after, tolerances)
    if as_json:
        click.echo(json.dumps({"old": before.started, "new": after.started, **found.as_dict()}, indent=1))
    else:
        _show_difference(found, before, after)
    return 1 if found.of("worse") else 0


@command.command("history")
@click.option("--directory", default=HISTORY, show_default=True, help="Where verify runs leave their reports.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def history(directory: str, as_json: bool) -> None:
    """List the kept reports of verify runs, newest first."""
    rows: list[dict[str, Any]] = []
    for path in reversed(kept_reports(Path(directory))):
        row: dict[str, Any] = {"file": str(path)}
        try:
            report = read_report(path)
        except MetalserveError as error:
            row["error"] = str(error)
        else:
            row |= {
                "started": report.started,
                "hosts": len(report.hosts),
                "simulated": bool(report.simulated),
                "verdicts": {s: report.verdicts[s] for s in STATUSES if report.verdicts[s]},
            }
        rows.append(row)
    if as_json:
        click.echo(json.dumps({"schema": 1, "reports": rows}, indent=1))
        return
    if not rows:
        click.echo(f"no reports in {directory}; each run of deploys/verify.py leaves one")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("started", "hosts", "verdicts", "file"):
        table.add_column(column, overflow="fold")
    for row in rows:
        if "error" in row:
            table.add_row(Text("not readable", style="magenta"), "", Text(row["error"]), Text(row["file"]))
            continue
        verdicts = Text(", ").join(Text(f"{n} {s}", style=COLOURS[s]) for s, n in row["verdicts"].items())
        words = Text.assemble(verdicts, " simulated" if row["simulated"] else "")
        table.add_row(when(row["started"]), str(row["hosts"]), words, Text(row["file"]))
    printer().print(table)


def _read(file: str) -> Report:
    return read_report(Path(file))


def _hosts(report: Report) -> str:
    return "1 host" if len(report.hosts) == 1 else f"{len(report.hosts)} hosts"


def _show_difference(found: Difference, before: Report, after: Report) -> None:
    console = printer()
    console.print(Text(f"{when(before.started)} -> {when(after.started)}", style="dim"))
    for note, hosts in _together((note, host) for host, note in found.notes):
        console.print(Text(f"note: {_names(hosts)}{note}", style="yellow"))
    ways: tuple[tuple[Way, str, str], ...] = (
        ("worse", "Worse", "bold red"),
        ("better", "Better", "bold green"),
        ("other", "Other", "bold"),
    )
    for way, title, style in ways:
        changes = found.of(way)
        if not changes:
            continue
        console.print(Text(f"\n{title}: {len(changes)}", style=style))
        for (what, earlier, later, note), hosts in _together(
            ((c.what, c.before, c.after, c.note), c.host) for c in changes
        ):
            words = Text.assemble("  ", (_names(hosts), "bold"), f"{what}: ", (earlier, "dim"), " -> ", later)
            console.print(words.append(f"  ({note})", style="dim") if note else words)
    if not found.of("worse"):
        console.print(Text("nothing got worse", style="green"))


def _together(pairs: Iterable[tuple[_Key, str]]) -> list[tuple[_Key, list[str]]]:
    """Return what hosts have in common, with their names: the same on fifty hosts is one thing to read."""
    groups: dict[_Key, list[str]] = {}
    for key, host in pairs:
        groups.setdefault(key, []).append(host)
    return list(groups.items())


def _names(hosts: list[str]) -> str:
    if len(hosts) == 1:
        return f"{hosts[0]}: " if hosts[0] else ""
    return f"{len(hosts)} hosts ({', '.join(hosts[:6])}{', ...' if len(hosts) > 6 else ''}): "
