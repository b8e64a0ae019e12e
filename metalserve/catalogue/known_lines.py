"""Lines as kernels, drivers, daemons and BMCs print them, and what each is known to mean (`known_lines/*.yaml`)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Final

from pydantic import TypeAdapter, ValidationError
from yaml import YAMLError

from metalserve.catalogue.causes import Log, load_causes
from metalserve.catalogue.models import CatalogueError
from metalserve.yaml_text import read_yaml

NOTHING: Final = "nothing"
"""Stands for a cause where a line looks bad and healthy hosts print it."""

_FILE: Final = TypeAdapter(dict[Log, dict[str, tuple[str, ...]]])


@dataclass(frozen=True, slots=True)
class KnownLine:
    """A line of a log whose meaning is known.

    Attributes:
        log: the kind of log that it was read in.
        cause: id of the catalogue, or NOTHING.
        text: the line; its values are made up, or those of the report that it is from.
    """

    log: Log
    cause: str
    text: str


@cache
def load_known_lines() -> tuple[KnownLine, ...]:
    """Return all known lines, file by file.

    Raises:
        CatalogueError: a file is damaged, or names a cause that the catalogue does not have.
    """
    return read_known_lines(resources.files("metalserve.catalogue").joinpath("known_lines"))


def read_known_lines(place: Traversable) -> tuple[KnownLine, ...]:
    """Return the known lines of all files of a directory.

    Raises:
        CatalogueError: as load_known_lines().
    """
    causes = {cause.id for cause in load_causes().causes} | {NOTHING}
    found: list[KnownLine] = []
    for file in sorted(place.iterdir(), key=lambda each: each.name):
        if not file.name.endswith(".yaml"):
            continue
        where = f"known_lines/{file.name}"
        try:
            logs = _FILE.validate_python(read_yaml(file.read_text(encoding="utf-8")))
        except (ValidationError, YAMLError) as error:
            raise CatalogueError(f"{where}: {error}") from error
        unknown = {cause for lines in logs.values() for cause in lines} - causes
        if unknown:
            raise CatalogueError(f"{where}: no such cause: {', '.join(sorted(unknown))}")
        found += (
            KnownLine(log, cause, text) for log, lines in logs.items() for cause in lines for text in lines[cause]
        )
    return tuple(found)
