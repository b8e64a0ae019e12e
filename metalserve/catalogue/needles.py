"""Words that a line must hold for a pattern to fit it: a cheap look before the pattern itself is tried. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from re import _constants as constants  # type: ignore[attr-defined]  # what a pattern is made of, only the parser tells
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any, Final

_SHORTEST: Final = 3
"""Characters of a needle; a shorter one is in nearly every line."""


def needles(pattern: str) -> tuple[str, ...]:
    """Return literals in lower case, one of which every line holds that the pattern fits; empty when none is sure."""
    return tuple(sorted(_of(parser.parse(pattern)) or ()))


def _of(items: Iterable[Any]) -> frozenset[str] | None:
    found: list[frozenset[str]] = []
    run = ""
    for what, value in [*items, (None, None)]:
        if what is constants.LITERAL:
            run += chr(value)
            continue
        if len(run) >= _SHORTEST:
            found.append(frozenset({run.lower()}))
        run = ""
        inner = _inside(what, value)
        if inner is not None:
            found.append(inner)
    return max(found, key=lambda words: min(len(word) for word in words), default=None)


def _inside(what: Any, value: Any) -> frozenset[str] | None:
    if what is constants.SUBPATTERN:
        return _of(value[-1])
    if what in (constants.MAX_REPEAT, constants.MIN_REPEAT) and value[0] >= 1:
        return _of(value[2])
    if what is constants.BRANCH:
        branches = [_of(branch) for branch in value[1]]
        sure = [words for words in branches if words is not None]
        return frozenset().union(*sure) if len(sure) == len(branches) else None
    return None
