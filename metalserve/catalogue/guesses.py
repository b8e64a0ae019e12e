"""What a line that no sign knows is probably about, by its words (`guesses.yaml`)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache, cached_property
from importlib import resources
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from metalserve.catalogue.causes import load_causes
from metalserve.catalogue.models import CatalogueError
from metalserve.catalogue.needles import needles
from metalserve.yaml_text import read_yaml


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Words(_Row):
    """Words, by a pattern that is read without regard to case."""

    name: str
    pattern: str

    @cached_property
    def compiled(self) -> re.Pattern[str]:
        """The pattern, without regard to case."""
        return re.compile(self.pattern, re.IGNORECASE)

    @cached_property
    def needles(self) -> tuple[str, ...]:
        """Literals in lower case, one of which is in every line that fits; empty when that is not sure."""
        return needles(self.pattern)

    def fits(self, line: str) -> bool:
        """Tell whether a line, in lower case, has the words."""
        if self.needles and not any(word in line for word in self.needles):
            return False
        return self.compiled.search(line) is not None


class Component(_Words):
    """Who a line speaks of."""

    unless: str | None = Field(None, description="words with which the line is another's")

    @cached_property
    def excused(self) -> re.Pattern[str] | None:
        """The pattern of `unless`, if there is one."""
        return re.compile(self.unless, re.IGNORECASE) if self.unless else None

    def speaks(self, line: str) -> bool:
        """Tell whether a line, in lower case, is of this component."""
        return self.fits(line) and not (self.excused and self.excused.search(line))


class Outcome(_Words):
    """How it ended."""

    general: bool = Field(False, description="counts only where no other one fits a pair")
    mild: bool = Field(False, description="a general one does not count beside it")


class Pair(_Row):
    """What a component and an outcome in one line probably mean."""

    who: str
    what: tuple[str, ...]
    cause: str
    line: str = Field(description="an example")
    over: str | None = Field(None, description="words with which a later line of the component ends it")

    @cached_property
    def ends(self) -> re.Pattern[str] | None:
        """The pattern of `over`, if there is one."""
        return re.compile(self.over, re.IGNORECASE) if self.over else None


class Guesses(_Row):
    """Components, outcomes, and the cause of each pair of them."""

    harmless: tuple[str, ...]
    components: tuple[Component, ...]
    outcomes: tuple[Outcome, ...]
    pairs: tuple[Pair, ...]

    @cached_property
    def excused(self) -> re.Pattern[str]:
        """What tells that a line is no error."""
        return re.compile("|".join(f"(?:{each})" for each in self.harmless), re.IGNORECASE)

    @cached_property
    def _by_name(self) -> dict[str, Component]:
        return {each.name: each for each in self.components}

    def component(self, name: str) -> Component:
        """Return the component `name`; KeyError for one that is not in the file."""
        return self._by_name[name]

    @model_validator(mode="after")
    def _whole(self) -> Guesses:
        for kind, rows in (("component", self.components), ("outcome", self.outcomes)):
            names: Sequence[str] = [row.name for row in rows]
            if len(set(names)) != len(names):
                raise ValueError(f"a {kind} is listed twice")
        unknown = {pair.who for pair in self.pairs} - {each.name for each in self.components}
        unknown |= {what for pair in self.pairs for what in pair.what} - {each.name for each in self.outcomes}
        unknown |= {pair.cause for pair in self.pairs} - {cause.id for cause in load_causes().causes}
        if unknown:
            raise ValueError(f"no such component, outcome or cause: {', '.join(sorted(unknown))}")
        seen: set[tuple[str, str]] = set()
        for pair in self.pairs:
            pairs = {(pair.who, what) for what in pair.what}
            if twice := seen & pairs:
                raise ValueError(f"told twice: {sorted(twice)[0]}")
            seen |= pairs
        patterns = [
            *self.harmless,
            *(each.pattern for each in self.components),
            *(each.pattern for each in self.outcomes),
        ]
        patterns += [each.unless or "" for each in self.components] + [each.over or "" for each in self.pairs]
        for pattern in patterns:
            re.compile(pattern)
        return self


@cache
def load_guesses() -> Guesses:
    """Return the table.

    Raises:
        CatalogueError: the file is damaged or contradicts itself.
    """
    place = resources.files("metalserve.catalogue").joinpath("guesses.yaml")
    data: Any = read_yaml(place.read_text(encoding="utf-8"))
    try:
        return Guesses.model_validate(data)
    except (ValidationError, re.error) as error:
        raise CatalogueError(f"guesses.yaml: {error}") from error
