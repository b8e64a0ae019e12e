"""What has the driver open and how its modules are exchanged: `driver_reload.yaml`, typed."""

from __future__ import annotations

from functools import cache
from importlib import resources

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from metalserve.catalogue.models import CatalogueError
from metalserve.yaml_text import read_yaml


class Holder(BaseModel):
    """A unit that has the GPUs open.

    Attributes:
        unit: its systemd name.
        why: what it has them open for.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    unit: str
    why: str


class DriverReload(BaseModel):
    """The order of an exchange of the driver without a reboot.

    Attributes:
        source: where the order comes from.
        stop: units in the order in which they are stopped.
        unload: modules in the order in which they are unloaded.
        space_mib: directory -> free MiB that its file system must have before an upgrade begins.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    source: str
    stop: tuple[Holder, ...]
    unload: tuple[str, ...]
    space_mib: dict[str, int]

    @property
    def units(self) -> tuple[str, ...]:
        """Names of the units, in the order in which they are stopped."""
        return tuple(holder.unit for holder in self.stop)


@cache
def load_driver_reload() -> DriverReload:
    """Return the order of an exchange.

    Raises:
        CatalogueError: the file is damaged.
    """
    text = resources.files("metalserve.catalogue").joinpath("driver_reload.yaml").read_text(encoding="utf-8")
    try:
        return DriverReload.model_validate(read_yaml(text))
    except (yaml.YAMLError, ValidationError) as error:
        raise CatalogueError(f"driver_reload.yaml: {error}") from error
