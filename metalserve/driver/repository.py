"""An apt repository as files of a host: a deb822 source bound to one key, accepted by its fingerprint only."""

from __future__ import annotations

from pathlib import Path

from metalserve.desired.model import Desired, File, SigningKey
from metalserve.driver.platform import Platform
from metalserve.errors import MetalserveError
from metalserve.settings import KeySettings, RepositorySettings


def source_path(name: str) -> str:
    """Return the path of the apt source called `name`."""
    return f"/etc/apt/sources.list.d/metalserve-{name}.sources"


def key_path(name: str) -> str:
    """Return the path of the key of the apt source called `name`."""
    return f"/etc/apt/keyrings/metalserve-{name}.asc"


def repository_wish(name: str, repository: RepositorySettings, platform: Platform, managed_by: str) -> Desired:
    """Return the source file and key that make `repository` known to apt.

    Args:
        name: short name ("nvidia"); becomes part of the file names.
        repository: where it is and who signs it.
        platform: fills the placeholders of its URLs.
        managed_by: first line of the file, a comment.

    Raises:
        MetalserveError: the key's file on the controller cannot be read.
    """
    suite = platform.fill(repository.suite)
    lines = [
        "Types: deb",
        f"URIs: {platform.fill(repository.url)}",
        f"Suites: {suite}",
        *([f"Components: {' '.join(repository.components)}"] if repository.components else []),
        f"Signed-By: {key_path(name)}",
    ]
    key = repository.key_for(platform.distro)
    return Desired(
        keys=(
            SigningKey(
                key_path(name),
                key.fingerprint,
                url=platform.fill(key.url) if key.url is not None else None,
                content=_content(name, key),
            ),
        ),
        files=(File(source_path(name), managed_by + "\n".join(lines) + "\n"),),
    )


def _content(name: str, key: KeySettings) -> str | None:
    if key.file is None:
        return None
    try:
        return Path(key.file).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise MetalserveError(
            f"the key file cannot be read: {error}",
            where=f"repositories.{name}.key.file: {key.file}",
            remedy="give the path of an ASCII-armoured key on the controller",
        ) from error
