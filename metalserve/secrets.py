"""Reads secrets at the last moment: from the environment, a file outside the checkout, or a command.

The value is held by `Secret`, which shows it to nobody who does not ask by name. Errors name the reference only.
"""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path
from typing import Never, final

from metalserve.errors import MetalserveError
from metalserve.paths import ROOT
from metalserve.settings.secret import SecretRef

COMMAND_TIMEOUT_S = 60.0
"""Seconds a secret command may take: `pass` may wait for a human to touch a key, but not for ever."""

_LONGEST = 64 * 1024
"""Bytes; more than this is a wrong file, not a token."""


class SecretError(MetalserveError):
    """A secret cannot be read, or may be read by others."""


@final
class Secret:
    """A secret value. `reveal()` gives it; printing, formatting, comparing, pickling and copying into JSON do not."""

    __slots__ = ("__value",)

    def __init__(self, value: str) -> None:
        """Take the value."""
        self.__value = value

    def reveal(self) -> str:
        """Return the value, for the one place that needs it. It must not reach argv, logs or exceptions."""
        return self.__value

    def __repr__(self) -> str:
        """Return a constant, so that not even the length shows."""
        return "Secret(****)"

    def __str__(self) -> str:
        """Return a constant."""
        return "****"

    def __format__(self, spec: str) -> str:
        """Return a constant, whatever the format."""
        return "****"

    def __bool__(self) -> bool:
        """Return True: an empty secret is refused when it is read."""
        return True

    def __reduce__(self) -> Never:
        """Refuse to be pickled."""
        raise TypeError("a Secret is not pickled")


def resolve(ref: SecretRef) -> Secret:
    """Read the secret that `ref` points to.

    White space around it is dropped, as editors and `pass` end files with a newline; only the first line counts.

    Raises:
        SecretError: it cannot be read, is empty, or its file may be read by others or stands in the checkout.
    """
    lines = _read(ref).strip().splitlines()
    if not lines:
        _refuse(ref, "gives an empty secret")
    secret = lines[0].strip()
    if not secret.isprintable() or not secret.isascii():
        _refuse(ref, "gives something that is not plain text on its first line")
    return Secret(secret)


def resolve_pem(ref: SecretRef) -> Secret:
    """Read the secret that `ref` points to where it is a PEM of several lines: a private key and certificates.

    Raises:
        SecretError: as `resolve`, or it holds no private key, or no certificate.
    """
    text = _read(ref).strip()
    for wanted in ("PRIVATE KEY-----", "-----BEGIN CERTIFICATE-----"):
        if wanted not in text:
            _refuse(ref, f"is no PEM with private key and certificate: it lacks {wanted.strip('-')}")
    return Secret(text + "\n")


def _read(ref: SecretRef) -> str:
    if ref.env is not None:
        value = os.environ.get(ref.env)
        if value is None:
            _refuse(ref, "is not set", "export it before the run")
        return value
    if ref.file is not None:
        return _from_file(ref, Path(ref.file).expanduser())
    return _from_command(ref, ref.command or [])


def _from_file(ref: SecretRef, path: Path) -> str:
    if path.resolve().is_relative_to(ROOT):
        _refuse(ref, "stands in the checkout, where it could be committed", "move it elsewhere")
    try:
        # Opened once and then asked, so that the file that is checked is the file that is read.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                _refuse(ref, "is not a plain file")
            if status.st_mode & 0o077:
                mode = stat.S_IMODE(status.st_mode)
                _refuse(ref, f"may be read or changed by others (mode {mode:o})", f"chmod 600 {path}")
            content = file.read(_LONGEST + 1)
    except OSError as error:
        _refuse(ref, f"cannot be read: {error.strerror}")
    return _text(ref, content)


def _from_command(ref: SecretRef, command: list[str]) -> str:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # what it prints could hold the secret
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        _refuse(ref, f"did not answer within {COMMAND_TIMEOUT_S:g} s", "run it by hand; it may wait for a pass phrase")
    except (OSError, ValueError) as error:
        # Not chained: the error could carry the arguments.
        reason = error.strerror if isinstance(error, OSError) else "not a command line"
        _refuse(ref, f"cannot be run: {reason}")
    if done.returncode != 0:
        _refuse(ref, f"failed with status {done.returncode}", "run it by hand to see why")
    return _text(ref, done.stdout)


def _text(ref: SecretRef, content: bytes) -> str:
    if len(content) > _LONGEST:
        _refuse(ref, f"gives more than {_LONGEST // 1024} KiB")
    try:
        return content.decode("ascii")
    except UnicodeDecodeError:
        _refuse(ref, "gives something that is not plain text")


def _refuse(ref: SecretRef, what: str, remedy: str | None = None) -> Never:
    # `from None`: a chained exception could show output or arguments of the failed command.
    raise SecretError(what, where=str(ref), remedy=remedy) from None
