"""Signed flat apt repositories, and the lab's own signing key.

A flat repository is a directory of .deb files with `Packages`, `Release` and its signatures beside them;
a host names it with the suite `./`.
"""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from metalserve.errors import MetalserveError

USER_ID = "metalserve lab (simulated packages) <lab@metalserve.invalid>"


@dataclass(frozen=True)
class SigningKey:
    """The lab's OpenPGP key.

    Attributes:
        secret: file of the armoured secret key, mode 0600, without passphrase.
        public: file of the armoured public key.
        fingerprint: 40 hex digits, upper case.
    """

    secret: Path
    public: Path
    fingerprint: str

    def publish(self, target: Path) -> None:
        """Write the armoured public key to `target` (for the file service)."""
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.public, target)
        target.chmod(0o644)


def signing_key(directory: Path) -> SigningKey:
    """Return the signing key kept in `directory`, making it on first use.

    Raises:
        MetalserveError: gpg is missing or fails.
    """
    secret, public = directory / "lab-signing.key", directory / "lab-signing.asc"
    if not (secret.exists() and public.exists()):
        directory.mkdir(parents=True, exist_ok=True)
        with _gpg_home() as home:
            _gpg(home, "--passphrase", "", "--quick-generate-key", USER_ID, "ed25519", "sign", "never")
            text = _gpg(home, "--armor", "--export-secret-keys")
            _write(secret, text, mode=0o600)
            _write(public, _gpg(home, "--armor", "--export"), mode=0o644)
    with _gpg_home() as home:
        show = ["--with-colons", "--import-options", "show-only", "--import", str(public)]
        try:
            listing = _gpg(home, *show).decode()
        except MetalserveError as error:
            raise MetalserveError(
                f"not an OpenPGP key: {error.what}", where=str(public), remedy="remove it: the lab makes a new key"
            ) from error
    found = [line.split(":")[9] for line in listing.splitlines() if line.startswith("fpr:")]
    if not found:
        raise MetalserveError("no key in it", where=str(public), remedy="remove it: the lab makes a new key")
    return SigningKey(secret=secret, public=public, fingerprint=found[0])


def make_flat_repository(directory: Path, *, key: SigningKey, origin: str, label: str) -> None:
    """Index and sign every .deb below `directory`, which becomes a flat apt repository.

    Several versions of one package are all listed. May be repeated after adding packages.

    Args:
        directory: where the .deb files are; `Packages`, `Packages.gz`, `Release`, `InRelease`
            and `Release.gpg` are written there.
        key: signs the Release file.
        origin: field `Origin` of the Release file (what apt pins by).
        label: field `Label` of the Release file.

    Raises:
        MetalserveError: apt-ftparchive or gpg is missing or fails.
    """
    for name in ("Release", "InRelease", "Release.gpg", "Packages", "Packages.gz"):
        (directory / name).unlink(missing_ok=True)
    packages = _run(["apt-ftparchive", "packages", "."], cwd=directory)
    _write(directory / "Packages", packages)
    _write(directory / "Packages.gz", gzip.compress(packages, mtime=0))
    _sign_release(directory, key=key, origin=origin, label=label)


def _sign_release(directory: Path, *, key: SigningKey, origin: str, label: str) -> None:
    field = "APT::FTPArchive::Release::"
    release = _run(
        ["apt-ftparchive", "-o", f"{field}Origin={origin}", "-o", f"{field}Label={label}", "release", "."],
        cwd=directory,
    )
    _write(directory / "Release", release)
    with _gpg_home() as home:
        _gpg(home, "--import", str(key.secret))
        source = str(directory / "Release")
        _write(directory / "InRelease", _gpg(home, "--clearsign", "--output", "-", source))
        _write(directory / "Release.gpg", _gpg(home, "--armor", "--detach-sign", "--output", "-", source))


@contextmanager
def _gpg_home() -> Iterator[Path]:
    """A throw-away GNUPGHOME: its path is short (agent sockets are limited to 108 bytes), no agent stays."""
    home = Path(tempfile.mkdtemp(prefix="msgpg-", dir="/tmp"))
    try:
        yield home
    finally:
        environment = {**os.environ, "GNUPGHOME": str(home)}
        subprocess.run(["gpgconf", "--kill", "all"], env=environment, capture_output=True, check=False)
        shutil.rmtree(home, ignore_errors=True)


def _gpg(home: Path, *args: str) -> bytes:
    common = ["gpg", "--homedir", str(home), "--batch", "--yes", "--quiet", "--pinentry-mode", "loopback"]
    return _run([*common, *args])


def _run(command: list[str], cwd: Path | None = None) -> bytes:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, check=False)
    except FileNotFoundError as error:
        package = {"gpg": "gnupg", "apt-ftparchive": "apt-utils"}.get(command[0], command[0])
        raise MetalserveError(
            f"{command[0]} is not installed", where="lab", remedy=f"apt-get install {package}"
        ) from error
    if done.returncode != 0:
        words = done.stderr.decode(errors="replace").strip().splitlines()
        raise MetalserveError(
            f"{command[0]} failed ({done.returncode}): {words[-1] if words else 'no message'}",
            where=str(cwd) if cwd else "lab signing key",
        )
    return done.stdout


def _write(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write atomically, so that a reader never sees half an index."""
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as stream:
        os.fchmod(descriptor, mode)
        stream.write(content)
        stream.flush()
        os.fsync(descriptor)
    temporary.replace(path)
