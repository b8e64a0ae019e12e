"""Thresholds of the checks, each with its source, its date, and whether anybody measured it; rules for hosts."""

from __future__ import annotations

import datetime
from functools import cached_property
from typing import Literal

from pydantic import BaseModel, ConfigDict

from metalserve.catalogue.models import CatalogueError, suggestion

Basis = Literal["documented", "measured", "guessed"]


class Threshold(BaseModel):
    """One figure that a check compares with."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    id: str
    value: float
    unit: Literal["ratio", "degC", "count", "percent", "files", "MiB", "seconds"]
    basis: Basis
    date: datetime.date
    source: str
    note: str = ""

    def __str__(self) -> str:
        return f"{self.value:g} {self.unit} ({self.basis}, {self.date})"


class KernelParameter(BaseModel):
    """A parameter of the kernel command line that harms a GPU host."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    match: str
    impact: str
    remedy: str

    def hits(self, word: str) -> bool:
        """Tell whether a word of the command line is this parameter."""
        return word.startswith(self.match) if self.match.endswith("=") else word == self.match


class KernelParameters(BaseModel):
    """All such parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    source: str
    parameters: tuple[KernelParameter, ...]


class ThresholdCatalogue(BaseModel):
    """All thresholds."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    thresholds: tuple[Threshold, ...]

    @cached_property
    def _by_id(self) -> dict[str, Threshold]:
        return {t.id: t for t in self.thresholds}

    def get(self, name: str) -> Threshold:
        """Return threshold `name`.

        Raises:
            CatalogueError: there is none of this name; the message names the nearest one.
        """
        found = self._by_id.get(name)
        if found is None:
            raise CatalogueError(f"no threshold {name!r} in the catalogue{suggestion(name, self._by_id)}")
        return found
