"""`metalserve template build`: from a specification to a signed build on the shelf."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import click

from metalserve.paths import templates_directory
from metalserve.templates.boot_chain import boot_words
from metalserve.templates.build import build_template
from metalserve.templates.shelf import Shelf
from metalserve.templates.spec import load_spec
from metalserve.templates.toolroot import tool_root


@click.command(name="build")
@click.argument("name")
@click.option("--keep", is_flag=True, help="Leave the working directory where it fails.")
@click.option("--key", type=click.Path(dir_okay=False, path_type=Path), help="Secret key to sign with.")
def command(name: str, keep: bool, key: Path | None) -> None:
    """Build the template NAME (of files/templates/os, or the path of a YAML file) and put it on the shelf.

    Needs root. The secret key is named by METALSERVE_TEMPLATE_KEY where --key does not.
    """
    spec = load_spec(name)
    started = time.monotonic()
    with shown("tool root"):
        tools = tool_root()
    build = build_template(
        spec, shelf=Shelf(templates_directory() / "shelf"), tools=tools, key=key, keep=keep, step=shown
    )
    manifest = build.manifest
    size = manifest.files["disk.raw.zst"].size / 1e6
    click.echo(
        f"{build.name}/{build.build}: {manifest.packages} packages, disk {manifest.raw.size / 1e6:.0f} MB "
        f"({size:.0f} MB compressed), in {time.monotonic() - started:.0f} s"
    )
    if manifest.boot is not None:
        words = boot_words(manifest.os.distribution, manifest.boot.chain, manifest.boot.unsigned_modules)
        click.echo(words, err=words.startswith("warning"))


def shown(title: str) -> AbstractContextManager[object]:
    """Show a step of the work with its time when it is done."""

    @contextmanager
    def step() -> Iterator[None]:
        started = time.monotonic()
        yield
        click.echo(f"{title}: {time.monotonic() - started:.1f} s", err=True)

    return step()
