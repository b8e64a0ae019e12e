"""`metalserve weights torrent`: what lets hosts share a model, made where its bytes are."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

import click

from metalserve.errors import MetalserveError
from metalserve.pyinfra_seam.connections import connected
from metalserve.weights.agent.config import WantedFile
from metalserve.weights.agent.torrent import TorrentError, make_torrent, piece_size_for
from metalserve.weights.fleet import command_script, read_answer
from metalserve.weights.host import config_path, key_of
from metalserve.weights.manifest import load_manifest, manifest_path

_READ_S = 4 * 3600
"""A host reads every byte of the model for it."""


@click.command("torrent")
@click.argument("manifest")
@click.option("--from", "directory", help="Directory that holds the files of the manifest.")
@click.option("--host", "host", nargs=2, metavar="INVENTORY NAME", help="Host that has the model already.")
def command(manifest: str, directory: str | None, host: tuple[str, str] | None) -> None:
    """Write MANIFEST.torrent: with it the hosts of a fleet share the model (staging.distribution: swarm).

    It is made where the bytes are: here (--from), or on the first host that has the model (--host). It only says how
    the bytes are cut into pieces: whether they are right, the manifest decides. The same files give the same torrent.
    """
    if (directory is None) == (host is None):
        raise MetalserveError("needs one of --from and --host", where="weights torrent")
    wanted = load_manifest(manifest)
    files = [WantedFile(file.path, file.size, file.sha256) for file in wanted.files]
    if directory is not None:
        try:
            made = make_torrent(Path(directory).expanduser(), files, piece_size_for(wanted.total))
        except (TorrentError, OSError) as error:
            raise MetalserveError(str(error), where=directory, remedy="--from the files of this manifest") from error
    else:
        assert host is not None
        made = _from_host(*host)
    path = manifest_path(manifest)
    target = path.with_name(f"{path.name}.torrent")
    target.write_bytes(made)
    click.echo(f"{target}: {len(made) / 2**10:.0f} KiB, {len(files)} files, {wanted.total / 2**30:.2f} GiB")


def _from_host(inventory: str, name: str) -> bytes:
    def words(model_key: str) -> str:
        return command_script(("torrent", config_path(model_key)))

    with connected(inventory, lambda host, settings: host == name and settings.model is not None) as hosts:
        model = hosts.settings[name].model if name in hosts.settings else None
        if model is None:
            raise MetalserveError("is not in the inventory, or has no model", where=name)
        (told,) = hosts.ask(lambda _: words(key_of(model)), _READ_S)
    answer = read_answer(told.host, told.lines)
    failed = told.error or answer.failed
    if failed:
        raise MetalserveError(failed, where=name)
    try:
        return base64.b64decode(str(answer.data["torrent"]))
    except (KeyError, binascii.Error) as error:
        raise MetalserveError("gave no torrent", where=name, remedy="run the weights role on it") from error
