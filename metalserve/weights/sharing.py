"""Who shares a model with whom, and with what: pure. See docs/decisions/0023."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from metalserve.errors import MetalserveError
from metalserve.settings import HostSettings, ModelSettings
from metalserve.weights.agent.config import SwarmConfig, WantedFile
from metalserve.weights.agent.shares import pieces_of
from metalserve.weights.agent.torrent import TorrentError, with_authority
from metalserve.weights.host import CONFIGS, key_of
from metalserve.weights.manifest import Manifest, manifest_path

CREDENTIALS = f"{CONFIGS}/swarm"
PORTS = 16
"""Ports that are used from `staging.port` on: a model has one of them, since a host may give one and take another."""


@dataclass(frozen=True, slots=True)
class Member:
    """A host of the inventory.

    Attributes:
        name: its name.
        address: where SSH reaches it; taken for the swarm unless `staging.address` is set.
        settings: its settings.
    """

    name: str
    address: str
    settings: HostSettings


def torrent_file(model: ModelSettings) -> Path:
    """Return where the torrent of a model lies on the controller: beside its manifest."""
    path = manifest_path(model.manifest)
    return path.with_name(f"{path.name}.torrent")


def torrent_path(key: str) -> str:
    """Return where the torrent of a model lies on a host, base64."""
    return f"{CONFIGS}/{key}.torrent"


def read_torrent(model: ModelSettings, manifest: Manifest) -> bytes | None:
    """Return the model's torrent, None when there is none.

    Raises:
        MetalserveError: it cannot be read, or is of other files than the manifest.
    """
    path = torrent_file(model)
    try:
        torrent = path.read_bytes()
        pieces_of(torrent, [WantedFile(file.path, file.size, file.sha256) for file in manifest.files])
    except FileNotFoundError:
        return None
    except OSError as error:
        raise MetalserveError(f"cannot be read: {error.strerror}", where=str(path)) from error
    except TorrentError as error:
        raise MetalserveError(
            str(error), where=str(path), remedy="make it again: metalserve weights torrent"
        ) from error
    return torrent


def torrent_text(torrent: bytes, authority: str) -> str:
    """Return the torrent as it lies on the hosts: base64, and only for hosts with a certificate of `authority`."""
    return base64.encodebytes(with_authority(torrent, authority)).decode("ascii")


def sharing(members: Iterable[Member], model: ModelSettings) -> tuple[Member, ...]:
    """Return the hosts that share `model`, by name."""
    found = (
        each
        for each in members
        if each.settings.staging.distribution == "swarm"
        and each.settings.model is not None
        and (each.settings.model.name, each.settings.model.revision) == (model.name, model.revision)
    )
    return tuple(sorted(found, key=lambda each: each.name))


def swarm_config(name: str, model: ModelSettings, members: Iterable[Member]) -> SwarmConfig:
    """Return what the agent of host `name` is told of the swarm.

    Raises:
        MetalserveError: a host's address is none, or two hosts have the same.
    """
    key = key_of(model)
    where = {each.name: _listen(each, key) for each in sharing(members, model)}
    if len(set(where.values())) != len(where):
        raise MetalserveError(
            "two hosts have the same address", where="staging.address", remedy="set it for each host to its own"
        )
    own = next(each.settings.staging for each in members if each.name == name)
    return SwarmConfig(
        torrent=torrent_path(key),
        listen=where.pop(name),
        peers=tuple(sorted(where.values())),
        credentials=CREDENTIALS,
        upload_bytes_s=int(own.upload_mib_s * 2**20),
        download_bytes_s=int(own.download_mib_s * 2**20),
    )


def _listen(member: Member, key: str) -> str:
    staging = member.settings.staging
    text = staging.address or member.address
    try:
        address = ip_address(text)
    except ValueError:
        raise MetalserveError(
            f"{text!r} is a name, not an address in the private network",
            where=member.name,
            remedy="set staging.address of this host",
        ) from None
    port = staging.port + int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % PORTS
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
