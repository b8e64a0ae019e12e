"""The manifest of a model: which files a revision has, how large they are, and what they hash to."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Self

import yaml
from pydantic import AfterValidator, Field, ValidationError, model_validator

from metalserve.errors import MetalserveError
from metalserve.paths import ROOT
from metalserve.settings.common import Section, problem
from metalserve.settings.reading import problems_of
from metalserve.settings.serving import REPOSITORY, REVISION

_CHUNK = 4 << 20
"""Bytes hashed at a time."""


class ManifestError(MetalserveError):
    """A manifest does not exist, is refused, or cannot be made."""


def _inside(path: str) -> str:
    parts = path.split("/")
    if path.startswith("/") or any(part in ("", ".", "..") for part in parts):
        raise problem("must be a path inside the model's directory, without '..' or a leading '/'")
    if not path.isprintable() or "\\" in path or len(path) > 1024:
        raise problem("must be printable, without backslashes, and at most 1024 characters")
    return path


class ManifestFile(Section):
    """One file of a model."""

    path: Annotated[str, AfterValidator(_inside)] = Field(description="path inside the model's directory, '/' between")
    size: int = Field(ge=0, description="bytes")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the content, 64 hexadecimal digits")


class Manifest(Section):
    """All files of one revision of a model."""

    repository: str = Field(pattern=f"^{REPOSITORY.pattern}$", description="repository id, ORGANISATION/NAME")
    revision: str = Field(pattern=f"^{REVISION.pattern}$", description="commit, 40 hexadecimal digits")
    files: list[ManifestFile] = Field(min_length=1, description="the files")

    @property
    def total(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)

    @model_validator(mode="after")
    def _no_clashes(self) -> Self:
        paths = [file.path for file in self.files]
        if len(set(paths)) != len(paths):
            raise problem("files: a path is listed twice")
        names = set(paths)
        if any(str(parent) in names for path in paths for parent in PurePosixPath(path).parents):
            raise problem("files: a path is a file and a directory at once")
        return self


def manifest_path(path: str | Path) -> Path:
    """Return the absolute path of a manifest; a relative one is relative to the checkout."""
    return ROOT / Path(path).expanduser()


def load_manifest(path: str | Path) -> Manifest:
    """Read a manifest.

    Args:
        path: the YAML file; a relative path is relative to the checkout.

    Raises:
        ManifestError: the file does not exist or is refused; all its problems in one line.
    """
    try:
        state = manifest_path(path).stat()
    except FileNotFoundError:
        raise ManifestError("does not exist", where=str(path), remedy=HOW_TO_MAKE) from None
    except OSError as error:
        raise ManifestError(f"cannot be read: {error}", where=str(path)) from error
    return _load_manifest(str(path), state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=64)
def _load_manifest(where: str, mtime_ns: int, size: int) -> Manifest:
    # A fleet names a handful of manifests a thousand times; time and size make a changed file a new one.
    try:
        data: Any = yaml.safe_load(manifest_path(where).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ManifestError(f"cannot be read: {error}", where=where) from error
    if not isinstance(data, dict):
        raise ManifestError("is not a mapping with repository, revision and files", where=where)
    if data.get("to_be_generated") is True:
        raise ManifestError("is an example that is still to be generated", where=where, remedy=HOW_TO_MAKE)
    try:
        return Manifest.model_validate(data)
    except ValidationError as error:
        problems = problems_of(error.errors(include_url=False, include_input=False), Manifest)
        shown = [f"{key}: {what}" for key, what in problems[:5]]
        more = [f"and {len(problems) - 5} more"] if len(problems) > 5 else []
        raise ManifestError("; ".join(shown + more), where=where) from error


HOW_TO_MAKE = (
    "fetch the model's revision into a directory, then "
    "`metalserve weights manifest --from DIR --repository ORGANISATION/NAME --revision COMMIT --output FILE`"
)
"""The remedy for a manifest that is not there."""


def manifest_from_directory(path: str | Path, repository: str, revision: str) -> Manifest:
    """Hash every file under a directory into a manifest.

    Hidden files and directories (`.cache`, `.git`) are what download tools leave and are not part of a model.
    A link is followed to its file, since download caches link to blobs; a link to a directory is refused.

    Args:
        path: the directory that holds the model's files.
        repository: repository id, ORGANISATION/NAME.
        revision: commit of the files, 40 hexadecimal digits. It cannot be checked against the files.

    Raises:
        ManifestError: no such directory, nothing in it, or something that cannot be hashed.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise ManifestError("is not a directory", where=str(path))
    files: list[dict[str, object]] = []
    for directory, directories, names in os.walk(root, onerror=_unreadable):
        for name in directories:
            if (Path(directory) / name).is_symlink():
                raise ManifestError(
                    "is a link to a directory, which a manifest cannot describe", where=f"{path}/{name}"
                )
        directories[:] = sorted(name for name in directories if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                files.append(_entry(Path(directory) / name, root))
    if not files:
        raise ManifestError("holds no files", where=str(path))
    files.sort(key=lambda entry: str(entry["path"]))
    try:
        return Manifest.model_validate({"repository": repository, "revision": revision, "files": files})
    except ValidationError as error:
        problems = problems_of(error.errors(include_url=False, include_input=False), Manifest)
        raise ManifestError("; ".join(f"{key}: {what}" for key, what in problems[:5]), where=str(path)) from error


def _unreadable(error: OSError) -> None:
    # os.walk would otherwise pass over a directory it cannot read, and the manifest would lack its files.
    raise ManifestError(f"cannot be read: {error.strerror}", where=str(error.filename)) from error


def _entry(file: Path, root: Path) -> dict[str, object]:
    digest = hashlib.sha256()
    size = 0
    try:
        if not stat.S_ISREG(file.stat().st_mode):  # asked before opening: a pipe would block for ever
            raise ManifestError("is not a plain file", where=str(file))
        with file.open("rb") as content:
            while chunk := content.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
    except OSError as error:
        raise ManifestError(f"cannot be read: {error.strerror}", where=str(file)) from error
    return {"path": file.relative_to(root).as_posix(), "size": size, "sha256": digest.hexdigest()}


def write_manifest(manifest: Manifest, path: str | Path) -> None:
    """Write a manifest as YAML, atomically: a reader sees the old file or the whole new one."""
    target = Path(path)
    text = yaml.safe_dump(manifest.model_dump(), sort_keys=False, width=200)
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
