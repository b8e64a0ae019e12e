"""`metalserve vllm`: vLLM arguments against a pinned release."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict

import click

from metalserve.catalogue.vllm_flags import ArgProblem, check_args, known_releases, load_flags
from metalserve.planning.pasted import read_command
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


@command.command("check", context_settings={"ignore_unknown_options": True})
@click.option(
    "--release", metavar="NAME", help="A release, or a vLLM version such as 0.33.0; default: the newest known."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.argument("args", nargs=-1, required=True, type=click.UNPROCESSED)
def check(release: str | None, as_json: bool, args: tuple[str, ...]) -> int:
    """Check ARGS (write `--` before them): what follows `vllm serve`, or a whole pasted `docker run` command.

    Exit status 1 when vLLM would not start or the command leaks a secret; warnings alone are 0. Values of tokens and
    keys are never printed.
    """
    words = shlex.split(args[0]) if len(args) == 1 and " " in args[0] else list(args)
    engine_args, found = read_command(words)
    version = vllm_version(release)
    problems: list[ArgProblem] = [*found, *check_args(engine_args, version)]
    errors = sum(problem.severity == "error" for problem in problems)
    if as_json:
        value = {"vllm": version, "ok": not errors, "problems": [asdict(problem) for problem in problems]}
        click.echo(json.dumps(value, indent=2))
    else:
        for problem in problems:
            click.echo(f"{problem.severity}: {problem}")
        say = f"{errors} problem{'' if errors == 1 else 's'}" if errors else "accepted"
        click.echo(f"vLLM {version}: {say}")
    return 1 if errors else 0
