"""The manifest of a model: which files a revision has, how large they are, and what they hash to."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, Field, ValidationError, model_validator

from metalserve.errors import MetalserveError
from metalserve.paths import ROOT
from metalserve.settings.common import Section, problem
from metalserve.settings.reading import problems_of
from metalserve.settings.serving import REPOSITORY, REVISION
from metalserve.yaml_text import read_yaml

RESERVED = ".metalserve-"
"""What the store itself puts beside the files of a model begins with this."""

_LARGEST = (1 << 63) - 1
"""Bytes that a file may have: what file systems and system calls can count."""


class ManifestError(MetalserveError):
    """A manifest does not exist, is refused, or cannot be made."""


def path_problem(path: str) -> str:
    """Return why a path cannot be a file of a model, or nothing when it can."""
    parts = path.split("/")
    if path.startswith("/") or any(part in ("", ".", "..") for part in parts):
        return "must be a path inside the model's directory, without '..' or a leading '/'"
    if not path.isprintable() or "\\" in path or len(path) > 1024:
        return "must be printable, without backslashes, and at most 1024 characters"
    if any(len(part.encode()) > 255 for part in parts):
        return "must not have a name of more than 255 bytes, which no file system takes"
    if path.startswith(RESERVED):
        return f"must not begin with {RESERVED}, which is metalserve's own"
    return ""


def _inside(path: str) -> str:
    if wrong := path_problem(path):
        raise problem(wrong)
    return path


class ManifestFile(Section):
    """One file of a model."""

    path: Annotated[str, AfterValidator(_inside)] = Field(description="path inside the model's directory, '/' between")
    size: int = Field(ge=0, le=_LARGEST, description="bytes")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the content, 64 hexadecimal digits")


class MadeFrom(Section):
    """Where a manifest was made from, so that it can be held against its source again."""

    kind: Literal["hub", "http", "s3", "oci", "directory"] = Field(description="what the source is, as staging.kind")
    source: str = Field(min_length=1, description="URL of hub, mirror or bucket; REGISTRY/NAME@DIGEST; path")
    asked: str = Field("", description="branch or tag that was asked for; the manifest has what it stood for then")
    region: str = Field("", description="region of S3")
    listing: Literal["", "sums", "index", "list"] = Field(
        "", description="how the files of an HTTP mirror became known: SHA256SUMS, its index pages, a list of names"
    )
    include: list[str] = Field(default_factory=list, description="patterns of the files that were taken")
    exclude: list[str] = Field(default_factory=list, description="patterns of the files that were left out")


class Manifest(Section):
    """All files of one revision of a model."""

    repository: str = Field(pattern=f"^{REPOSITORY.pattern}$", description="repository id, ORGANISATION/NAME")
    revision: str = Field(
        pattern=f"^{REVISION.pattern}$",
        description="commit, 40 hexadecimal digits; where the source has no commits, what `content_revision` gives",
    )
    made_from: MadeFrom | None = Field(None, description="where it was made from")
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
        path: the file, YAML or JSON; a relative path is relative to the checkout.

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
        data = _parsed(manifest_path(where).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ManifestError(f"cannot be read: {error}", where=where) from error
    if not isinstance(data, dict):
        raise ManifestError("is not a mapping with repository, revision and files", where=where)
    if data.get("to_be_generated") is True:
        raise ManifestError("is an example that is still to be generated", where=where, remedy=HOW_TO_MAKE)
    return checked(data, where)


def _parsed(text: str) -> Any:
    if text.lstrip().startswith("{"):
        try:
            return json.loads(text)
        except ValueError:
            pass  # braces are YAML too
    # the loader in C, where PyYAML has it, reads a thousand files in a tenth of the time
    return read_yaml(text)


def checked(data: dict[str, Any], where: str) -> Manifest:
    """Return the manifest that `data` is; raises ManifestError with its problems in one line, about `where`."""
    try:
        return Manifest.model_validate(data)
    except ValidationError as error:
        problems = problems_of(error.errors(include_url=False, include_input=False), Manifest)
        shown = [f"{key}: {what}" for key, what in problems[:5]]
        more = [f"and {len(problems) - 5} more"] if len(problems) > 5 else []
        raise ManifestError("; ".join(shown + more), where=where) from error


def content_revision(files: Sequence[ManifestFile]) -> str:
    """Return what stands for the revision where the source has no commits.

    The first 40 hexadecimal digits of the SHA-256 over one line a file, `SHA256 SIZE PATH`, in the order of the paths:
    the same files give the same revision, wherever they came from, and other files another one.
    """
    rows = sorted((file.path, f"{file.sha256} {file.size} {file.path}\n") for file in files)
    return hashlib.sha256("".join(row for _, row in rows).encode()).hexdigest()[:40]


HOW_TO_MAKE = (
    "`metalserve weights manifest --hub ORGANISATION/NAME --revision COMMIT --output FILE`, or, of files that are "
    "here already, `metalserve weights manifest --from DIR --repository ORGANISATION/NAME --revision COMMIT ...`"
)
"""The remedy for a manifest that is not there."""


def write_manifest(manifest: Manifest, path: str | Path) -> None:
    """Write a manifest, JSON where its name ends so, else YAML; a reader sees the old file or the whole new one."""
    target = Path(path)
    data = manifest.model_dump(exclude_defaults=True)
    if target.suffix == ".json":
        text = json.dumps(data, indent=1) + "\n"
    else:
        text = yaml.safe_dump(data, sort_keys=False, width=200)
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
