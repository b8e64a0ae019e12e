"""A report in the terminal: the fleet in a table, then what is above ok, host by host, with what to do."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from metalserve.report.figures import figures
from metalserve.report.model import ABOVE_OK, STATUSES, Entry, Host, Report, gpu_name, hosts_by_verdict, merged
from metalserve.report.values import utc

COLOURS = {
    "fail": "bold red",
    "unknown": "magenta",
    "inconclusive": "cyan",
    "warn": "yellow",
    "ok": "green",
    "skipped": "dim",
}
ROWS = 40
"""More hosts than fit a screen are told by number; only those above ok get a line then."""
_LINES = 8
_Line = tuple[int, Text]
"""How far it is indented, and the line."""


def print_report(report: Report, console: Console, *, everything: bool = False) -> None:
    """Print a report.

    Args:
        report: as read.
        console: where to.
        everything: also what is ok, skipped, measured and all lines of evidence.
    """
    console.print(Text.assemble(("Verification ", "bold"), headline(report)))
    if report.simulated:
        names = "all hosts" if len(report.simulated) == len(report.hosts) else ", ".join(report.simulated[:6])
        console.print(
            Text(f"SIMULATED: {names}: stand-ins for hardware; nothing here says how real GPUs are", "bold yellow")
        )
    counts = report.verdicts
    parts = [Text(f"{counts[s]} {s}", style=COLOURS[s]) for s in STATUSES if counts[s]]
    console.print(
        Text.assemble(f"{len(report.hosts)} host{'' if len(report.hosts) == 1 else 's'}: ", Text(", ").join(parts))
        if parts
        else "no hosts"
    )
    _fleet(report, console, everything)
    for host in hosts_by_verdict(report.hosts):
        _host(host, console, everything)


def headline(report: Report) -> str:
    """Return when, how long and by what the report was made, in one line."""
    parts = [when(report.started)]
    if report.seconds is not None:
        parts.append(f"{report.seconds:.0f} s")
    parts.append(f"metalserve {report.version or '(version not recorded)'}")
    parts.append(f"release {', '.join(report.releases) or 'not recorded'}")
    if report.complete is False:
        parts.append("the run did not come to its end")
    return ", ".join(parts)


def when(started: str) -> str:
    """Return a time of a report as people write it ("2026-11-25 14:37:07 UTC")."""
    found = utc(started)
    return found.strftime("%Y-%m-%d %H:%M:%S UTC") if found else started or "time not recorded"


def _fleet(report: Report, console: Console, everything: bool) -> None:
    hosts = hosts_by_verdict(report.hosts)
    shown = hosts if everything or len(hosts) <= ROWS else [h for h in hosts if h.verdict in ABOVE_OK][:ROWS]
    if not shown:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("host", overflow="fold")
    table.add_column("verdict", no_wrap=True)
    present = [s for s in STATUSES if any(h.counts[s] for h in shown)]
    for status in present:
        table.add_column(status, justify="right", no_wrap=True)
    table.add_column("GPUs", overflow="fold")
    for host in shown:
        cells = [Text(str(host.counts[s] or "·"), style=COLOURS[s] if host.counts[s] else "dim") for s in present]
        table.add_row(
            Text(host.name),
            Text(host.verdict, style=COLOURS[host.verdict]),
            *cells,
            Text(gpu_name(host) or "not read", style="" if gpu_name(host) else "dim"),
        )
    console.print(table)
    if len(shown) < len(hosts):
        console.print(Text(f"and {len(hosts) - len(shown)} more; -v shows all", style="dim"))


def _host(host: Host, console: Console, everything: bool) -> None:
    lines = list(_lines(host, everything))
    if not lines:
        return
    console.print()
    console.print(Text.assemble((host.name, "bold"), "  ", (host.verdict, COLOURS[host.verdict])))
    for depth, line in lines:
        # On a screen the lines that wrap keep their indent; padding would cut them off where nothing is wrapped.
        console.print(Padding(line, (0, 0, 0, depth)) if console.is_terminal else Text(" " * depth).append(line))


def _lines(host: Host, everything: bool) -> Iterator[_Line]:
    if host.reason:
        role = host.failure.get("role", "")
        yield 2, Text(f"{role}: {host.reason}" if role else host.reason, style="bold red")
        yield from _quoted(host.failure.get("evidence", ""), everything)
        if host.failure.get("remedy"):
            yield 4, Text(f"do: {host.failure['remedy']}")
    statuses = STATUSES if everything else ABOVE_OK
    for entry in merged(host.at(*statuses)):
        yield from _entry(entry, everything)
    if everything:
        for figure in figures(host):
            words = f"  ({figure.expected})" if figure.expected else ""
            style = "yellow" if figure.low else ""
            yield 2, Text(f"{figure.name}: {figure.value:.4g} {figure.unit}{words}", style=style)


def _entry(entry: Entry, everything: bool) -> Iterator[_Line]:
    head = Text.assemble(
        (entry.status, COLOURS[entry.status]),
        f"  {entry.check}: {entry.subject if entry.status in ABOVE_OK else entry.brief}: ",
        (entry.observed, "bold"),
    )
    yield 2, head
    if entry.status in ("ok", "skipped"):
        return
    for name, value in (("expected", entry.expected), ("impact", entry.impact), ("do", entry.remedy)):
        if value:
            yield 4, Text.assemble((f"{name}: ", "dim"), value)
    yield from _quoted(entry.evidence, everything)
    if entry.source:
        yield 4, Text(f"source: {entry.source}", style="dim")


def _quoted(evidence: str, everything: bool) -> Iterator[_Line]:
    lines = evidence.splitlines()
    for line in lines if everything else lines[-_LINES:]:
        yield 4, Text(f"| {line}", style="dim")
