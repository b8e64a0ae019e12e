"""Which hosts a lab has: the fleet file that is asked for, and `fleet.json`, which says what runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from metalserve.errors import MetalserveError
from metalserve.lab.layout import MAX_HOSTS, Layout
from metalserve.lab.system import read_json

FLEETS = Path(__file__).resolve().parent / "fleets"

Suite = Literal["bookworm", "trixie"]


class FleetHost(BaseModel):
    """One host as the fleet file asks for it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    profile: str = Field(description="machine profile: a file of metalserve/lab/profiles, without .yaml")
    suite: Suite = Field(default="bookworm", description="Debian release of the host")
    expect: dict[str, Any] = Field(default_factory=dict, description="what the inventory says was bought")
    template: str | None = Field(
        default=None, description="an OS template's root.tar.zst that the host has been installed from, instead of bare"
    )


class Fleet(BaseModel):
    """A fleet file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    release: str = Field(description="release (pinned set of versions) that the hosts are to run")
    hosts: dict[str, FleetHost] = Field(min_length=1, max_length=MAX_HOSTS)
    also: list[Literal["monitoring"]] = Field(
        default_factory=list, description="sets of packages that the hosts can install beside the usual ones"
    )

    @property
    def suites(self) -> list[str]:
        """The Debian releases needed, sorted."""
        return sorted({host.suite for host in self.hosts.values()})


def load_fleet(name: str) -> Fleet:
    """Load a fleet by name (a file of `metalserve/lab/fleets`) or by path.

    Raises:
        MetalserveError: no such fleet, or not a valid one; every problem is named.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else FLEETS / f"{name}.yaml"
    try:
        value = yaml.safe_load(path.read_text())
    except OSError as error:
        known = ", ".join(sorted(file.stem for file in FLEETS.glob("*.yaml")))
        raise MetalserveError(
            f"no fleet '{name}'", where=str(path), remedy=f"known: {known}; or give the path of a YAML file"
        ) from error
    except yaml.YAMLError as error:
        raise MetalserveError(f"not YAML: {error}", where=str(path)) from error
    try:
        fleet = Fleet.model_validate(value)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise MetalserveError(problems, where=str(path)) from error
    for host in fleet.hosts:
        if not host.isascii() or not host.replace("-", "").isalnum() or host.strip("-") != host or len(host) > 60:
            raise MetalserveError(f"'{host}' is not a host name", where=str(path))
    for name, wanted in fleet.hosts.items():
        if wanted.template is not None and not Path(wanted.template).is_file():
            raise MetalserveError(
                f"{name}: there is no template {wanted.template}", where=str(path),
                remedy="give the path of a build's root.tar.zst (metalserve template build)",
            )  # fmt: skip
    return fleet


class RunningHost(BaseModel):
    """One host of a lab that is up (an entry of `fleet.json`)."""

    model_config = ConfigDict(frozen=True)

    name: str
    index: int
    address: str
    profile: str
    suite: str
    expect: dict[str, Any] = {}
    template: str | None = None


class RunningFleet(BaseModel):
    """`fleet.json`: what a lab that is up consists of."""

    model_config = ConfigDict(frozen=True)

    lab_id: int
    release: str
    service_url: str
    key_fingerprint: str
    has_nvidia_repository: bool = False
    image: str | None = Field(default=None, description="URL of the engine's image archive")
    image_sha256: str | None = None
    model: dict[str, str] | None = Field(default=None, description="settings `model` of every host")
    hosts: list[RunningHost]

    def host(self, name: str) -> RunningHost:
        """Return one host.

        Raises:
            MetalserveError: the lab has no such host.
        """
        for host in self.hosts:
            if host.name == name:
                return host
        known = ", ".join(host.name for host in self.hosts)
        raise MetalserveError(f"the lab has no host '{name}'", where="metalserve lab", remedy=f"hosts: {known}")


def running_fleet(layout: Layout) -> RunningFleet:
    """Return the fleet that is up.

    Raises:
        MetalserveError: the lab is not up.
    """
    value = read_json(layout.fleet_file)
    if value is None:
        raise MetalserveError(
            "the lab is not up", where=str(layout.root), remedy="start it: ./run demo, or as root: metalserve lab up"
        )
    return RunningFleet.model_validate(value)
