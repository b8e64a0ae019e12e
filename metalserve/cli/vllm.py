"""`metalserve vllm`: vLLM arguments against a pinned release."""

from __future__ import annotations

import fnmatch
import json
import sys

import click

from metalserve.catalogue.vllm_flags import Flag, known_releases, load_flags
from metalserve.flags import ENV_FILE, Command, check_command, differences, read_pasted, read_words
from metalserve.releases import load_release, release_names


def vllm_version(name: str | None) -> str:
    """Return the vLLM version of a release's name, or the version itself; the newest of the catalogue when None."""
    if name is None:
        return known_releases()[-1]
    if name in release_names():
        return load_release(name).vllm.version
    return load_flags(name).release


@click.group("vllm")
def command() -> None:
    """Check vLLM flags against a pinned release."""


@command.command("releases")
def releases() -> None:
    """List the vLLM releases whose flags are known."""
    for version in known_releases():
        click.echo(f"{version}  {len(load_flags(version).flags)} flags")


RELEASE = click.option(
    "--release", metavar="NAME", help="A release, or a vLLM version such as 0.33.0; default: the image's, or the newest"
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@command.command("check", context_settings={"ignore_unknown_options": True})
@RELEASE
@JSON
@click.argument("args", nargs=-1, required=True, type=click.UNPROCESSED)
def check(release: str | None, as_json: bool, args: tuple[str, ...]) -> int:
    """Check ARGS (write `--` before them), a pasted text in one argument, or `-` for the standard input.

    ARGS are what follows `vllm serve`, or a whole `docker run`, `vllm serve` or `python -m
    vllm.entrypoints.openai.api_server` command; a text may also be a compose file.
    Prints what is wrong and the corrected command.

    Exit status 1 when vLLM would not start or the command shows a secret; warnings alone are 0. Values of tokens and
    keys are never printed.
    """
    checked = check_command(_read(args), vllm_version(release) if release is not None else None)
    if as_json:
        click.echo(json.dumps(checked.as_dict(), indent=2))
        return 1 if checked.errors else 0
    for problem in checked.problems:
        click.echo(f"{problem.severity}: {problem}")
    errors = checked.errors
    say = f"{errors} problem{'' if errors == 1 else 's'}" if errors else "accepted"
    click.echo(f"vLLM {checked.release}: {say}")
    if checked.changes:
        click.echo(f"\nCorrected ({'; '.join(checked.changes)}):\n\n{checked.corrected}")
    if checked.secrets:
        click.echo(f"\nWrite {ENV_FILE}, mode 0600, with a line NAME=VALUE for {', '.join(checked.secrets)}.")
    return 1 if errors else 0


def _read(args: tuple[str, ...]) -> Command:
    if args == ("-",):
        return read_pasted(sys.stdin.read())
    if len(args) == 1 and any(space in args[0] for space in " \n"):
        return read_pasted(args[0])
    return read_words(args)


@command.command("flags", context_settings={"ignore_unknown_options": True})
@RELEASE
@JSON
@click.argument("pattern", required=False)
def flags(release: str | None, as_json: bool, pattern: str | None) -> int:
    """List the flags of a release that match PATTERN (a part of the name, or with * as in a file name).

    Exit status 1 when none matches.
    """
    version = vllm_version(release)
    found = [flag for flag in load_flags(version).flags if flag.names and _matches(flag, pattern)]
    if as_json:
        rows = [
            {
                "flag": _long(flag), "spellings": list(flag.names), "value": _value(flag) or None,
                "default": flag.default, "choices": list(flag.choices) if flag.choices is not None else None,
            }
            for flag in found
        ]  # fmt: skip
        click.echo(json.dumps({"version": 1, "vllm": version, "flags": rows}, indent=2))
        return 0 if found else 1
    for flag in found:
        choices = f"  one of {', '.join(map(str, flag.choices))}" if flag.choices else ""
        default = f"  default {flag.default}" if flag.default is not None else ""
        click.echo(f"{_long(flag)} {_value(flag)}".rstrip() + default + choices)
    if not found:
        click.echo(f"vLLM {version} has no flag like {pattern!r}", err=True)
    return 0 if found else 1


def _long(flag: Flag) -> str:
    return next((name for name in flag.names if name.startswith("--")), flag.names[0])


def _value(flag: Flag) -> str:
    if flag.action in {"boolean", "help"}:
        return ""
    return f"{flag.type.upper()}{' ...' if flag.nargs in {'+', '*'} or flag.action == 'append' else ''}"


def _matches(flag: Flag, pattern: str | None) -> bool:
    if pattern is None:
        return True
    wanted = pattern.lower().replace("_", "-")
    if any(sign in wanted for sign in "*?["):
        return any(fnmatch.fnmatch(name, wanted) or fnmatch.fnmatch(name.lstrip("-"), wanted) for name in flag.names)
    return any(wanted.lstrip("-") in name for name in flag.names)


@command.command("diff")
@JSON
@click.argument("old")
@click.argument("new")
def diff(as_json: bool, old: str, new: str) -> None:
    """Show what changed in vLLM's flags from release OLD to release NEW: added, removed, renamed, defaults, choices."""
    before, after = vllm_version(old), vllm_version(new)
    found = differences(before, after)
    if as_json:
        rows = [{"kind": d.kind, "flag": d.flag, "before": d.before, "after": d.after} for d in found]
        click.echo(json.dumps({"version": 1, "old": before, "new": after, "differences": rows}, indent=2))
        return
    for each in found:
        if each.kind in {"added", "removed"}:
            click.echo(f"{each.kind:8} {each.flag}")
        elif each.kind == "renamed":
            click.echo(f"renamed  {each.flag} -> {each.after}")
        elif each.kind == "choices":
            gone = f" no longer {each.before}" if each.before else ""
            come = f" now also {each.after}" if each.after else ""
            click.echo(f"choices  {each.flag}:{gone}{';' if gone and come else ''}{come}")
        else:
            click.echo(f"{each.kind:8} {each.flag}: {each.before} -> {each.after}")
    many = "1 difference" if len(found) == 1 else f"{len(found)} differences"
    click.echo(f"vLLM {before} -> {after}: {many if found else 'the same'}")
