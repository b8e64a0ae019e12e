"""`metalserve diagnose`: what ails a node, from its logs, and the smallest step that can cure it."""

from __future__ import annotations

import json
import re
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from metalserve.recovery.bundle import DEADLINE_S, collecting_script
from metalserve.recovery.reading import read_evidence
from metalserve.recovery.verdict import SCHEMA, judge
from metalserve.recovery.words import in_words

_UNITS = {"m": 60, "h": 3600, "d": 86400}
_CONNECT_S = 30
"""Seconds for the connection and the way back, beside the script's own limit."""


class _Moment(click.ParamType[float]):
    """An age such as 90m, 12h or 7d, or a date with or without a time: seconds since the epoch."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it; wrong usage when it is neither. A date without a zone is of the controller's."""
        if isinstance(value, float):
            return value
        text = str(value)
        if re.fullmatch(r"[0-9]{1,4}[mhd]", text):
            return time.time() - int(text[:-1]) * _UNITS[text[-1]]
        try:
            return datetime.fromisoformat(text).astimezone().timestamp()
        except (ValueError, OverflowError):
            self.fail(f"{text!r} is neither an age (90m, 12h, 7d) nor a date (2026-11-26T03:00)", param, ctx)


@click.command("diagnose")
@click.argument("what", nargs=-1, metavar="[FILE|DIRECTORY|-|HOST]...")
@click.option("--inventory", metavar="FILE", help="Ask hosts: WHAT are its hosts or groups; none means all.")
@click.option(
    "--save",
    default="reports/evidence",
    show_default=True,
    metavar="DIRECTORY",
    help="Where bundles of hosts are kept.",
)
@click.option(
    "--since",
    type=_Moment(),
    default=0.0,
    metavar="TIME",
    help="What logs say of the time before does not count: an age (90m, 12h, 7d) or a date (2026-11-26T03:00).",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(what: tuple[str, ...], inventory: str | None, save: str, since: float, as_json: bool) -> int:
    """Judge a node by what was saved of it, or by what it says of itself now.

    FILE is a kernel log (`dmesg`, `journalctl -k`), an engine's log (`docker logs`), fabric manager's log,
    `nvidia-smi -q`, a nvidia-bug-report.log.gz, a bundle, a tar or a DIRECTORY of such files; "-" reads standard
    input. Together they are the evidence of one host: what an engine shows is explained by what its GPU shows.

    With --inventory each HOST is asked by one SSH session, also when its nvidia-smi hangs; nothing is changed there.
    What it said is kept as a bundle, which `metalserve diagnose BUNDLE` reads again. Status 1: a host did not answer.

    --since leaves out what happened before; a line whose time nobody can know (`dmesg` without its clock) stays.
    """
    if inventory is not None:
        return _hosts(inventory, what, Path(save), since, as_json)
    if not what:
        raise click.UsageError("give a FILE, a DIRECTORY, '-', or --inventory with hosts")
    verdict = judge(read_evidence(what, since=since))
    if as_json:
        click.echo(json.dumps(verdict.as_dict(), indent=1))
        return 0
    for line in in_words(verdict):
        click.echo(line)
    return 0


def _hosts(inventory: str, limits: tuple[str, ...], save: Path, since: float, as_json: bool) -> int:
    from metalserve.pyinfra_seam.sessions import ask, choose
    from metalserve.recovery.keeping import keep_bundle

    chosen = choose(inventory, limits)
    answers = ask(chosen, collecting_script(), timeout_s=DEADLINE_S + _CONNECT_S)
    said: dict[str, dict[str, Any]] = {}
    for name, answer in sorted(answers.items()):
        simulated = chosen.settings[name].simulated
        if answer.error or answer.status != 0 or not answer.data:
            error = answer.error or f"the script ended with status {answer.status}"
            said[name] = {"error": error, "seconds": round(answer.seconds, 1), "simulated": simulated}
            if not as_json:
                click.echo(f"{name}: no evidence: {error} -> see its BMC: power, event log, console\n")
            continue
        path = keep_bundle(save, name, answer.data)
        verdict = judge(read_evidence([str(path)], since=since))
        said[name] = {
            **verdict.as_dict(), "bundle": str(path), "seconds": round(answer.seconds, 1), "simulated": simulated
        }  # fmt: skip
        if not as_json:
            mark = "  (GPUs simulated)" if simulated else ""
            click.echo(f"{name}: evidence of {answer.seconds:.1f} s in {path}{mark}")
            click.echo("\n".join(f"  {line}" if line else "" for line in in_words(verdict)) + "\n")
    if as_json:
        click.echo(json.dumps({"schema": SCHEMA, "hosts": said}, indent=1))
    return 1 if any("error" in each for each in said.values()) else 0
