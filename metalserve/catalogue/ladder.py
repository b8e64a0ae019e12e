"""The rungs of the recovery ladder: `ladder.yaml`, typed; their order is that of `causes.yaml`."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache, cached_property
from importlib import resources
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from metalserve.catalogue.causes import CauseCatalogue, load_causes
from metalserve.catalogue.models import CatalogueError
from metalserve.yaml_text import read_yaml

Depth = Literal["quick", "standard", "deep"]
Together = Literal["all", "joined", "alone", "never"]
DEPTHS: tuple[Depth, ...] = ("quick", "standard", "deep")


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class LadderRung(_Row):
    """What a rung needs, how long it may take, and what is proven after it."""

    name: str
    needs: tuple[str, ...] = Field(description="all of them; `a|b`: one of both")
    target: Literal["", "gpu", "engine"] = Field(description="kind of subject it is done to; empty: the whole host")
    deadline_s: float = Field(gt=0, description="seconds after which it counts as failed")
    drain: bool = Field(description="the host leaves the router before")
    destroys_evidence: bool = Field(description="a bundle is kept before")
    depth: Depth = Field(description="of the verify that follows")
    tries: int = Field(ge=1, description="in a row, when it is known not to have taken effect")
    proves: str
    source: str


class GpuReset(_Row):
    """How the GPUs of a platform are reset."""

    fabric: str = Field(description="as in gpus.yaml")
    together: Together = Field(description="all of the host, those that are joined, each alone, or never by us")
    stop_fabric_manager: bool
    why: str
    source: str


class Unreachable(_Row):
    """The rungs for a host of which there is no evidence at all."""

    powered: str = Field(description="where it starts when it is on, or nobody knows")
    unpowered: str = Field(description="where it starts when the BMC says that it is off")
    ceiling: str


class Setup(_Row):
    """Causes that are settings, not hardware, and how far up it goes for them."""

    ceiling: str
    causes: tuple[str, ...]


class Again(_Row):
    """Where the ladder starts for a cause that has come back."""

    cause: str
    rung: str
    source: str


class Ladder(_Row):
    """The ladder as data."""

    sources: dict[str, str]
    rungs: tuple[LadderRung, ...]
    needs: dict[str, str] = Field(description="a precondition -> what is said when it lacks")
    resets: tuple[GpuReset, ...]
    ceilings: dict[str, str] = Field(description="what is blamed -> the highest rung for it")
    serving_ceiling: str = Field(description="the highest rung for a host that serves")
    unreachable: Unreachable
    setup: Setup
    again: tuple[Again, ...]
    depths: dict[Depth, float] = Field(description="depth -> seconds that acceptance may take")

    @cached_property
    def _by_name(self) -> dict[str, LadderRung]:
        return {rung.name: rung for rung in self.rungs}

    @cached_property
    def _again(self) -> dict[str, str]:
        return {row.cause: row.rung for row in self.again}

    def rung(self, name: str) -> LadderRung:
        """Return the rung `name`; KeyError for one that is not made by the ladder (`nothing`, `quarantine`)."""
        return self._by_name[name]

    def lacks(self, name: str, have: Collection[str]) -> str:
        """Return why a rung cannot be tried with what there is (names of `needs`), in words; empty when it can."""
        missing = [need.split("|") for need in self.rung(name).needs if not set(need.split("|")) & set(have)]
        return ", ".join(" and ".join(self.needs[each] for each in group) for group in missing)

    def reset(self, fabric: str) -> GpuReset:
        """Return how GPUs of this fabric (gpus.yaml) are reset; one that is not known is handled like `mixed`."""
        rows = {row.fabric: row for row in self.resets}
        return rows.get(fabric, rows["mixed"])

    def rung_again(self, cause: str) -> str:
        """Return where the ladder starts when a cause has come back; empty when as the first time."""
        return self._again.get(cause, "")

    @model_validator(mode="after")
    def _whole(self) -> Ladder:
        needs = {each for rung in self.rungs for need in rung.needs for each in need.split("|")}
        if needs != set(self.needs):
            raise ValueError(
                f"needs that are not explained, or of no rung: {', '.join(sorted(needs ^ set(self.needs)))}"
            )
        names = set(self._by_name)
        named = {*self.ceilings.values(), self.serving_ceiling, self.unreachable.powered, self.unreachable.unpowered}
        named |= {self.unreachable.ceiling, self.setup.ceiling, *(row.rung for row in self.again)}
        if named - names:
            raise ValueError(f"no such rung: {', '.join(sorted(named - names))}")
        if set(self.depths) != set(DEPTHS):
            raise ValueError("each depth wants its seconds")
        return self


def _fits(ladder: Ladder, causes: CauseCatalogue) -> None:
    order = [rung.name for rung in causes.rungs if rung.name not in ("nothing", "quarantine")]
    if [rung.name for rung in ladder.rungs] != order:
        raise CatalogueError("ladder.yaml: its rungs are not those of causes.yaml, in their order")
    known = {cause.id for cause in causes.causes}
    unknown = {*ladder.setup.causes, *(row.cause for row in ladder.again)} - known
    if unknown:
        raise CatalogueError(f"ladder.yaml: no such cause: {', '.join(sorted(unknown))}")
    without = {cause.subject for cause in causes.causes} - set(ladder.ceilings)
    if without:
        raise CatalogueError(f"ladder.yaml: no ceiling for {', '.join(sorted(without))}")
    for row in ladder.again:
        if causes.height(row.rung) <= causes.height(causes.cause(row.cause).rung):
            raise CatalogueError(f"ladder.yaml: {row.cause} starts no higher when it returns")


@cache
def load_ladder() -> Ladder:
    """Return the ladder.

    Raises:
        CatalogueError: the file is damaged, or does not fit causes.yaml.
    """
    text = resources.files("metalserve.catalogue").joinpath("ladder.yaml").read_text(encoding="utf-8")
    try:
        data: Any = read_yaml(text)
        for kind in ("rungs", "resets", "again"):
            for row in data[kind]:
                row["source"] = data["sources"][row["source"]]
        ladder = Ladder.model_validate(data)
    except (yaml.YAMLError, KeyError, ValidationError) as error:
        raise CatalogueError(f"ladder.yaml: {error}") from error
    _fits(ladder, load_causes())
    return ladder
