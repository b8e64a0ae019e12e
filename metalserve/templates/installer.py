"""The installer's side of the boot server's protocol, in Python: what the ramdisk's script does, for firmware that is
simulated and for tests. The protocol is described in `serving.py`.
"""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO, Any, Final
from urllib.parse import urlencode, urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError

from metalserve.errors import MetalserveError
from metalserve.templates.machine_identity import Identity
from metalserve.templates.manifest import DISK, Manifest
from metalserve.templates.order import Disk, Status
from metalserve.templates.signing import TrustedKey, verified

TIMEOUT_S: Final = 60.0
_SMALL: Final = 1 << 20


class Grant(BaseModel):
    """The permission to write: what `POST /v1/permission` answers.

    Attributes:
        order: number of the order.
        node: the node's name.
        token: is shown with the result.
        template: name of the template.
        build: which build of it.
        disk: serial number of the disk.
        image: URL of the compressed image.
        size: bytes of the image, uncompressed.
        raw_sha256: its SHA-256, uncompressed; the signed manifest is what counts.
        manifest: URL of the manifest.
        signature: URL of the manifest's signature.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    order: str
    node: str
    token: str
    template: str
    build: str
    disk: str
    image: str
    size: int
    raw_sha256: str
    manifest: str
    signature: str


@dataclass(frozen=True)
class Outcome:
    """How an installation ended.

    Attributes:
        permitted: the server said yes.
        written: the image is on the disk and is what the manifest says.
        words: why not, or what was done.
        grant: what was permitted, or None.
        manifest: the build's manifest once it was verified, or None.
        taken: the server took the result.
    """

    permitted: bool
    written: bool
    words: str
    grant: Grant | None = None
    manifest: Manifest | None = None
    taken: bool = False


Write = Callable[[Grant, Manifest, IO[bytes]], str]
"""Writes the compressed image, given as a stream, to the disk of the grant; returns the SHA-256 of what then is on it.

What it raises (MetalserveError, OSError) is the result `bad`.
"""

Wipe = Callable[[Grant], None]
"""Makes the disk of the grant unbootable: called when what was written is wrong."""

HostKeys = Callable[[Grant], Sequence[str]]
"""Makes SSH host keys on the disk of the grant, once what was written is right; returns the public ones."""


def boot_script(base_url: str, identity: Identity) -> str:
    """Return the iPXE script that the server gives this machine.

    Raises:
        MetalserveError: the server does not answer.
    """
    query = [("mac", mac) for mac in identity.macs]
    query += [(key, value) for key, value in (("serial", identity.serial), ("uuid", identity.uuid)) if value]
    return _fetch(f"{base_url}/v1/boot/ipxe?{urlencode(query)}").decode()


def installs(script: str) -> bool:
    """Tell whether an iPXE script boots the installer (and not the machine's disk)."""
    return any(line.startswith("kernel ") and " boot=deploy " in line for line in script.splitlines())


def install_over_http(
    base_url: str,
    identity: Identity,
    disks: Sequence[Disk],
    write: Write,
    *,
    keys: Sequence[TrustedKey],
    wipe: Wipe = lambda grant: None,
    host_keys: HostKeys = lambda grant: (),
) -> Outcome:
    """Install what is ordered for a machine: ask, verify the signed manifest, write, compare, say how it went.

    Args:
        base_url: URL of the boot server.
        identity: the machine.
        disks: its disks.
        write: writes the image.
        keys: public keys that are built in.
        wipe: makes the disk unbootable.
        host_keys: makes SSH host keys on it.

    Raises:
        MetalserveError: the server does not answer at all; nothing was written then.
    """
    answer = _post(f"{base_url}/v1/permission", {"identity": identity.model_dump(), "disks": [*map(_dump, disks)]})
    if answer.get("write") is not True:
        return Outcome(False, False, f"not permitted: {answer.get('reason', 'no reason given')}")
    try:
        grant = Grant.model_validate(answer)
    except ValidationError as error:
        raise MetalserveError(f"its permission is none: {error.errors()[0]['msg']}", where=base_url) from None
    manifest: Manifest | None = None
    begun = False
    try:
        manifest = verified(
            _fetch(grant.manifest), _fetch(grant.signature), grant.template, grant.build, keys
        )  # before the first block
        named = [disk for disk in disks if disk.serial == grant.disk]
        if len(named) != 1 or named[0].size_bytes < manifest.raw.size:
            raise MetalserveError("is not there once, or too small", where=f"disk {grant.disk}")
        begun = True
        with _open(grant.image) as stream:
            found = write(grant, manifest, stream)
        if found != manifest.raw.sha256:
            raise MetalserveError(f"has SHA-256 {found}, the manifest says {manifest.raw.sha256}", where=DISK)
    except (MetalserveError, OSError, http.client.HTTPException) as error:
        words = f"wiped: {error}" if begun else f"nothing was written: {error}"
        if begun:
            try:
                wipe(grant)
            except (MetalserveError, OSError) as second:
                words = f"could not be wiped either ({second}): {error}"
        return Outcome(True, False, words, grant, manifest, taken=report(base_url, grant, "bad", words))
    known = host_keys(grant)
    words = f"{manifest.raw.size} bytes on {grant.disk}, {len(known)} host keys"
    return Outcome(True, True, words, grant, manifest, taken=report(base_url, grant, "ok", words, known))


def report(base_url: str, grant: Grant, status: Status, words: str, host_keys: Sequence[str] = ()) -> bool:
    """Tell the server how it went, and which SSH host keys the system has; return whether it took it.

    Raises:
        MetalserveError: the server does not answer.
    """
    said = {"order": grant.order, "token": grant.token, "status": status, "words": words, "host_keys": [*host_keys]}
    return _post(f"{base_url}/v1/result", said).get("taken") is True


def _dump(disk: Disk) -> dict[str, Any]:
    return disk.model_dump()


def _open(url: str, body: bytes | None = None) -> Any:
    if urlsplit(url).scheme not in ("http", "https"):
        raise MetalserveError("is no HTTP URL", where=url)
    request = urllib.request.Request(url, data=body)  # noqa: S310 - the scheme was looked at
    if body is not None:
        request.add_header("Content-Type", "application/json")
    # A node's provisioning network is never behind a proxy.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return opener.open(request, timeout=TIMEOUT_S)


def _fetch(url: str) -> bytes:
    try:
        with _open(url) as answer:
            content: bytes = answer.read(_SMALL + 1)
    except (OSError, http.client.HTTPException) as error:
        raise MetalserveError(f"cannot be fetched: {error}", where=url) from error
    if len(content) > _SMALL:
        raise MetalserveError(f"is larger than {_SMALL} bytes", where=url)
    return content


def _post(url: str, value: Any) -> dict[str, Any]:
    try:
        with _open(url, json.dumps(value).encode()) as answer:
            content = answer.read(_SMALL)
    except urllib.error.HTTPError as error:
        content = error.read(_SMALL)  # a refusal has its reason in the body
    except (OSError, http.client.HTTPException) as error:
        raise MetalserveError(f"does not answer: {error}", where=url) from error
    try:
        found = json.loads(content)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise MetalserveError("gives something else than the answer that was asked for", where=url)
    return found
