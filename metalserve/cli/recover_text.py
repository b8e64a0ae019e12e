"""What recovery remembers, in a terminal of 80 columns and more."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from metalserve.recovery.memory import Entry, Memory, duration
from metalserve.recovery.values import Attempt, StepRecord
from metalserve.report.values import line

_COLOURS = {"recovered": "green", "quarantined": "magenta", "stopped": "yellow", None: "bold"}
_PROOFS = {"good": "green", "bad": "red", "unknown": "magenta", None: "dim"}


def stamp(seconds: float) -> str:
    """Return a time as people write it, UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%MZ")


def print_standing(memory: Memory, console: Console) -> None:
    """Print what goes on now."""
    now = memory.now
    _breaker_line(memory, console)
    locks = {lock.host: lock for lock in memory.locks}
    console.print(Text(f"{len(memory.open)} open attempt(s)", "bold" if memory.open else "dim"))
    for attempt in memory.open:
        lock = locks.get(attempt.host)
        last = attempt.steps[-1] if attempt.steps else None
        console.print(Text.assemble("  ", (attempt.host, "bold"), f" ({attempt.group}), attempt {attempt.id}, begun "
                                    f"{duration(now - attempt.begun)} ago: {_causes(attempt)}"))  # fmt: skip
        if last is not None:
            console.print(_indented(_step(last, now)))
        if lock is not None and lock.live:
            console.print(_indented(Text(line(lock.in_words(now)), "dim")))
        else:
            console.print(_indented(Text("its controller is gone: the next run goes on with it", "yellow")))
    others = [lock for lock in memory.locks if lock.live and lock.host not in {a.host for a in memory.open}]
    for lock in others:
        console.print(Text(f"  {lock.host}: {line(lock.in_words(now))}"))
    console.print(Text(f"{len(memory.marks)} marked host(s)", "bold" if memory.marks else "dim"))
    if memory.marks:
        table = Table(box=None, pad_edge=True, header_style="dim")
        table.add_column("host", overflow="fold")
        table.add_column("mark", no_wrap=True)
        table.add_column("for", no_wrap=True)
        table.add_column("by and why", overflow="fold", ratio=1)
        for mark in memory.marks:
            left = duration(mark.until - now) if mark.until is not None else "good"
            table.add_row(mark.host, mark.kind, left, Text(f"{line(mark.by)}: {line(mark.why)}"))
        console.print(table)


def print_history(
    attempts: Sequence[Attempt], journal: Iterable[Entry], console: Console, now: float, *, everything: bool
) -> None:
    """Print attempts, the newest first, then the journal."""
    if not attempts:
        console.print(Text("no attempts", "dim"))
    for attempt in attempts:
        ended = f"{attempt.result} after {duration(attempt.ended - attempt.begun)}" if attempt.ended else "open"
        console.print(
            Text.assemble(
                f"{stamp(attempt.begun)}  ", (attempt.host, "bold"), f"  {_causes(attempt)}  ",
                (ended, _COLOURS[attempt.result]),
            )
        )  # fmt: skip
        if everything:
            console.print(_indented(Text(f"attempt {attempt.id} of {line(attempt.actor)}", "dim")))
            for step in attempt.steps:
                console.print(_indented(_step(step, now)))
                console.print(_indented(Text(f"why: {line(step.step.reason)}", "dim"), 4))
                if step.words:
                    console.print(_indented(Text(line(step.words), "dim"), 4))
            if attempt.evidence:
                console.print(_indented(Text(f"evidence: {line(attempt.evidence)}", "dim")))
        elif attempt.steps:
            console.print(_indented(Text(" -> ").join(_short(step) for step in attempt.steps)))
        if attempt.words:
            console.print(_indented(Text(line(attempt.words))))
    entries = list(journal)
    if entries:
        console.print(Text("journal", "bold"))
        _journal(entries, console)


def print_breaker(memory: Memory, past: Sequence[Entry], console: Console) -> None:
    """Print the breaker and its history."""
    _breaker_line(memory, console)
    if memory.breaker.open:
        console.print(_indented(Text("hosts: " + ", ".join(memory.breaker.hosts))))
    if past:
        _journal(past, console)


def _breaker_line(memory: Memory, console: Console) -> None:
    state = memory.breaker
    if state.open:
        console.print(Text(f"breaker OPEN since {stamp(state.since)}: no recovery begins", "bold red"))
        console.print(_indented(Text(line(state.why))))
        console.print(_indented(Text("metalserve recover breaker close --why WHY", "dim")))
    elif state.closed_at:
        console.print(Text(f"breaker closed, by {line(state.closed_by)} {stamp(state.closed_at)}", "green"))
    else:
        console.print(Text("breaker closed", "green"))


def _journal(entries: Iterable[Entry], console: Console) -> None:
    for entry in entries:
        about = f" {entry.host}" if entry.host else ""
        console.print(
            _indented(
                Text(f"{stamp(entry.at)}  {entry.what}{about}, {line(entry.by) or 'unknown'}: {line(entry.words)}")
            )
        )


def _causes(attempt: Attempt) -> str:
    return ", ".join(attempt.causes) or "no evidence"


def _step(step: StepRecord, now: float) -> Text:
    subjects = f" {', '.join(s.name for s in step.step.subjects)}" if step.step.subjects else ""
    if step.ended is None:
        due = step.begun + step.step.deadline_s - now
        left = f"{duration(due)} left" if due > 0 else f"{duration(-due)} over its deadline"
        return Text(f"{step.step.rung}{subjects}: in flight for {duration(now - step.begun)}, {left}", "bold")
    proof = f", proof {step.proof}" if step.proof is not None else ""
    took = duration(step.ended - step.begun)
    return Text.assemble(
        f"{step.step.rung}{subjects}: ", (f"{step.outcome}{proof}", _PROOFS[step.proof]), f" in {took}"
    )


def _short(step: StepRecord) -> Text:
    told = step.proof or step.outcome or "in flight"
    return Text.assemble(step.step.rung, (f" ({told})", _PROOFS[step.proof]))


def _indented(text: Text, by: int = 2) -> Padding:
    return Padding(text, (0, 0, 0, by))
