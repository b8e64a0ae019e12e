"""What a template is made of: the typed schema of files/templates/os/NAME.yaml, and its reader."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from metalserve.errors import MetalserveError
from metalserve.paths import FILES
from metalserve.releases import load_release
from metalserve.settings import HostSettings
from metalserve.settings.common import Section, Url, problem
from metalserve.templates.spec_boot import BootSpec, DiskSpec, FirstBootSpec
from metalserve.trees.mirrors import machine_mirrors
from metalserve.yaml_text import merged, read_yaml

SPECS = FILES / "templates/os"

IMAGE_ROLES = ("base", "nvidia_driver", "cuda", "container_runtime", "fabric_manager", "storage")
"""The roles of deploys/gpu_node.py that have something to do in an image, in its order; the others need the machine."""

CODENAMES = {
    ("debian", "12"): "bookworm",
    ("debian", "13"): "trixie",
    ("ubuntu", "22.04"): "jammy",
    ("ubuntu", "24.04"): "noble",
}
"""Distribution and release -> the archive's name for it. The RHEL family has none."""

_RELEASES = {"debian": ("12", "13"), "ubuntu": ("22.04", "24.04"), "rocky": ("9", "10")}
_NAME = r"[a-z0-9][a-z0-9.-]{0,60}"
_PACKAGE = r"[A-Za-z0-9][A-Za-z0-9+._-]*(/[a-z][a-z-]*)?"


class OsSpec(Section):
    """The distribution, and where an installed node gets its packages from (the build may use a nearer mirror)."""

    distribution: Literal["debian", "ubuntu", "rocky"] = Field(description="which one")
    release: str = Field(description="its release: '13', '24.04', '9'")
    mirror: Url = Field(description="base URL of its packages, as an installed node is to have it")
    security: Url | None = Field(None, description="base URL of its security updates, where they lie apart")
    components: list[str] = Field(default=["main"], description="components of the archive")

    @model_validator(mode="after")
    def _known(self) -> Self:
        known = _RELEASES[self.distribution]
        if self.release not in known:
            raise problem(f"release must be one of: {', '.join(known)}")
        return self

    @property
    def id(self) -> str:
        """Our name of it, such as "debian-13"."""
        return f"{self.distribution}-{self.release}"

    @property
    def codename(self) -> str:
        """The archive's name for the release ("trixie"); "" in the RHEL family."""
        return CODENAMES.get((self.distribution, self.release), "")

    @property
    def family(self) -> Literal["apt", "dnf"]:
        """Which package manager makes and mends it."""
        return "dnf" if self.distribution == "rocky" else "apt"


class PoolFile(Section):
    """One package file of the archive's pool, for a version that the index no longer names."""

    path: str = Field(description="below the mirror, such as 'pool/main/l/linux/linux-headers-...deb'")
    sha256: str = Field(description="of the file")

    @field_validator("path")
    @classmethod
    def _path(cls, value: str) -> str:
        if not re.fullmatch(r"pool/[A-Za-z0-9+._~/-]+\.deb", value) or ".." in value:
            raise problem("must be a .deb below pool/")
        return value

    @field_validator("sha256")
    @classmethod
    def _sha256(cls, value: str) -> str:
        if not re.fullmatch(r"[0-9a-f]{64}", value):
            raise problem("must be 64 hexadecimal digits")
        return value


class KernelSpec(Section):
    """The kernel that the image boots and that drivers are built for."""

    package: str | None = Field(
        None, description="its package, or PACKAGE/SUITE for the one of that suite; none where `files` has it"
    )
    files: list[PoolFile] = Field(default_factory=list, description="an earlier kernel and its headers, by file")
    command_line: str = Field("console=tty0 console=ttyS0,115200", description="beside root= and ro")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.package is None) == (not self.files):
            raise problem("give either a package or files")
        return self

    @field_validator("package")
    @classmethod
    def _package(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(_PACKAGE, value):
            raise problem("must be the name of a package")
        return value

    @field_validator("command_line")
    @classmethod
    def _line(cls, value: str) -> str:
        if not value.isprintable() or '"' in value:
            raise problem("must be one line without quotation marks")
        return value


class UserSpec(Section):
    """A user of every node. There are no passwords: a template is not the place for a secret."""

    name: str = Field(description="login")
    groups: list[str] = Field(default_factory=list, description="further groups, which must be there")
    sudo: bool = Field(False, description="may do everything without a password")
    authorized_keys: list[str] = Field(default_factory=list, description="public SSH keys, one line each")

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if not re.fullmatch(r"[a-z_][a-z0-9_-]{0,30}", value):
            raise problem("must be a login name")
        return value

    @field_validator("groups")
    @classmethod
    def _groups(cls, value: list[str]) -> list[str]:
        if not all(re.fullmatch(r"[a-z_][a-z0-9_-]{0,30}", name) for name in value):
            raise problem("must be names of groups")
        return value

    @field_validator("authorized_keys")
    @classmethod
    def _keys(cls, value: list[str]) -> list[str]:
        if not all(re.fullmatch(r"(ssh|ecdsa|sk)-[a-z0-9@.-]+ [A-Za-z0-9+/=]+( [^\n]*)?", key) for key in value):
            raise problem("must be public keys in OpenSSH's form, one line each")
        return value


class TemplateSpec(Section):
    """A template."""

    name: str = Field(description="name, also of its directory on the shelf")
    description: str = Field("", description="one line, for lists")
    os: OsSpec = Field(description="distribution")
    architecture: Literal["amd64"] = Field("amd64", description="of the packages")
    kernel: KernelSpec = Field(description="kernel")
    release: str = Field(description="metalserve's set of versions, a file of files/releases")
    roles: list[str] = Field(default=list(IMAGE_ROLES), description="roles that are built in, in any order")
    packages: list[str] = Field(default_factory=list, description="beside those the roles bring")
    users: list[UserSpec] = Field(default_factory=list, description="users of every node")
    disk: DiskSpec = Field(default_factory=DiskSpec, description="layout of the image")
    boot: BootSpec = Field(default_factory=BootSpec, description="what firmware starts")
    first_boot: FirstBootSpec = Field(default_factory=FirstBootSpec, description="first boot")
    settings: dict[str, Any] = Field(default_factory=dict, description="host settings, as in an inventory")
    engine_image: bool = Field(
        False, description="carry the archive that settings.engine.image_archive names: nodes load it and fetch nothing"
    )

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if not re.fullmatch(_NAME, value) or ".." in value:
            raise problem("must be small letters, digits, '.' and '-'")
        return value

    @field_validator("roles")
    @classmethod
    def _roles(cls, value: list[str]) -> list[str]:
        strange = sorted(set(value) - set(IMAGE_ROLES))
        if strange:
            raise problem(f"no role for an image: {', '.join(strange)}; there are: {', '.join(IMAGE_ROLES)}")
        return [name for name in IMAGE_ROLES if name in value]

    @field_validator("packages")
    @classmethod
    def _packages(cls, value: list[str]) -> list[str]:
        if not all(re.fullmatch(_PACKAGE, name) for name in value):
            raise problem("must be names of packages")
        return value

    @model_validator(mode="after")
    def _boots(self) -> Self:
        if self.chain == "distribution":
            if self.os.family != "apt":
                raise problem(f"boot.chain: an image of {self.os.distribution} cannot have the distribution's yet")
            if not re.fullmatch(r"[A-Za-z0-9_.,:=/@%+ -]*", self.kernel.command_line):
                raise problem("kernel.command_line has characters that GRUB or its scripts would read as their own")
        elif self.boot.secure_boot == "required":
            raise problem("boot.secure_boot is 'required', and nobody signs a unified kernel image of this build")
        return self

    @model_validator(mode="after")
    def _carries(self) -> Self:
        engine = self.settings.get("engine")
        named = engine if isinstance(engine, dict) else {}
        lacking = [key for key in ("image_archive", "image_archive_sha256") if not named.get(key)]
        if self.engine_image and lacking:
            raise problem(f"engine_image is true, and there is no settings.engine.{lacking[0]} that says which")
        return self

    @property
    def chain(self) -> Literal["distribution", "uki"]:
        """What firmware starts, decided."""
        return self.boot.chain or ("distribution" if self.os.family == "apt" else "uki")

    @property
    def host_data(self) -> dict[str, Any]:
        """The inventory data of the image, as a host."""
        return {**self.settings, "release": self.release}

    @property
    def digest(self) -> str:
        """SHA-256 over everything that the specification says, defaults included."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def known_specs(directory: Path = SPECS) -> list[str]:
    """Return the names of the specifications that come with metalserve."""
    return sorted(path.stem for path in directory.glob("*.yaml"))


def load_spec(name_or_path: str, *, directory: Path = SPECS) -> TemplateSpec:
    """Load a template's specification.

    A file may say `extends: NAME`: it then has everything of that one except what it says itself, maps key by key.

    Args:
        name_or_path: a name of `files/templates/os`, or the path of a YAML file.
        directory: where names are looked up.

    Raises:
        MetalserveError: no such file, not YAML, or not a valid specification; every problem is named. Or it names no
            mirror, and this machine has none either.
    """
    path = Path(name_or_path) if name_or_path.endswith((".yaml", ".yml")) else directory / f"{name_or_path}.yaml"
    value = _with_mirrors(_read(path, directory, ()))
    try:
        spec = TemplateSpec.model_validate({"name": path.stem, **value})
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, item['loc'])) or 'the specification'}: {item['msg']}" for item in error.errors()
        )
        raise MetalserveError(problems, where=str(path)) from error
    load_release(spec.release)
    HostSettings.from_data(spec.host_data, host=spec.name, source=str(path))
    return spec


def _with_mirrors(value: dict[str, Any]) -> dict[str, Any]:
    """A Debian without a mirror of its own gets the one that this machine is set up for: no site's mirror is ours."""
    system = value.get("os")
    if not isinstance(system, dict) or system.get("distribution") != "debian" or system.get("mirror"):
        return value
    found = machine_mirrors()
    own = {"mirror": found.archive, "security": found.security}
    return {**value, "os": {**system, **{key: url for key, url in own.items() if url is not None}}}


def _read(path: Path, directory: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    try:
        value = read_yaml(path.read_text())
    except OSError as error:
        raise MetalserveError(
            f"no template '{path.stem}'",
            where=str(path),
            remedy=f"known: {', '.join(known_specs(directory))}; or give the path of a YAML file",
        ) from error
    except yaml.YAMLError as error:
        raise MetalserveError(f"not YAML: {' '.join(str(error).split())}", where=str(path)) from error
    if not isinstance(value, dict):
        raise MetalserveError("must be a map of settings", where=str(path))
    parent = value.pop("extends", None)
    if parent is None:
        return value
    above = directory / f"{parent}.yaml" if not str(parent).endswith((".yaml", ".yml")) else path.parent / str(parent)
    if above in (*seen, path):
        raise MetalserveError(f"extends itself by way of '{parent}'", where=str(path))
    below = _read(above, directory, (*seen, path))
    below.pop("name", None)
    return merged(below, value)
