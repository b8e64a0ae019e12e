"""What DCGM exports: the fields that nodes are asked for, their other names, and the exporter of each DCGM."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, cached_property
from importlib import resources
from typing import Literal

from pydantic import BaseModel, ConfigDict

from metalserve.catalogue.models import CatalogueError, suggestion
from metalserve.yaml_text import read_yaml


class DcgmField(BaseModel):
    """One field.

    Attributes:
        id: DCGM's number, which never changed.
        name: the name that DCGM 3.3 to today takes.
        older: its name before that, or "".
        newer: its name since DCGM 4.6, or "".
        kind: Prometheus' type.
        help: what it says, with its unit.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    id: int
    name: str
    older: str = ""
    newer: str = ""
    kind: Literal["gauge", "counter"]
    help: str

    @property
    def spellings(self) -> tuple[str, ...]:
        """All its names, the one that nodes export first."""
        return tuple(name for name in (self.name, self.newer, self.older) if name)


class DcgmMetrics(BaseModel):
    """The table of fields and exporters."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    sources: Mapping[str, str]
    exporter_package: str
    exporters: Mapping[str, str]
    fields: tuple[DcgmField, ...]

    @cached_property
    def _by_name(self) -> dict[str, DcgmField]:
        return {name: field for field in self.fields for name in field.spellings}

    def field(self, name: str) -> DcgmField:
        """Return the field of any of its spellings.

        Raises:
            CatalogueError: nodes export no such field; the message names the nearest one.
        """
        found = self._by_name.get(name)
        if found is None:
            raise CatalogueError(f"no DCGM field {name!r} in the catalogue{suggestion(name, self._by_name)}")
        return found

    def exporter_for(self, dcgm: str) -> str:
        """Return the exporter's version that is released with a DCGM version (`1:4.6.0-1` or `4.6.0`).

        Raises:
            CatalogueError: the pair is not known.
        """
        upstream = dcgm.rpartition(":")[2].partition("-")[0]
        if upstream not in self.exporters:
            raise CatalogueError(
                f"no DCGM exporter is known for DCGM {upstream}: add the pair to dcgm_metrics.yaml, exporters"
            )
        return self.exporters[upstream]


@cache
def load_dcgm_metrics() -> DcgmMetrics:
    """Return the table; each process reads it once."""
    text = (resources.files("metalserve.catalogue") / "dcgm_metrics.yaml").read_text("utf-8")
    return DcgmMetrics.model_validate(read_yaml(text))


__all__ = ["DcgmField", "DcgmMetrics", "load_dcgm_metrics"]
