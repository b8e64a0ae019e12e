"""What BMCs of this or that vendor do otherwise than Redfish says."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from metalserve.catalogue.models import CatalogueError
from metalserve.yaml_text import read_yaml


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class When(_Row):
    """Which systems a quirk is about; both empty: all."""

    manufacturer: str = Field("", description="part of Manufacturer, in any case")
    model: str = Field("", description="part of Model, in any case")

    def fits(self, manufacturer: str, model: str) -> bool:
        """Tell whether a system is one of those."""
        return self.manufacturer.lower() in manufacturer.lower() and self.model.lower() in model.lower()


class Quirk(_Row):
    """One thing that a vendor does otherwise. A setting that is None says nothing about it."""

    id: str
    when: When
    what: str
    source: str
    client: Literal["", "sushy"] = Field("", description="handled by this library, not by settings here")
    caution: str = Field("", description="what to tell a person who sets the boot device")
    send_mode: bool | None = Field(None, description="send the boot mode with each override")
    cd_targets: tuple[str, ...] | None = Field(None, description="boot targets of the virtual CD, the best first")
    off_settle_s: float | None = Field(None, description="seconds to stay off in a power cycle")
    serial_fields: tuple[str, ...] | None = Field(None, description="fields that may hold the serial number")
    http_boot_uri: bool | None = Field(None, description="a URI can be given for UEFI HTTP boot")
    boot_back: str | None = Field(None, description="target that ends an override where Disabled does not")
    not_ready: tuple[str, ...] = Field((), description="words of an error that refuses a request for now")


class Baseboard(_Row):
    """Ids of systems that are no host."""

    pattern: str
    what: str
    source: str


class Behaviour(_Row):
    """What all quirks that fit a system come to."""

    send_mode: bool = True
    cd_targets: tuple[str, ...] = ("Cd", "UsbCd")
    off_settle_s: float = 5.0
    serial_fields: tuple[str, ...] = ("SerialNumber",)
    http_boot_uri: bool = True
    boot_back: str = "Hdd"
    not_ready: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()


class BmcQuirks(_Row):
    """All of them."""

    sources: dict[str, str]
    baseboards: tuple[Baseboard, ...]
    quirks: tuple[Quirk, ...]

    def of(self, manufacturer: str, model: str) -> Behaviour:
        """Return how a system of this manufacturer and model behaves."""
        settings: dict[str, Any] = {"not_ready": (), "cautions": ()}
        for quirk in self.quirks:
            if not quirk.when.fits(manufacturer, model):
                continue
            for name in ("send_mode", "cd_targets", "off_settle_s", "serial_fields", "http_boot_uri", "boot_back"):
                if getattr(quirk, name) is not None:
                    settings[name] = getattr(quirk, name)
            settings["not_ready"] += quirk.not_ready
            settings["cautions"] += (quirk.caution,) if quirk.caution else ()
        return Behaviour.model_validate(settings)

    def not_ready(self) -> tuple[str, ...]:
        """Return the words, of all vendors, by which a BMC says that it refuses a request for now."""
        return tuple(word for quirk in self.quirks for word in quirk.not_ready)

    def is_baseboard(self, name: str) -> bool:
        """Tell whether a system of this Id is a GPU baseboard rather than a host."""
        return any(re.search(each.pattern, name) for each in self.baseboards)


@cache
def load_bmc_quirks() -> BmcQuirks:
    """Return the catalogue of quirks.

    Raises:
        CatalogueError: the file is damaged or names a source that it has not.
    """
    text = resources.files("metalserve.catalogue").joinpath("bmc_quirks.yaml").read_text(encoding="utf-8")
    data: Any = read_yaml(text)
    try:
        for kind in ("baseboards", "quirks"):
            for row in data[kind]:
                row["source"] = data["sources"][row["source"]]
        found = BmcQuirks.model_validate(data)
        for board in found.baseboards:
            re.compile(board.pattern)
    except (KeyError, ValidationError, re.error) as error:
        raise CatalogueError(f"bmc_quirks.yaml: {error}") from error
    ids = [quirk.id for quirk in found.quirks]
    if len(set(ids)) != len(ids):
        raise CatalogueError("bmc_quirks.yaml: a quirk is listed twice")
    return found
