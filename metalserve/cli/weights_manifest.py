"""`metalserve weights manifest`: makes the list of a model's files, pinned to a commit, and checks it again."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from metalserve.secrets import resolve
from metalserve.settings import SecretRef
from metalserve.settings.serving import HUB
from metalserve.weights.manifest import MadeFrom, Manifest, ManifestError, load_manifest, write_manifest
from metalserve.weights.sources.make import Begin, Made, Wish, compare, make
from metalserve.weights.sources.origin import Access, Advance

_SHOWN = 5
"""Paths of a kind that are printed; `--json` has all."""


@click.command("manifest")
@click.option("--hub", metavar="ORG/NAME", help="A repository of a model hub.")
@click.option("--from", "directory", metavar="DIR", help="A directory on this machine.")
@click.option("--url", metavar="BASE", help="An HTTP mirror; BASE/SHA256SUMS says what its files hash to.")
@click.option("--s3", metavar="ENDPOINT/BUCKET/PREFIX", help="S3-compatible storage.")
@click.option("--oci", metavar="REGISTRY/NAME:TAG", help="An OCI artifact with a file a layer; or NAME@sha256:DIGEST.")
@click.option("--check", "checked", metavar="FILE", help="Hold a manifest against its source; exit 3 when it differs.")
@click.option("--output", metavar="FILE", help="File to write, YAML or (with .json) JSON; replaced when it exists.")
@click.option("--repository", metavar="ORG/NAME", help="What the model is called; with --hub it is known.")
@click.option(
    "--revision",
    metavar="REV",
    default="",
    help="--hub: branch, tag or commit, 'main' when not given. Else: the commit that the files are of, 40 hexadecimal "
    "digits; when not given, the first 40 of a SHA-256 over all hashes, sizes and paths.",
)
@click.option("--include", multiple=True, metavar="PATTERN", help="Take these files only, and all of them; repeatable.")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Leave these out as well; repeatable.")
@click.option("--endpoint", metavar="URL", help=f"--hub: the hub; HF_ENDPOINT or {HUB} when not given.")
@click.option("--files", "listed", type=click.File("r"), metavar="LIST", help="--url: file with a path a line, or -.")
@click.option("--index", is_flag=True, help="--url: read the server's index pages.")
@click.option("--region", default="", metavar="NAME", help="--s3: region, for signing.")
@click.option(
    "--token-env",
    metavar="NAME",
    help="Environment variable with the token; --hub: HF_TOKEN when not given. --s3: ACCESS:SECRET[:TOKEN]. --oci and "
    "--url: user:password, or a token.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def manifest(ctx: click.Context, /, checked: str | None, output: str | None, as_json: bool, **given: Any) -> int:
    """Make the manifest of a model: its files, their sizes and SHA-256, pinned to a commit.

    Give one of --hub, --from, --url, --s3, --oci. Where the source does not tell a file's SHA-256, its bytes are read.
    Left out are hidden files, directories for other engines, and, where there are safetensors, weights in other forms.
    """
    if (checked is None) == (output is None):
        raise click.UsageError("give --output FILE, or --check FILE", ctx=ctx)
    if checked is not None:
        return _check(checked, given, as_json)
    wish = _wish(given)
    with _progress() as begin:
        made = make(wish, begin)
    assert output is not None
    try:
        write_manifest(made.manifest, Path(output))
    except OSError as error:
        raise ManifestError(f"cannot be written: {error.strerror}", where=output) from error
    if as_json:
        click.echo(json.dumps(_as_json(made, output, wish)))
    else:
        _show(made, output, wish)
    return 0


def _wish(given: dict[str, Any], old: Manifest | None = None) -> Wish:
    kinds = {"hub": "hub", "directory": "directory", "url": "http", "s3": "s3", "oci": "oci"}
    named = [option for option in kinds if given[option]]
    if len(named) != 1:
        raise click.UsageError("give one of --hub, --from, --url, --s3, --oci")
    option = named[0]
    kind = kinds[option]
    for other, needs in (("listed", "url"), ("index", "url"), ("region", "s3"), ("endpoint", "hub")):
        if given[other] and option != needs:
            raise click.UsageError(f"--{'files' if other == 'listed' else other} goes with --{needs}")
    if given["index"] and given["listed"]:
        raise click.UsageError("give --index or --files")
    repository = given["hub"] or given["repository"] or (old.repository if old else "")
    if not repository:
        raise click.UsageError("give --repository ORG/NAME: the model's name")
    names = [line.strip() for line in given["listed"] if line.strip()] if given["listed"] else []
    source = given[option]
    if kind == "hub":
        source = given["endpoint"] or os.environ.get("HF_ENDPOINT") or HUB
    before = old.made_from if old else None
    origin = MadeFrom.model_validate(
        {
            "kind": kind,
            "source": source,
            "region": given["region"],
            "listing": "index" if given["index"] else "list" if given["listed"] else "",
            "include": list(given["include"] or (before.include if before else [])),
            "exclude": list(given["exclude"] or (before.exclude if before else [])),
        }
    )
    revision = given["revision"] or (old.revision if old else "")
    return Wish(origin, repository, revision, names, _access(kind, given["token_env"]))


def _access(kind: str, variable: str | None) -> Access:
    # HF_TOKEN is meant for hubs: no other source is sent it without being told to
    name = variable or ("HF_TOKEN" if kind == "hub" else "")
    if not name or (variable is None and not os.environ.get(name)):
        return Access(None, name)
    try:
        reference = SecretRef(env=name)
    except ValueError:  # which would quote what was given, perhaps the token itself
        raise click.UsageError("--token-env takes the NAME of an environment variable, in capitals") from None
    return Access(resolve(reference), name)


def _check(path: str, given: dict[str, Any], as_json: bool) -> int:
    old = load_manifest(Path(path).absolute())
    if any(given[option] for option in ("hub", "directory", "url", "s3", "oci")):
        wish = _wish(given, old)
    elif old.made_from is None:
        raise ManifestError("does not say what it was made from", where=path, remedy="give --hub, --from, --url ...")
    else:
        names = [file.path for file in old.files]
        wish = Wish(old.made_from, old.repository, old.revision, names, _access(old.made_from.kind, given["token_env"]))
    with _progress() as begin:
        difference = compare(old, wish, begin)
    where = f"{wish.origin.kind} {wish.origin.source}"
    if as_json:
        answer = {"manifest": path, "source": where, "same": not difference.files, "files": difference.files}
        click.echo(json.dumps({**answer, "asked": wish.origin.asked, "moved_to": difference.moved_to}))
        return 3 if difference.files else 0
    if difference.moved_to:
        click.echo(f"note: {wish.origin.asked} stands for {difference.moved_to} now; the manifest pins {old.revision}")
    for name, what in difference.files.items():
        click.echo(f"{name} {what}")
    state = f"{len(difference.files)} files differ from" if difference.files else "as at"
    click.echo(f"{path}: {state} the source, {where}")
    return 3 if difference.files else 0


def _as_json(made: Made, output: str, wish: Wish) -> dict[str, Any]:
    of = made.manifest
    return {
        "output": output,
        "repository": of.repository,
        "revision": of.revision,
        "revision_from": _revision_from(wish),
        "made_from": of.made_from.model_dump(exclude_defaults=True) if of.made_from else None,
        "files": len(of.files),
        "bytes": of.total,
        "hashed_here": made.fetched,
        "left_out": made.left_out,
        "notes": made.notes,
    }


def _revision_from(wish: Wish) -> str:
    if wish.origin.kind == "hub":
        return "hub"
    return "given" if wish.revision else "content"


def _show(made: Made, output: str, wish: Wish) -> None:
    of = made.manifest
    asked = of.made_from.asked if of.made_from else ""
    if asked and wish.origin.kind == "hub":
        click.echo(f"{of.repository}: {asked} is commit {of.revision}")
    elif asked and of.made_from:
        click.echo(f"{of.repository}: {asked} is {of.made_from.source.partition('@')[2]}")
    for reason, paths in sorted(made.left_out.items()):
        more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
        click.echo(f"left out ({reason}): {', '.join(paths[:_SHOWN])}{more}")
    if made.fetched:
        click.echo(f"{made.fetched} of {len(of.files)} files were read and hashed here")
    if _revision_from(wish) == "content":
        click.echo(f"the source has no commits: revision {of.revision} stands for these very files")
    for note in made.notes:
        click.echo(f"note: {note}")
    click.echo(f"{output}: {len(of.files)} files, {of.total / 2**30:.2f} GiB, of {of.repository} at {of.revision}")


@contextmanager
def _progress() -> Iterator[Begin]:
    """Give what shows progress: a bar on a terminal, else nothing."""
    if not sys.stderr.isatty():
        yield lambda _total, _files: lambda _bytes: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as progress:

        def begin(total: int | None, files: int) -> Advance:
            if not files:
                return lambda _bytes: None
            task = progress.add_task(f"hashing {files} files", total=total)
            return lambda count: progress.advance(task, count)

        yield begin
