"""`metalserve read`: what a hardware tool printed, as JSON or as lines for people."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import click

from metalserve.catalogue.models import suggestion
from metalserve.errors import MetalserveError
from metalserve.hardware.parsers.smi import addresses_named_in_errors, smi_failure
from metalserve.hardware.parsers.text import ParseError, decode
from metalserve.hardware.readable import KINDS, SCHEMA, Kind, candidates, read_any


@click.command("read")
@click.argument("words", nargs=-1, metavar="[KIND] [FILE...|-]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a file; several files: one a line.")
def command(words: tuple[str, ...], as_json: bool) -> int:
    """Read the output of a hardware tool from FILEs, or from standard input for "-".

    Without KIND it is recognised; without anything the kinds are listed. A file that cannot be read gives an error
    and status 1, the others are still read.
    """
    if not words:
        for kind in KINDS.values():
            click.echo(f"{kind.name:14}  {kind.command}")
        return 0
    chosen, files = _split(words)
    failed = False
    for name in files:
        result = _read(chosen, name)
        failed = failed or "error" in result
        if as_json:
            click.echo(json.dumps(result, indent=None if len(files) > 1 else 2))
        elif "error" in result:
            click.echo(f"metalserve: {name}: {result['error']}", err=True)
        else:
            _show(result, several=len(files) > 1)
    return 1 if failed else 0


def _split(words: tuple[str, ...]) -> tuple[Kind | None, tuple[str, ...]]:
    first, rest = words[0], words[1:]
    if first in KINDS:
        return KINDS[first], rest or ("-",)
    if re.fullmatch(r"[A-Za-z0-9_]+(?:-[A-Za-z0-9_]+)*", first) and not Path(first).exists():
        hint = suggestion(first, KINDS) or f"; kinds are {', '.join(KINDS)}"
        raise MetalserveError(f"{first!r} is neither a kind nor a file{hint}")
    return None, words


def _read(kind: Kind | None, name: str) -> dict[str, Any]:
    head: dict[str, Any] = {"schema": SCHEMA, "file": name}
    try:
        raw = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        return {**head, "error": f"cannot be read: {error.strerror}"}
    text = decode(raw)
    try:
        found, read = (kind, kind.read(text)) if kind else read_any(text)
        return {**head, "kind": found.name, **read}
    except ParseError as error:
        likely = kind or next(candidates(text), None)
        named = {"kind": likely.name} if likely else {}
        return {**head, **named, "error": str(error), **_broken_smi(text)}


def _broken_smi(text: str) -> dict[str, Any]:
    """What nvidia-smi's own error message tells beyond its words."""
    failure = smi_failure(text)
    if failure is None:
        return {}
    return {"state": failure.state, "unreachable": list(addresses_named_in_errors(text))}


def _show(result: dict[str, Any], *, several: bool) -> None:
    if several:
        click.echo(f"== {result['file']} ({result['kind']})")
    for key, value in result.items():
        if key in ("schema", "file", "kind") or value in ([], {}, None, ""):
            continue
        if isinstance(value, list) and value and isinstance(value[0], dict):
            click.echo(f"{key}:")
            for item in value:
                click.echo("  " + _line(item))
        elif isinstance(value, dict):
            click.echo(f"{key}: {_line(value)}")
        else:
            click.echo(f"{key}: {', '.join(map(str, value)) if isinstance(value, list) else value}")


def _line(item: dict[str, Any]) -> str:
    return ", ".join(f"{k}={v}" for k, v in item.items() if v not in (None, "", [], {}, ()))
