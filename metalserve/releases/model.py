"""A release: the pinned versions a host is brought to, read from `files/releases/NAME.yaml`."""

from __future__ import annotations

import difflib
import re
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import AfterValidator, Field, ValidationError, model_validator

from metalserve.errors import MetalserveError
from metalserve.paths import releases_directory
from metalserve.settings.common import Section, problem
from metalserve.settings.reading import problems_of
from metalserve.yaml_text import read_yaml


class ReleaseError(MetalserveError):
    """A release does not exist or its file is refused."""


def _pinned(version: str) -> str:
    if not re.fullmatch(r"(\d+:)?\d[0-9A-Za-z.+~-]*", version):
        raise problem("must be a version in digits; names such as 'latest' pin nothing")
    return version


Version = Annotated[str, AfterValidator(_pinned)]


def version_key(version: str) -> tuple[int, ...]:
    """Return the numbers of a version for comparison; a Debian epoch and revision are left out.

    `1:4.6.0-1` gives (4, 6, 0). Only for versions made of numbers and dots, as drivers, toolkits and Docker have.
    """
    upstream = version.rpartition(":")[2].split("-")[0].split("+")[0].split("~")[0].lstrip("v")
    return tuple(int(number) for number in re.findall(r"\d+", upstream))


class DriverPin(Section):
    """The NVIDIA driver."""

    branch: int = Field(gt=0, description="driver branch")
    version: Version = Field(description="full driver version, without a Debian revision")

    @model_validator(mode="after")
    def _of_its_branch(self) -> Self:
        if version_key(self.version)[0] != self.branch:
            raise problem(f"version {self.version} is not of branch {self.branch}")
        return self


class VersionPin(Section):
    """One pinned version."""

    version: Version = Field(description="version of the packages")


class CudaPin(Section):
    """CUDA on the host."""

    toolkit: str = Field(pattern=r"^\d+\.\d+$", description="toolkit version, major.minor: package cuda-toolkit-X-Y")


class DockerPin(Section):
    """Docker Engine; it comes from the distribution or Docker's repository, so only a lower bound is pinned."""

    minimum: Version = Field(description="oldest version that runs the images")
    cdi_minimum: Version = Field(description="oldest version that takes the toolkit's CDI devices")


class VllmPin(Section):
    """The vLLM image."""

    version: Version = Field(description="vLLM version")
    repository: str = Field(pattern=r"^[a-z0-9][a-z0-9._/:-]*[a-z0-9]$", description="image repository")
    tag: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$", description="image tag")
    digest: str | None = Field(None, pattern=r"^sha256:[0-9a-f]{64}$", description="digest of the image, when recorded")
    cuda: str = Field(pattern=r"^\d+\.\d+$", description="CUDA version inside the image, major.minor")

    @model_validator(mode="after")
    def _not_latest(self) -> Self:
        if self.tag == "latest" or self.tag.startswith("nightly"):
            raise problem(f"tag {self.tag!r} pins nothing: name a version such as 'v{self.version}'")
        return self


class Release(Section):
    """A pinned set of versions."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="name, equal to the file's")
    description: str = Field(description="one line: what it is for")
    kept_from: date = Field(description="first day of the release")
    end_of_life: date | None = Field(None, description="last day on which its driver branch is supported")
    driver: DriverPin
    fabric_manager: VersionPin
    cuda: CudaPin
    container_toolkit: VersionPin
    dcgm: VersionPin
    docker: DockerPin
    vllm: VllmPin
    sources: list[str] = Field(default_factory=list, description="where the versions and rules come from")

    @property
    def image(self) -> str:
        """The vLLM image as Docker takes it: `repository:tag`, with `@digest` when it is recorded."""
        digest = f"@{self.vllm.digest}" if self.vllm.digest else ""
        return f"{self.vllm.repository}:{self.vllm.tag}{digest}"


def release_names() -> list[str]:
    """Return the names of all releases, in order."""
    return sorted(path.stem for path in releases_directory().glob("*.yaml"))


def load_release(name: str) -> Release:
    """Return release `name` from the directory of releases (`METALSERVE_RELEASES_DIR` or `files/releases`).

    Raises:
        ReleaseError: no such release (with the nearest name), or its file is refused.
    """
    path = releases_directory() / f"{name}.yaml"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name) or not path.is_file():
        raise ReleaseError(no_such_release(name), where="release", remedy="`metalserve release list` shows all")
    return read_release(path)


def no_such_release(name: str) -> str:
    """Return the words for a release that does not exist, with the nearest one that does."""
    near = difflib.get_close_matches(name, release_names(), n=1, cutoff=0.4)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"no release {name!r}{hint}"


def read_release(path: Path) -> Release:
    """Read and validate one release file.

    Raises:
        ReleaseError: with every problem of the file in one line.
    """
    try:
        state = path.stat()
    except OSError as error:
        where = f"{path.parent.name}/{path.name}"
        raise ReleaseError(f"cannot be read: {error}", where=where) from error
    return _read_release(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=64)
def _read_release(path: Path, mtime_ns: int, size: int) -> Release:
    # A fleet names a handful of releases a thousand times; time and size make a changed file a new one.
    where = f"{path.parent.name}/{path.name}"
    try:
        data: Any = read_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ReleaseError(f"cannot be read: {error}", where=where) from error
    if not isinstance(data, dict):
        raise ReleaseError("is not a mapping of settings", where=where)
    try:
        release = Release.model_validate(data)
    except ValidationError as error:
        problems = problems_of(error.errors(include_url=False, include_input=False), Release)
        raise ReleaseError("; ".join(f"{key}: {what}" for key, what in problems), where=where) from error
    if release.name != path.stem:
        raise ReleaseError(f"name: is {release.name!r}, but the file is called {path.name!r}", where=where)
    return release
