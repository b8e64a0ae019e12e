"""`metalserve weights status|verify|repair|gc`: the models on the hosts of an inventory, asked and mended over SSH."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.live import Live

from metalserve.cli.weights_view import answer_lines, progress_table, status_view
from metalserve.converge.selection import select
from metalserve.desired.follow import Follow, Look
from metalserve.desired.render import prelude
from metalserve.errors import MetalserveError
from metalserve.pyinfra_seam.connections import Asked, connected
from metalserve.settings import HostSettings
from metalserve.weights import watching
from metalserve.weights.begin import begin_script
from metalserve.weights.fleet import Answer, HostStatus, command_script, read_answer, read_status, status_script
from metalserve.weights.host import config_path, key_of
from metalserve.weights.units import Verb

_F = TypeVar("_F", bound=Callable[..., Any])
_ASK_S = 120
_COLLECT_S = 1800
"""Removing terabytes of files takes a while on some file systems."""


def _on_hosts(function: _F) -> _F:
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
        click.option("--limit", "limits", multiple=True, metavar="NAME", help="Only this host, group or pattern."),
        click.argument("inventory"),
    ):
        function = option(function)
    return function


@click.command("status")
@_on_hosts
@click.option("--watch", "every_s", type=click.FloatRange(0.5), is_flag=False, flag_value=2.0, metavar="SECONDS",
              help="Look again every SECONDS (2), until nothing is at work any more.")  # fmt: skip
def status(inventory: str, limits: tuple[str, ...], as_json: bool, every_s: float | None) -> int:
    """Show the models on each host: what is there, since when it is proved, who needs it, what is at work.

    Exit status: 0 each host has the model that the inventory names, and it is right; 1 one has not, or did not answer.
    """
    chosen = select(inventory, limits).chosen
    with connected(inventory, lambda name, settings: name in chosen) as hosts:
        found = _look(hosts)
        if every_s is not None and not as_json:
            found = _watch(hosts, found, every_s)
        elif as_json:
            _print({"hosts": [each.as_dict() for each in found]})
            while every_s is not None and _at_work(found):
                time.sleep(every_s)
                found = _look(hosts)
                _print({"hosts": [each.as_dict() for each in found]})
        else:
            Console().print(status_view(found))
    for each in found:
        if each.error:
            click.echo(f"metalserve: {each.host}: {each.error}", err=True)
    return 0 if all(each.right for each in found) else 1


def _look(hosts: Asked) -> list[HostStatus]:
    told = hosts.ask(lambda name: status_script(hosts.settings[name]), _ASK_S)
    return [
        HostStatus(each.host, error=each.error)
        if each.error
        else read_status(each.host, hosts.settings[each.host], each.lines)
        for each in told
    ]


def _watch(hosts: Asked, found: list[HostStatus], every_s: float) -> list[HostStatus]:
    console = Console()
    if not console.is_terminal:
        console.print(status_view(found))
        while _at_work(found):
            time.sleep(every_s)
            found = _look(hosts)
            console.print(status_view(found))
        return found
    with Live(status_view(found), console=console, auto_refresh=False) as live:
        while _at_work(found):
            time.sleep(every_s)
            found = _look(hosts)
            live.update(status_view(found), refresh=True)
    return found


def _at_work(found: Sequence[HostStatus]) -> bool:
    return any(model.running for each in found for model in each.models)


@click.command("verify")
@_on_hosts
@click.option("--full", "kind", flag_value="full", help="Read and hash every byte, in a unit of the host's own.")
@click.option("--fast", "kind", flag_value="fast", default=True, help="Sizes, times, sampled blocks (the default).")
def verify(inventory: str, limits: tuple[str, ...], as_json: bool, kind: str) -> int:
    """Check that the models on the hosts are what was proved.

    Exit status: 0 they are; 1 one is not, or a host did not answer.
    """
    if kind == "full":
        return _work("check", inventory, limits, as_json)
    return _tell(_each(inventory, limits, lambda config: ("check", "--fast", config)), as_json, inventory)


@click.command("repair")
@_on_hosts
def repair(inventory: str, limits: tuple[str, ...], as_json: bool) -> int:
    """Read every byte of the models on the hosts, and fetch again what is wrong; that alone.

    Runs in a unit of the host's own, which goes on when this ends. Exit status: 0 all is right; 1 a host failed.
    """
    return _work("repair", inventory, limits, as_json)


@click.command("gc")
@_on_hosts
@click.option("--keep", type=click.IntRange(0), help="Models without a reference that stay (staging.keep_previous).")
@click.option("--dry", is_flag=True, help="Only say what would be removed.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def collect(inventory: str, limits: tuple[str, ...], as_json: bool, keep: int | None, dry: bool, yes: bool) -> int:
    """Remove models from the hosts that nothing refers to: no engine, no inventory. The newest of them are kept.

    Exit status: 0 done, or nothing to do; 1 a host failed, or it was not agreed to.
    """
    chosen = select(inventory, limits).chosen

    def words(settings: HostSettings, *more: str) -> tuple[str, ...]:
        kept = settings.staging.keep_previous if keep is None else keep
        return ("gc", settings.storage.mount, "--keep", str(kept), *more)

    with connected(inventory, lambda name, settings: name in chosen and settings.model is not None) as hosts:
        plan = _answers(hosts, lambda settings: words(settings, "--dry"))
        going = [each.host for each in plan if each.data.get("removed")]
        if dry or not going:
            return _tell(plan, as_json, inventory)
        if not yes:
            if not as_json:
                _tell(plan, False, inventory)
            if as_json or not sys.stdin.isatty():
                raise MetalserveError("nobody agreed to it", where="weights gc", remedy="--yes does it, --dry looks")
            if not click.confirm(f"Remove this from {len(going)} host(s)?"):
                return 1
        done = _answers(hosts, words, going, _COLLECT_S)
    rest = [each for each in plan if each.host not in going]
    return _tell([*done, *rest], as_json, inventory)


def _each(inventory: str, limits: tuple[str, ...], words: Callable[[str], Sequence[str]]) -> list[Answer]:
    """Ask the agent of each host that has a model about it."""
    chosen = select(inventory, limits).chosen

    def about(settings: HostSettings) -> Sequence[str]:
        assert settings.model is not None
        return words(config_path(key_of(settings.model)))

    with connected(inventory, lambda name, settings: name in chosen and settings.model is not None) as hosts:
        return _answers(hosts, about)


def _answers(
    hosts: Asked,
    words: Callable[[HostSettings], Sequence[str]],
    among: Sequence[str] | None = None,
    timeout_s: int = _ASK_S,
) -> list[Answer]:
    told = hosts.ask(lambda name: command_script(words(hosts.settings[name])), timeout_s, among)
    return [Answer(t.host, failed=t.error) if t.error else read_answer(t.host, t.lines) for t in told]


def _work(verb: Verb, inventory: str, limits: tuple[str, ...], as_json: bool) -> int:
    """Begin a unit on each host, or find the one that runs, and follow it to its end."""
    chosen = select(inventory, limits).chosen
    with connected(inventory, lambda name, settings: name in chosen and settings.model is not None) as hosts:
        begun = hosts.ask(partial(_begin, hosts, verb), _ASK_S)
        answers = {t.host: Answer(t.host, failed=t.error or " ".join(t.lines[-1:])) for t in begun if not t.ok}
        looks = _follow(hosts, verb, [t.host for t in begun if t.ok], quiet=as_json)
    for host, look in looks.items():
        remedy = f" -> {look.remedy}" if look.remedy else ""
        answers[host] = Answer(host, dict(look.data), failed=look.failed + remedy if look.failed else "")
    return _tell([answers[name] for name in chosen if name in answers], as_json, inventory)


def _begin(hosts: Asked, verb: Verb, name: str) -> str:
    model = hosts.settings[name].model
    assert model is not None
    return f"set -eu\nexec 2>&1\n{prelude()}\n{begin_script(model, verb)}"


def _follow(hosts: Asked, verb: Verb, names: list[str], *, quiet: bool) -> dict[str, Look]:
    console = Console()
    ways: dict[str, Follow] = {}
    for name in names:
        model = hosts.settings[name].model
        assert model is not None
        ways[name] = watching.follow(verb, key_of(model))
    looks: dict[str, Look] = {}
    left = list(names)
    seconds = 1 if console.is_terminal and not quiet else 10
    live = Live(console=console, auto_refresh=False) if console.is_terminal and not quiet and names else None
    if live is not None:
        live.start()
    try:
        while left:
            for told in hosts.ask(lambda name: ways[name].script(seconds), _ASK_S, left):
                lost = Look(running=False, failed=told.error, remedy="run again: what still runs there is followed")
                looks[told.host] = lost if told.error else ways[told.host].read(told.lines)
                if live is None and not quiet and looks[told.host].running and looks[told.host].words:
                    click.echo(f"{told.host}: {looks[told.host].words}")
            left = [name for name in left if looks[name].running]
            if live is not None:
                live.update(progress_table(names, {name: look.data for name, look in looks.items()}), refresh=True)
    finally:
        if live is not None:
            live.stop()
    return looks


def _tell(answers: Sequence[Answer], as_json: bool, inventory: str) -> int:
    if not answers:
        raise MetalserveError("no host has `model` settings", where=inventory, remedy="see roles/weights/README.md")
    if as_json:
        _print({"hosts": [{"host": a.host, "failed": a.failed or None, **a.data} for a in answers]})
    for each in answers:
        if each.failed:
            click.echo(f"metalserve: {each.host}: {each.failed}", err=True)
        elif not as_json:
            for line in answer_lines(each):
                click.echo(line)
    return 1 if any(each.failed for each in answers) else 0


def _print(data: dict[str, Any]) -> None:
    click.echo(json.dumps({"schema": 1, **data}, indent=1))


COMMANDS = (status, verify, repair, collect)
