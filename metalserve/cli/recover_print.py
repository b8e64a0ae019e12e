"""What `metalserve recover` shows: the plan, the steps as they are made, how it ended."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from metalserve.pyinfra_seam.recovery_fleet import Plan
from metalserve.recovery.survey import REBOOTS, WIPES
from metalserve.recovery.values import Attempt

_COLOURS = {"recovered": "green", "quarantined": "bold red", "stopped": "yellow"}


def line(host: str, words: str) -> str:
    """Return a line of progress: time of day, host, words; the same on a terminal and in a log."""
    return f"{time.strftime('%H:%M:%S')} {host}: {words}"


def show_plan(plan: Plan, console: Console, *, simulated: bool) -> None:
    """Show who is taken, who waits and why, what reboots, what is wiped, and what goes on serving."""
    if plan.breaker.open:
        console.print(Text(f"the breaker is open: {plan.breaker.why}", style="bold red"))
    previews = {each.host: each for each in plan.previews}
    table = Table(title=f"Plan{' (GPUs simulated)' if simulated else ''}", title_justify="left")
    for name in ("Host", "Seen", "First step", "Why"):
        table.add_column(name, overflow="fold")
    for pick in plan.choice.take:
        each = previews[pick.host]
        step = Text("go on" if pick.resume else each.what, style="yellow")
        table.add_row(pick.host, each.look.words, step, pick.why if pick.resume else each.move.reason)
    for pick in plan.choice.wait:
        table.add_row(pick.host, plan.looks[pick.host].words, Text("waits", style="cyan"), pick.why)
    for pick in plan.choice.refuse:
        table.add_row(pick.host, plan.looks[pick.host].words, Text("left alone"), pick.why)
    for pick in plan.choice.restore:
        table.add_row(pick.host, plan.looks[pick.host].words, Text("back into the router", style="green"), pick.why)
    if table.row_count:
        console.print(table)
    taken = [previews[pick.host] for pick in plan.choice.take]
    for title, rungs in (("reboots", REBOOTS), ("wiped", WIPES)):
        hosts = [each.host for each in taken if each.what in rungs]
        console.print(f"{title}: {', '.join(hosts) if hosts else 'nothing'} by the first step")
    if taken:
        console.print(
            "a step whose proof fails is followed by a higher one: up to a reboot or power cycle of that host"
        )
    for capacity in plan.choice.capacity:
        console.print(capacity.in_words())
    well = len(plan.looks) - len(plan.unhealthy)
    console.print(f"{well} of {len(plan.looks)} hosts are well")


def show_attempts(attempts: Sequence[Attempt], console: Console) -> None:
    """Show how each recovery ended, with its steps."""
    for attempt in attempts:
        result = attempt.result or "unfinished"
        console.print(Text(f"{attempt.host}: {result}: {attempt.words}", style=_COLOURS.get(result, "")))
        for record in attempt.steps:
            took = f"{record.ended - record.begun:.0f} s" if record.ended is not None else "in flight"
            proof = f", proof {record.proof}" if record.proof else ""
            words = f": {record.words}" if record.words else ""
            console.print(Text(f"    {record.step.rung}: {record.outcome}{proof} ({took}){words}"))
