"""The manifest of a template's build: what went in, what came out, and what each file hashes to."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from metalserve.errors import MetalserveError
from metalserve.settings.common import Section, problem
from metalserve.settings.reading import problems_of

NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,61}[a-z0-9])?")
"""Name of a template: a file name, a label in a URL, never hidden, never a way up."""

BUILD = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{12}")
"""Name of a build: when it was begun (UTC), and the first 12 digits of the digest of its inputs."""

MANIFEST = "manifest.json"
SIGNATURE = "manifest.json.minisig"
DISK = "disk.raw.zst"
"""The disk, compressed; what it is uncompressed, the manifest's `raw` says."""

_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_LARGEST_MANIFEST = 1 << 20
_CHUNK = 1 << 20


class TemplateError(MetalserveError):
    """A template, a build of it or its manifest is refused or cannot be made."""


def checked_name(name: str) -> str:
    """Return `name` when it can be a template's; raises TemplateError otherwise, so that no path escapes by it."""
    if not NAME.fullmatch(name) or ".." in name:
        raise TemplateError(
            f"{name[:80]!r} is no name of a template",
            where="template",
            remedy="lower case letters, digits, '.' and '-', at most 63, as in debian-13",
        )
    return name


def checked_build(build: str) -> str:
    """Return `build` when it is the name of a build; raises TemplateError otherwise."""
    if not BUILD.fullmatch(build):
        raise TemplateError(
            f"{build[:80]!r} is no name of a build",
            where="build",
            remedy="20261126T101500Z-0123456789ab is one; `metalserve template list` shows all",
        )
    return build


def _named(name: str) -> str:
    if not NAME.fullmatch(name) or ".." in name:
        raise problem("must be lower case letters, digits, '.' and '-'")
    return name


def _files(files: dict[str, FileEntry]) -> dict[str, FileEntry]:
    for name in files:
        if not _FILE.fullmatch(name) or name in (MANIFEST, SIGNATURE):
            raise problem("names a file that a build cannot have")
    return files


def _moment(text: str) -> str:
    try:
        datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ")
    except ValueError:
        raise problem("must be a moment in UTC, as in 2026-11-26T10:15:00Z") from None
    return text


Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256, 64 hexadecimal digits."""


class FileEntry(Section):
    """One file of a build."""

    size: int = Field(ge=0, lt=1 << 63, description="bytes")
    sha256: Digest


class Inputs(Section):
    """All that decides what a build becomes; two builds of equal inputs differ only in what `reproducible` names."""

    spec: Digest = Field(description="of the template's specification, defaults filled in")
    roles: dict[str, Digest] = Field(description="of each role, and of the code and files that roles use")
    release: Digest = Field(description="of the content of the release's file")
    suites: dict[str, Digest] = Field(description="suite of the archive -> its InRelease (repomd.xml) as it was")
    tools: Digest = Field(description="of the list of packages of the tool root")
    engine_image: Digest | None = Field(None, description="of the engine's image archive, where the image carries it")

    @property
    def digest(self) -> str:
        """SHA-256 over all inputs, 64 hexadecimal digits."""
        # What a build does not have does not count, so that those from before it could be had keep their digest.
        text = json.dumps(self.model_dump(mode="json", exclude_none=True), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


class BaseSystem(Section):
    """The distribution a template is made of."""

    distribution: Literal["debian", "ubuntu", "rocky"]
    release: str = Field(min_length=1, max_length=40, description="as the distribution numbers it: 13, 24.04, 9")


class Kernel(Section):
    """The kernel of the image."""

    package: str = Field(min_length=1, description="package that was asked for, as linux-image-amd64")
    version: str = Field(min_length=1, description="what `uname -r` says of it")


class Boot(Section):
    """How the image boots, and what Secure Boot would make of it."""

    chain: Literal["distribution", "uki"] = Field(description="who signed what firmware starts; a uki: nobody")
    unsigned_modules: list[str] = Field(
        default_factory=list, description="kernel modules that nobody signed: they do not load with Secure Boot on"
    )


class Reproducible(Section):
    """What a second build of the same inputs gives again."""

    identical: list[str] = Field(default_factory=list, description="files that come out byte for byte; `raw` is one")
    differs: dict[str, str] = Field(default_factory=dict, description="file that does not -> why")


class Manifest(Section):
    """What a build is. Written once, signed, never changed."""

    schema_: Literal[1] = Field(1, alias="schema")
    name: Annotated[str, AfterValidator(_named)]
    build: str = Field(pattern=f"^{BUILD.pattern}$")
    created: Annotated[str, AfterValidator(_moment)] = Field(description="when the build was begun, UTC")
    source_date_epoch: int = Field(ge=0, description="seconds since 1970 that the image's files bear at most")
    inputs: Inputs
    os: BaseSystem
    architecture: str = Field(pattern=r"^[a-z0-9_]{2,16}$", description="as the distribution calls it: amd64, aarch64")
    kernel: Kernel
    boot: Boot | None = Field(None, description="builds before 2026-11-26 do not say")
    release: str = Field(min_length=1, description="name of the release of metalserve")
    files: Annotated[dict[str, FileEntry], AfterValidator(_files)]
    raw: FileEntry = Field(description=f"{DISK} uncompressed: what is on the disk of a node after installing")
    packages: int = Field(ge=0, description="installed packages")
    reproducible: Reproducible = Field(default_factory=Reproducible)

    @model_validator(mode="after")
    def _one_story(self) -> Self:
        if self.build != build_name(self.created, self.inputs):
            raise problem("build: does not follow from created and inputs")
        if DISK not in self.files:
            raise problem(f"files: {DISK} is not among them")
        return self

    @classmethod
    def parse(cls, content: bytes, where: str) -> Self:
        """Return the manifest that `content` is.

        Raises:
            TemplateError: it is refused, with all problems in one line; the line begins with `where`.
        """
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            problems = problems_of(error.errors(include_url=False, include_input=False), cls)
            shown = "; ".join(f"{key}: {what}" for key, what in problems[:5])
            raise TemplateError(f"is no manifest: {shown}", where=where) from error

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a manifest; raises TemplateError when it does not exist or is refused. It is not verified by this."""
        return cls.parse(read_small(path), str(path))

    def content(self) -> bytes:
        """Return the manifest as the bytes that are written and signed."""
        return (json.dumps(self.model_dump(mode="json", by_alias=True), indent=1, sort_keys=True) + "\n").encode()

    def write(self, path: Path) -> None:
        """Write the manifest to `path`; a reader sees the old file or the whole new one. Raises TemplateError."""
        write_whole(path, self.content())


def build_name(created: str, inputs: Inputs) -> str:
    """Return the name of the build of `inputs` begun at `created` (UTC, 2026-11-26T10:15:00Z)."""
    return f"{re.sub('[-:]', '', created)}-{inputs.digest[:12]}"


def moment(when: datetime | None = None) -> str:
    """Return a moment (now unless given) as manifests write it."""
    return (when or datetime.now(UTC)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def file_entry(path: Path) -> FileEntry:
    """Return size and SHA-256 of a file, read in pieces; raises TemplateError when it cannot be read."""
    total, hashed = 0, hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while piece := stream.read(_CHUNK):
                total += len(piece)
                hashed.update(piece)
    except OSError as error:
        raise TemplateError(f"cannot be read: {error.strerror}", where=str(path)) from error
    return FileEntry(size=total, sha256=hashed.hexdigest())


def file_entries(directory: Path) -> dict[str, FileEntry]:
    """Return the entries of all files of a build's directory but the manifest and its signature."""
    names = sorted(path.name for path in directory.iterdir() if path.name not in (MANIFEST, SIGNATURE))
    return {name: file_entry(directory / name) for name in names}


def read_small(path: Path, largest: int = _LARGEST_MANIFEST) -> bytes:
    """Return the content of a plain file of `largest` bytes at most; a symlink is refused.

    Raises:
        TemplateError: it does not exist, is no plain file, is larger, or cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as stream:
            content = stream.read(largest + 1)
    except FileNotFoundError:
        raise TemplateError("does not exist", where=str(path)) from None
    except OSError as error:
        raise TemplateError(f"cannot be read: {error.strerror}", where=str(path)) from error
    if len(content) > largest:
        raise TemplateError(f"is larger than {largest} bytes, which it cannot rightly be", where=str(path))
    return content


def write_whole(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a file whole or not at all, with `mode`; raises TemplateError when it cannot be written."""
    temporary = ""
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise TemplateError(f"cannot be written: {error.strerror}", where=str(path)) from error
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
