"""Runs parsers on the sections of an observation and collects what could not be read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from metalserve.hardware.parsers.text import ParseError
from metalserve.hardware.section import Section

_T = TypeVar("_T")


@dataclass
class Reader:
    """Runs parsers on sections and collects what could not be read."""

    sections: Mapping[str, Section]
    problems: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    def parse(self, name: str, parser: Callable[[str], _T]) -> _T | None:
        """Parse a section that should be there."""
        section = self.sections.get(name)
        if section is None:
            self.unread.append(name)
            self.problems.append(f"{name}: not observed")
            return None
        if section.rc in (124, 137):
            self.unread.append(name)
            self.problems.append(f"{name}: the command did not end in time")
            return None
        try:
            value = parser(section.text)
        except ParseError as error:
            self.unread.append(name)
            self.problems.append(f"{name}: {error}")
            return None
        for note in getattr(value, "notes", ())[:20]:
            self.problems.append(f"{name}: not understood: {note}")
        return value

    def optional(self, name: str, parser: Callable[[str], _T]) -> _T | None:
        """Parse a section of something that need not be installed: a failing command is no problem."""
        section = self.sections.get(name)
        if section is None or section.rc != 0:
            return None
        return self.parse(name, parser)
