"""Who serves which model: MOUNT/.references/NAME.json. What is referenced is never removed."""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .errors import AgentError
from .marker import is_revision
from .progress import write_whole

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:+-]{0,127}")
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Reference:
    """One user of a model.

    Attributes:
        name: of the reference, such as the engine's unit.
        repository: ORGANISATION/NAME.
        revision: commit.
        release: of metalserve's releases, or empty.
        since: when it was made, by the wall clock; only to be shown.
    """

    name: str
    repository: str
    revision: str
    release: str = ""
    since: int = 0

    @property
    def model(self) -> tuple[str, str]:
        """The model's directory below the mount point, and the revision."""
        return self.repository.replace("/", "--"), self.revision


def _directory(mount: str) -> Path:
    return Path(mount) / ".references"


@contextmanager
def locked(mount: str) -> Iterator[None]:
    """Hold the lock of the references: none is made while `gc` decides.

    Raises:
        AgentError: there is no such mount point, or it cannot be written.
    """
    try:
        if not os.path.isdir(mount):
            raise FileNotFoundError(2, "does not exist")
        _directory(mount).mkdir(exist_ok=True)
        descriptor = os.open(_directory(mount) / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise AgentError(f"{error.strerror}", "give the mount point of the models", where=mount) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def read_references(mount: str) -> list[Reference]:
    """Return all references below a mount point, by name.

    Raises:
        AgentError: one cannot be read: then nobody knows what is in use.
    """
    found = []
    directory = _directory(mount)
    if not directory.is_dir():
        return []
    for path in sorted(directory.iterdir()):
        if path.suffix != ".json" or path.name.startswith("."):
            continue
        try:
            data: Any = json.loads(path.read_text(encoding="utf-8"))
            if data.pop("format") != 1:
                raise ValueError("of another version of metalserve")
            reference = Reference(**data)
            if not is_revision(reference.revision):
                raise ValueError("no commit in it")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise AgentError(
                f"cannot be read: {error}", "mend it, or remove it when nobody uses that model", where=str(path)
            ) from error
        found.append(reference)
    return found


def add(mount: str, reference: Reference) -> bool:
    """Make a reference, or replace the one of that name; return whether anything changed.

    It may name a model that is not there yet: so it is kept from the moment it is published.

    Raises:
        AgentError: its names are refused, or it cannot be written.
    """
    if not _NAME.fullmatch(reference.name):
        raise AgentError("letters, digits and ._@:+- are wanted", "give another name", where=repr(reference.name))
    if not _REPOSITORY.fullmatch(reference.repository) or not is_revision(reference.revision):
        raise AgentError(
            "is no ORGANISATION/NAME with a commit", "give both", where=f"{reference.repository}@{reference.revision}"
        )
    path = _directory(mount) / f"{reference.name}.json"
    with locked(mount):
        old = next((each for each in read_references(mount) if each.name == reference.name), None)
        if old is not None and (old.model, old.release) == (reference.model, reference.release):
            return False
        data = {"format": 1, **asdict(reference), "since": reference.since or int(time.time())}
        try:
            write_whole(path, json.dumps(data, indent=1))
        except OSError as error:
            raise AgentError(f"cannot be written: {error.strerror}", where=str(path)) from error
    return True


def remove(mount: str, name: str) -> bool:
    """Remove a reference; return whether there was one."""
    if not _NAME.fullmatch(name):
        raise AgentError("is no name of a reference", where=repr(name))
    with locked(mount):
        try:
            (_directory(mount) / f"{name}.json").unlink()
        except FileNotFoundError:
            return False
    return True
