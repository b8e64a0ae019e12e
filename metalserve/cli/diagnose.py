"""`metalserve diagnose`: what ails a node, from its logs, and the smallest step that can cure it."""

from __future__ import annotations

import json

import click

from metalserve.recovery.reading import read_evidence
from metalserve.recovery.verdict import judge
from metalserve.recovery.words import in_words


@click.command("diagnose")
@click.argument("files", nargs=-1, required=True, metavar="FILE|DIRECTORY|-...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(files: tuple[str, ...], as_json: bool) -> None:
    """Judge a node by what was saved of it; nothing is run and no host is touched.

    FILE is a kernel log (`dmesg`, `journalctl -k`), an engine's log (`docker logs`), fabric manager's log,
    `nvidia-smi -q`, a nvidia-bug-report.log.gz, a tar or a DIRECTORY of such files; "-" reads standard input.
    Together they are the evidence of one host: what an engine shows is explained by what its GPU shows.
    """
    verdict = judge(read_evidence(files))
    if as_json:
        click.echo(json.dumps(verdict.as_dict(), indent=1))
        return
    for line in in_words(verdict):
        click.echo(line)
