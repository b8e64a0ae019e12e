"""`metalserve template key`: makes the pair of keys that builds are signed and verified with."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from metalserve.cli.templates_shared import json_option
from metalserve.templates.signing import KEY_VARIABLE, PUBLIC_KEYS, make_key, secret_key_path


@click.command("key")
@click.option(
    "--secret", type=click.Path(path_type=Path), metavar="FILE", help=f"Secret key; {KEY_VARIABLE} when not given."
)
@click.option(
    "--public",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Public key; files/templates/keys/NAME.pub when not given, NAME as the secret key's file.",
)
@json_option
def command(secret: Path | None, public: Path | None, as_json: bool) -> None:
    """Make a pair of keys in minisign's format; files that exist are never replaced.

    The secret key has no password, since builds run unattended; its file is its owner's only. Keep it off the hosts.
    """
    if secret is None and not os.environ.get(KEY_VARIABLE):
        raise click.UsageError(f"give --secret FILE, or name it in {KEY_VARIABLE}")
    private = (secret or secret_key_path()).expanduser().absolute()
    shared = public or PUBLIC_KEYS / f"{private.stem}.pub"
    key_id = make_key(private, shared)
    if as_json:
        click.echo(json.dumps({"id": key_id, "secret": str(private), "public": str(shared)}))
        return
    click.echo(f"key {key_id}")
    click.echo(f"secret key: {private} (mode 0600; name it in {KEY_VARIABLE})")
    click.echo(f"public key: {shared} (commit it: whose builds are trusted)")
