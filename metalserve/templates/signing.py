"""Signatures of manifests, in minisign's format: made and verified here, by anyone's `minisign` as well."""

from __future__ import annotations

import importlib
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metalserve.paths import FILES
from metalserve.templates.manifest import (
    MANIFEST,
    SIGNATURE,
    Manifest,
    TemplateError,
    checked_build,
    checked_name,
    read_small,
    write_whole,
)

KEY_VARIABLE = "METALSERVE_TEMPLATE_KEY"
"""Environment variable with the path of the secret key."""

PUBLIC_KEYS = FILES / "templates" / "keys"
"""Directory of the public keys that are trusted: `*.pub`."""

_SMALL = 1 << 14
_MAKE_ONE = "`metalserve template key` makes a pair"


class SignatureError(TemplateError):
    """A manifest is not signed, or not by a key that is trusted, or not as this very build."""


@dataclass(frozen=True)
class TrustedKey:
    """A public key whose signatures are taken.

    Attributes:
        key_id: 16 hexadecimal digits, as minisign prints it.
        where: file it was read from.
    """

    key_id: str
    where: str
    key: Any


def _minisign() -> Any:
    try:
        return importlib.import_module("minisign")
    except ImportError:
        raise TemplateError(
            "signatures need the Python package py-minisign",
            where="templates",
            remedy="pip install 'metalserve[templates]'",
        ) from None


def make_key(secret: Path, public: Path) -> str:
    """Make a pair of keys; existing files are never replaced.

    The secret key has no password, as minisign's `-W` makes it: builds run unattended. Its file is its owner's only.

    Args:
        secret: file for the secret key.
        public: file for the public key.

    Returns:
        The key's id, 16 hexadecimal digits.

    Raises:
        TemplateError: a file exists, or cannot be written.
    """
    pair = _minisign().KeyPair.generate()
    key_id = _id(pair.public_key)
    pair.public_key.untrusted_comment = f"minisign public key {key_id}"
    for path in (secret, public):
        if os.path.lexists(path):
            raise TemplateError("exists, and a key is never replaced", where=str(path), remedy="name another file")
    with pair.secret_key as key:
        _create(secret, bytes(key) + b"\n", 0o600)
    try:
        _create(public, bytes(pair.public_key) + b"\n", 0o644)
    except BaseException:
        secret.unlink(missing_ok=True)
        raise
    return key_id


def _create(path: Path, content: bytes, mode: int) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as stream:
            os.fchmod(descriptor, mode)
            stream.write(content)
            stream.flush()
            os.fsync(descriptor)
    except OSError as error:
        raise TemplateError(f"cannot be written: {error.strerror}", where=str(path)) from error


def secret_key_path(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the path of the secret key; raises SignatureError when none is named."""
    named = environment.get(KEY_VARIABLE, "")
    if not named:
        raise SignatureError("names no secret key, and a build is signed", where=KEY_VARIABLE, remedy=_MAKE_ONE)
    return Path(named).expanduser().absolute()


def sign(directory: Path, key: Path) -> None:
    """Sign the manifest of a build: writes `manifest.json.minisig` beside it.

    The trusted comment names template and build, so that a signature can stand for no other.

    Args:
        directory: the build's directory.
        key: file of the secret key.

    Raises:
        SignatureError: the key cannot be used. TemplateError: the manifest is refused.
    """
    content = read_small(directory / MANIFEST)
    manifest = Manifest.parse(content, str(directory / MANIFEST))
    with _secret(key) as secret:
        signature = secret.sign(content, trusted_comment=_comment(manifest.name, manifest.build))
    write_whole(directory / SIGNATURE, bytes(signature) + b"\n")


def _secret(path: Path) -> Any:
    module = _minisign()
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode) and mode & 0o077:
            raise SignatureError("others may read this secret key", where=str(path), remedy=f"chmod 600 {path}")
        secret = module.SecretKey.from_bytes(read_small(path, _SMALL))
    except module.Error:  # whose words stay out: they are about a secret
        raise SignatureError("is no secret key of minisign", where=str(path), remedy=_MAKE_ONE) from None
    except FileNotFoundError:
        raise SignatureError("does not exist", where=str(path), remedy=_MAKE_ONE) from None
    except OSError as error:
        raise SignatureError(f"cannot be read: {error.strerror}", where=str(path)) from error
    if secret.is_encrypted():
        raise SignatureError(
            "has a password, and builds run unattended", where=str(path), remedy=f"{_MAKE_ONE} without one"
        )
    return secret


def trusted_keys(named: Iterable[Path] = (), directory: Path = PUBLIC_KEYS) -> list[TrustedKey]:
    """Return the public keys whose signatures are taken.

    Args:
        named: files given by the user; when there are any, only these count.
        directory: where the project keeps its own.

    Raises:
        SignatureError: there is none, or a file is no public key.
    """
    module = _minisign()
    paths = list(named) or sorted(directory.glob("*.pub"))
    if not paths:
        raise SignatureError(
            "holds no public key (*.pub), so that nobody's builds are trusted here",
            where=str(directory),
            remedy=f"put the public key of whoever signs your builds there ({_MAKE_ONE}), or name it with --key FILE",
        )
    found = []
    for path in paths:
        try:
            key = module.PublicKey.from_bytes(read_small(path, _SMALL))
        except module.Error as error:
            raise SignatureError(f"is no public key of minisign: {error}", where=str(path)) from error
        found.append(TrustedKey(_id(key), str(path), key))
    return found


def verified_manifest(directory: Path, keys: Iterable[TrustedKey]) -> Manifest:
    """Return the manifest of a build after its signature was verified. Files are not read: see `check.py`.

    Args:
        directory: the build's directory, `.../NAME/BUILD`.
        keys: who is trusted.

    Raises:
        SignatureError: not signed, not by a trusted key, altered, or signed as another build.
    """
    signature = directory / SIGNATURE
    if not os.path.lexists(signature):
        raise SignatureError("is not signed", where=str(directory), remedy="build it again with a key")
    content = read_small(directory / MANIFEST)
    return verified(content, read_small(signature, _SMALL), directory.parent.name, directory.name, keys)


def verified(content: bytes, signature: bytes, name: str, build: str, keys: Iterable[TrustedKey]) -> Manifest:
    """Return the manifest that `content` is, once `signature` proves it to be that of `build` of template `name`.

    The bytes that are verified are the bytes that are parsed: a file changed between cannot slip in.

    Raises:
        SignatureError: as `verified_manifest`.
    """
    where = f"{checked_name(name)}/{checked_build(build)}"
    module = _minisign()
    try:
        parsed = module.Signature.from_bytes(signature)
    except module.Error as error:
        raise SignatureError(f"its signature cannot be read: {error}", where=where) from error
    trusted = list(keys)
    key_id = _hex(parsed._key_id)
    mine = next((each for each in trusted if each.key_id == key_id), None)
    if mine is None:
        known = ", ".join(each.key_id for each in trusted)
        raise SignatureError(
            f"is signed by key {key_id}, which is not trusted", where=where, remedy=f"trusted: {known}; give --key FILE"
        )
    try:
        mine.key.verify(content, parsed)
    except module.Error:
        raise SignatureError(
            f"the manifest is not what key {key_id} signed", where=where, remedy="do not use this build; build again"
        ) from None
    if parsed.trusted_comment != _comment(name, build):
        raise SignatureError(f"is signed as another build: {parsed.trusted_comment!r}", where=where)
    manifest = Manifest.parse(content, where)
    if (manifest.name, manifest.build) != (name, build):
        raise SignatureError(f"holds the manifest of {manifest.name}/{manifest.build}", where=where)
    return manifest


def _comment(name: str, build: str) -> str:
    return f"metalserve template {name} {build}"


def _id(key: Any) -> str:
    return _hex(key._keynum_pk.key_id)


def _hex(key_id: bytes) -> str:
    # minisign prints the id as a little-endian number
    return key_id[::-1].hex().upper()
