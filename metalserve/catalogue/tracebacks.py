"""What an exception means that ended an engine, by the place where it was raised (`signs/tracebacks.yaml`)."""

from __future__ import annotations

import re
from functools import cache, cached_property
from importlib import resources
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from metalserve.catalogue.causes import load_causes
from metalserve.catalogue.models import CatalogueError
from metalserve.yaml_text import read_yaml


class Place(BaseModel):
    """A place or a kind of exceptions, and the cause that it speaks for. All patterns that are given must fit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    frames: str = Field("", description="held against `path:function` of a frame")
    kind: str = Field("", description="held against the name of the exception")
    words: str = Field("", description="held against what the exception says")
    cause: str
    run: bool = Field(False, description="also when the engine had served before")
    source: str

    def fits(self, frame: str, kind: str, words: str) -> bool:
        """Tell whether an exception is of this place."""
        pairs = ((self.frames, frame), (self.kind, kind), (self.words, words))
        return all(re.search(pattern, text) for pattern, text in pairs if pattern)


class Tracebacks(BaseModel):
    """Places and kinds of exceptions, and the frames that tell a request, a start and a serving engine apart."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sources: dict[str, str]
    requests: str
    request_kinds: str
    request_words: str
    start: str
    run: str
    failed: str
    mild: str
    places: tuple[Place, ...]
    kinds: tuple[Place, ...]

    @cached_property
    def of_requests(self) -> re.Pattern[str]:
        """The pattern of frames below which an exception ends one request only."""
        return re.compile(self.requests)

    @cached_property
    def of_starts(self) -> re.Pattern[str]:
        """The pattern of frames that only a start has."""
        return re.compile(self.start)

    @cached_property
    def of_runs(self) -> re.Pattern[str]:
        """The pattern of frames that only an engine has that serves."""
        return re.compile(self.run)

    @cached_property
    def of_failures(self) -> re.Pattern[str]:
        """The pattern of lines that say without an exception that something did not come up."""
        return re.compile(self.failed)

    @cached_property
    def of_warnings(self) -> re.Pattern[str]:
        """The pattern of lines that are not meant as errors."""
        return re.compile(self.mild)


@cache
def load_tracebacks() -> Tracebacks:
    """Return what is known of places of exceptions.

    Raises:
        CatalogueError: the file is damaged, or names a cause that does not exist.
    """
    place = resources.files("metalserve.catalogue").joinpath("signs", "tracebacks.yaml")
    data: Any = read_yaml(place.read_text(encoding="utf-8"))
    try:
        known = Tracebacks.model_validate(data)
        for each in (*known.places, *known.kinds):
            load_causes().cause(each.cause)
            for pattern in (
                each.frames,
                each.kind,
                each.words,
                known.requests,
                known.start,
                known.run,
                known.request_words,
            ):
                re.compile(pattern)
    except (ValidationError, re.error, KeyError) as error:
        raise CatalogueError(f"signs/tracebacks.yaml: {error}") from error
    return known
