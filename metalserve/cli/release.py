"""`metalserve release`: the pinned sets of versions, whether they fit together, and what a change means."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from metalserve.releases import (
    Release,
    ReleaseError,
    Verdict,
    judge_release,
    load_release,
    read_release,
    release_names,
)
from metalserve.releases.check import broken, dcgm_package
from metalserve.releases.diff import ReleaseDiff, diff_releases
from metalserve.releases.flags import FlagChanges

ADDED_SHOWN = 12
"""New options of vLLM that are named before the rest is counted: nothing breaks by them."""


@click.group("release")
def command() -> None:
    """List, show, check and compare releases."""


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_releases(as_json: bool) -> None:
    """List every release with its main versions and whether it fits together."""
    judged = [_judged(name) for name in release_names()]
    if as_json:
        click.echo(json.dumps([_listed(name, verdict) for name, verdict in judged], indent=2))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("release", no_wrap=True)
    for column in ("end of life", "driver", "CUDA", "vLLM", "verdict"):
        table.add_column(column, no_wrap=True)
    for name, verdict in judged:
        if isinstance(verdict, ReleaseError):
            table.add_row(name, "-", "-", "-", "-", "refused")
            continue
        release = verdict.release
        end = str(release.end_of_life or "unknown")
        table.add_row(name, end, release.driver.version, release.vllm.cuda, release.vllm.version, _word(verdict))
    Console().print(table)
    for name, verdict in judged:
        words = str(verdict) if isinstance(verdict, ReleaseError) else verdict.release.description
        Console().print(f"\n[bold]{name}[/]: {words}", highlight=False)


def _judged(name: str) -> tuple[str, Verdict | ReleaseError]:
    try:
        release = _release(name)
    except ReleaseError as error:
        return name, error
    return name, judge_release(release, today=_today())


def _release(name: str) -> Release:
    """Return the release called `name`, or the one in the file `name` (a path, or a name that ends in .yaml)."""
    path = Path(name)
    return read_release(path.resolve()) if path.suffix in (".yaml", ".yml") or "/" in name else load_release(name)


def _today() -> date:
    return datetime.now(UTC).date()


def _word(verdict: Verdict) -> str:
    if not verdict.fits:
        return f"refused ({len(verdict.problems)})"
    warnings = len(verdict.warnings)
    return f"fits ({warnings} warning{'s' if warnings > 1 else ''})" if warnings else "fits"


def _listed(name: str, verdict: Verdict | ReleaseError) -> dict[str, Any]:
    if isinstance(verdict, ReleaseError):
        return {"name": name, "verdict": "refused", "error": str(verdict)}
    return {**verdict.release.model_dump(mode="json"), **verdict.as_dict()}


@command.command("show")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(name: str, as_json: bool) -> None:
    """Show the versions of release NAME (or of a file), the GPUs it serves, and where all that comes from."""
    release = _release(name)
    verdict = judge_release(release, today=_today())
    if as_json:
        data = {**release.model_dump(mode="json"), "image": release.image, **verdict.as_dict()}
        click.echo(json.dumps(data, indent=2))
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in _lines(verdict):
        table.add_row(label, value)
    Console().print(table)


def _lines(verdict: Verdict) -> list[tuple[str, str]]:
    release = verdict.release
    cdi = f"{release.docker.minimum} or newer; CDI devices from {release.docker.cdi_minimum} on"
    served = ", ".join(gpu.gpu for gpu in verdict.gpus if gpu.status == "served")
    others = [gpu for gpu in verdict.gpus if gpu.status != "served"]
    return [
        ("release", release.name),
        ("what for", release.description),
        ("verdict", _word(verdict)),
        ("kept from", str(release.kept_from)),
        ("supported until", str(release.end_of_life or "unknown")),
        ("driver", f"{release.driver.version} (branch {release.driver.branch})"),
        ("fabric manager", release.fabric_manager.version),
        ("CUDA toolkit", f"{release.cuda.toolkit} (only where cuda.toolkit is set)"),
        ("container toolkit", release.container_toolkit.version),
        ("DCGM", f"{release.dcgm.version}, {dcgm_package(release) or 'package unknown'}"),
        ("Docker", cdi),
        ("vLLM", f"{release.vllm.version}, CUDA {release.vllm.cuda}"),
        ("image", release.image),
        ("serves", served or "none"),
        *(
            (f"{gpu.status}" if index == 0 else "", f"{gpu.gpu}: {'; '.join(gpu.why)}")
            for index, gpu in enumerate(others)
        ),
        *(("source" if index == 0 else "", source) for index, source in enumerate(release.sources)),
    ]


@command.command("check")
@click.argument("names", nargs=-1, metavar="[NAME|FILE]...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(names: tuple[str, ...], as_json: bool) -> None:
    """Check that the versions of releases fit together: those named, those in files, or every one.

    Exits with 1 when a release is refused; warnings alone leave 0.
    """
    chosen = list(names) or release_names()
    if not chosen:
        raise ReleaseError("there are none", where="releases", remedy="files/releases holds them")
    judged = [_judged(name) for name in chosen]
    if as_json:
        click.echo(json.dumps([_checked(name, verdict) for name, verdict in judged], indent=2))
    else:
        for name, verdict in judged:
            _say(name, verdict)
    if any(isinstance(verdict, ReleaseError) or not verdict.fits for _, verdict in judged):
        raise click.exceptions.Exit(1)


def _checked(name: str, verdict: Verdict | ReleaseError) -> dict[str, Any]:
    if isinstance(verdict, ReleaseError):
        problem = broken("readable", verdict.where or "release", verdict.what)
        return {"name": name, "verdict": "refused", "problems": [problem.as_dict()], "warnings": [], "gpus": []}
    return verdict.as_dict()


def _say(name: str, verdict: Verdict | ReleaseError) -> None:
    if isinstance(verdict, ReleaseError):
        click.echo(f"{name}: refused: {broken('readable', verdict.where or 'release', verdict.what)}", err=True)
        return
    for problem in verdict.problems:
        click.echo(f"{name}: refused: {problem}", err=True)
    for warning in verdict.warnings:
        click.echo(f"{name}: warning: {warning}", err=True)
    if verdict.fits:
        served = sum(gpu.status == "served" for gpu in verdict.gpus)
        click.echo(f"{name}: versions fit together; {served} of {len(verdict.gpus)} GPUs of the catalogue served")


@command.command("diff")
@click.argument("before")
@click.argument("after")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def diff(before: str, after: str, as_json: bool) -> None:
    """Show what changes from release BEFORE to AFTER, and what that means for a host: read it before an upgrade.

    Exits with 1 when AFTER is refused.
    """
    old, new = _release(before), _release(after)
    found = diff_releases(old, new)
    verdict = judge_release(new, today=_today())
    if as_json:
        click.echo(json.dumps({**found.as_dict(), "verdict": verdict.as_dict()}, indent=2))
    else:
        _print_diff(found)
        for problem in verdict.problems:
            click.echo(f"{new.name}: refused: {problem}", err=True)
    if not verdict.fits:
        raise click.exceptions.Exit(1)


_STOPS = {
    "none": "nothing has to stop",
    "containers": "engines stop and start again",
    "driver": "engines and all that holds the GPUs stop; the driver is loaded anew, by a reboot where it must be",
}


def _print_diff(found: ReleaseDiff) -> None:
    click.echo(f"{found.before} -> {found.after}: {_STOPS[found.stops] if found.parts else 'no difference'}")
    if found.parts:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("part", found.before, found.after, ""):
            table.add_column(column, overflow="fold")
        for part in found.parts:
            table.add_row(part.part, part.before, part.after, "" if part.direction == "other" else part.direction)
        click.echo()
        Console().print(table)
    for title, lines in _sections(found):
        if lines:
            click.echo(f"\n{title}")
            for line in lines:
                click.echo(f"  {line}")


def _sections(found: ReleaseDiff) -> list[tuple[str, list[str]]]:
    flags = found.flags
    sections = [
        ("What it means", [f"{e.about} ({e.where}): {e.what}" for e in found.effects]),
        ("GPUs served from now on", [f"{gpu.gpu} (before: {'; '.join(gpu.why)})" for gpu in found.gained]),
        ("GPUs NOT served any more, or not known to be", [f"{gpu.gpu}: {'; '.join(gpu.why)}" for gpu in found.lost]),
    ]
    if flags is None:
        return sections
    more = len(flags.added) - ADDED_SHOWN
    added = [", ".join(flags.added[:ADDED_SHOWN]) + (f" and {more} more (--json has all)" if more > 0 else "")]
    title = f"vLLM {flags.before} -> {flags.after}: "
    return [
        *sections,
        (f"{title}options that are unknown", [f"those of {v} are not in the catalogue" for v in flags.unknown]),
        (f"{title}options that are refused now", _removed(flags)),
        (f"{title}values that are refused now", [f"{v.flag}: {', '.join(v.values)}" for v in flags.values]),
        (f"{title}other defaults", [f"{each.flag}: {each.before} -> {each.after}" for each in flags.defaults]),
        (f"{title}new options", added if flags.added else []),
    ]


def _removed(flags: FlagChanges) -> list[str]:
    lines = [f"{f.flag}{f' -> {f.remedy}' if f.remedy else ''}" for f in flags.removed if not f.spelling]
    spellings = len(flags.removed) - len(lines)
    return [*lines, f"{spellings} other spellings of options that stay (--json has all)"] if spellings else lines
