"""The commands of `metalserve recover` that read and change what it remembers; they touch no host."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from metalserve.cli.recover_text import print_breaker, print_history, print_standing
from metalserve.errors import MetalserveError
from metalserve.recovery.actor import person
from metalserve.recovery.export import as_csv, history_as_dict, standing_as_dict
from metalserve.recovery.memory import Memory
from metalserve.recovery.store import Store, store_path
from metalserve.recovery.values import Mark

KINDS = ("maintenance", "do-not-touch", "quarantine")
_UNITS = {"m": 60.0, "h": 3600.0, "d": 86400.0}


class TimeSpan(click.ParamType[float]):
    """A time such as 30m, 12h or 7d, in seconds."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it; wrong usage when it is none."""
        text = str(value)
        if text[-1:] in _UNITS and text[:-1].isascii() and text[:-1].isdigit() and 0 < int(text[:-1]) < 10_000:
            return int(text[:-1]) * _UNITS[text[-1]]
        self.fail(f"{text!r} is no time: give a number and m, h or d, such as 30m, 12h or 7d", param, ctx)


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(as_json: bool) -> None:
    """Show what goes on: the breaker, attempts that are open and who makes them, marks.

    An attempt whose controller is gone stays open: the next `metalserve recover` goes on with it, and looks first.
    """
    with _reading() as store:
        memory = Memory(time.time()) if store is None else store.memory(time.time())
    if as_json:
        click.echo(json.dumps(standing_as_dict(memory) | {"file": str(store_path())}, indent=1))
        return
    print_standing(memory, Console(highlight=False))
    if store is None:
        click.echo(f"nothing is remembered yet: {store_path()} does not exist")


@click.command("history")
@click.argument("hosts", nargs=-1, metavar="[HOST]...")
@click.option("--since", type=TimeSpan(), default="30d", show_default=True, help="How far back: 12h, 7d.")
@click.option("-v", "everything", is_flag=True, help="Every step with its reason and what was seen.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def history(hosts: tuple[str, ...], since: float, everything: bool, as_json: bool) -> None:
    """Show attempts, the newest first, and who set or took away marks, locks and the breaker."""
    begin = time.time() - since
    with _reading() as store:
        attempts = [] if store is None else store.attempts(since=begin)
        journal = [] if store is None else store.journal(begin)
    if hosts:
        attempts = [attempt for attempt in attempts if attempt.host in hosts]
        journal = [entry for entry in journal if entry.host in hosts]
    if as_json:
        click.echo(json.dumps(history_as_dict(attempts, journal), indent=1))
        return
    print_history(attempts, journal, Console(highlight=False), time.time(), everything=everything)


@click.command("export")
@click.option("--format", "form", type=click.Choice(["json", "csv"]), default="json", show_default=True)
@click.option("--since", type=TimeSpan(), help="How far back: 12h, 7d; all when it is not given.")
@click.option("-o", "--output", metavar="FILE", help="Write FILE, readable by its owner only; else standard output.")
def export(form: str, since: float | None, output: str | None) -> None:
    """Write all that is remembered of attempts: JSON with the journal, or CSV with a line a step."""
    begin = 0.0 if since is None else time.time() - since
    with _reading() as store:
        attempts = [] if store is None else store.attempts(since=begin)
        journal = [] if store is None else store.journal(begin)
    text = as_csv(attempts) if form == "csv" else json.dumps(history_as_dict(attempts, journal), indent=1) + "\n"
    if output is None:
        click.echo(text, nl=False)
        return
    from metalserve.report.writing import write_whole

    write_whole(Path(output), text.encode())
    click.echo(f"{output}: {len(attempts)} attempt(s)", err=True)


@click.command("mark")
@click.argument("hosts", nargs=-1, required=True, metavar="HOST...")
@click.argument("kind", type=click.Choice(KINDS))
@click.option("--why", required=True, metavar="TEXT", help="The reason; whoever is stopped by the mark reads it.")
@click.option("--for", "lasts", type=TimeSpan(), help="How long: 4h, 7d; until `unmark` when it is not given.")
@click.option("--inventory", metavar="FILE", help="Refuse hosts that this inventory does not have.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def mark(
    hosts: tuple[str, ...], kind: str, why: str, lasts: float | None, inventory: str | None, as_json: bool
) -> None:
    """Keep recovery away from hosts. No option of `recover` lifts a mark.

    do-not-touch: somebody works on it. maintenance: out of service for a while. quarantine: not fit for service. A
    recovery that is under way stops before its next step.
    """
    _known(hosts, inventory)
    now, by = time.time(), person()
    until = None if lasts is None else now + lasts
    store = Store()
    try:
        for host in hosts:
            store.mark(Mark(host, kind, by, why, now, until))  # type: ignore[arg-type]
        memory = store.memory(now)
        strange = [host for host in hosts if not store.knows(host)]
    finally:
        store.close()
    if as_json:
        marks = [each for each in standing_as_dict(memory)["marks"] if each["host"] in hosts]
        click.echo(json.dumps({"schema": 1, "marks": marks}, indent=1))
        return
    for host in hosts:
        click.echo(f"{host}: marked {kind}")
        for attempt in memory.open:
            if attempt.host == host:
                click.echo(f"{host}: attempt {attempt.id} is under way and stops before its next step", err=True)
    if strange and inventory is None:
        click.echo(f"note: never seen here: {', '.join(strange)}; --inventory FILE checks the names", err=True)


@click.command("unmark")
@click.argument("hosts", nargs=-1, required=True, metavar="HOST...")
@click.argument("kind", type=click.Choice(KINDS))
@click.option("--why", required=True, metavar="TEXT", help="The reason, for the history.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def unmark(hosts: tuple[str, ...], kind: str, why: str, as_json: bool) -> int:
    """Take a mark away. Exit status 1: one of the hosts had none."""
    found: dict[str, bool] = dict.fromkeys(hosts, False)
    with _reading() as store:
        if store is not None:
            for host in hosts:
                found[host] = store.unmark(host, kind, by=person(), why=why, now=time.time())
    if as_json:
        click.echo(json.dumps({"schema": 1, "unmarked": found}, indent=1))
    else:
        for host, there in found.items():
            click.echo(f"{host}: {kind} taken away" if there else f"{host}: is not marked {kind}", err=not there)
    return 0 if all(found.values()) else 1


@click.group("breaker")
def breaker() -> None:
    """The fleet's breaker: it opens when too many hosts turn unhealthy at once; only a person closes it."""


@breaker.command("show")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(as_json: bool) -> int:
    """Show whether it is open, why, and its history. Exit status 1 while it is open."""
    with _reading() as store:
        memory = Memory(time.time()) if store is None else store.memory(time.time())
        past = [] if store is None else [entry for entry in store.journal() if entry.what.startswith("breaker-")]
    if as_json:
        state = standing_as_dict(memory)["breaker"]
        click.echo(json.dumps({"schema": 1, "breaker": state, **_only_journal(past)}, indent=1))
    else:
        print_breaker(memory, past, Console(highlight=False))
    return 1 if memory.breaker.open else 0


@breaker.command("close")
@click.option("--why", required=True, metavar="TEXT", help="What was found out and done; it stays in the history.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def close(why: str, as_json: bool) -> int:
    """Let recoveries begin again. Exit status 1: it was not open.

    What was seen until now does not open it again, nor do the hosts that opened it, for a day or until they were well.
    """
    with _reading() as store:
        state = None if store is None else store.close_breaker(person(), why, time.time())
        memory = Memory(time.time()) if store is None else store.memory(time.time())
    if as_json:
        click.echo(json.dumps({"schema": 1, "breaker": standing_as_dict(memory)["breaker"]}, indent=1))
    elif state is None:
        click.echo("the breaker is not open", err=True)
    else:
        click.echo(f"closed by {state.closed_by}; {len(state.hosts)} host(s) had opened it")
    return 0 if state is not None else 1


commands: tuple[click.Command, ...] = (status, history, export, mark, unmark, breaker)
"""What the group `metalserve recover` adds to its own."""


def _only_journal(entries: list[Any]) -> dict[str, Any]:
    return {"journal": history_as_dict([], entries)["journal"]}


def _known(hosts: tuple[str, ...], inventory: str | None) -> None:
    if inventory is None:
        return
    from metalserve.pyinfra_seam.inventory import load_inventory

    names = {name for name, _ in load_inventory(inventory)}
    strange = [host for host in hosts if host not in names]
    if strange:
        raise MetalserveError(f"has no host {', '.join(strange)}; nothing was marked", where=inventory)


@contextmanager
def _reading() -> Iterator[Store | None]:
    """Give the store, or `None` when there is none yet: to look at it does not make it."""
    if not store_path().exists():
        yield None
        return
    store = Store()
    try:
        yield store
    finally:
        store.close()
