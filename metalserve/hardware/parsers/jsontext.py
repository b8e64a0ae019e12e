"""JSON inside other text: banners before it, logs behind it, numbers that JSON allows and nobody can use."""

from __future__ import annotations

import json
import math
from typing import Any

from metalserve.hardware.parsers.text import ParseError, first_line

_TRIES = 12  # places where a document may begin; banners hold few braces at the beginning of a line
_DECODER = json.JSONDecoder()


def find_object(text: str, keys: tuple[str, ...] = ()) -> tuple[dict[str, Any], str]:
    """Return the first JSON object that has one of `keys` (any object without keys), and the text around it.

    Args:
        text: cleaned text.
        keys: keys of which the object must have at least one, in any letter case.

    Raises:
        ParseError: there is none, or it is cut or damaged.
    """
    wanted = {key.lower() for key in keys}
    failed = ""
    at = -1
    for _ in range(_TRIES):
        at = _next_start(text, at + 1)
        if at < 0:
            break
        try:
            found, end = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            failed = failed or f"JSON is cut or damaged: {str(error)[:100]}"
            continue
        if isinstance(found, dict) and (not wanted or wanted & {str(key).lower() for key in found}):
            return found, text[:at] + "\n" + text[end:]
        at = end - 1
    raise ParseError(failed or f"no JSON object; the text begins with {first_line(text)!r}")


def _next_start(text: str, at: int) -> int:
    """Return where the next line that begins with a brace has it; -1 when there is none."""
    while True:
        at = text.find("{", at)
        if at < 0:
            return -1
        before = text[text.rfind("\n", 0, at) + 1 : at]
        if not before.strip() or before.rstrip().endswith(":"):
            return at
        end = text.find("\n", at)
        if end < 0:
            return -1
        at = end


def real(value: object) -> float | None:
    """Return a finite JSON number, or a string that is one, as float; else None."""
    if isinstance(value, str):
        try:
            value = float(value.replace(",", ""))
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e24 or math.isnan(value):
        return None
    return float(value)


def whole(value: object) -> int | None:
    """Return a finite JSON number, or a string that is one, as integer; else None."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**24:
        return value
    found = real(value)
    return int(found) if found is not None else None


def words(value: object) -> str | None:
    """Return the stripped text of a JSON string, or None when it is empty or no string."""
    return (value.strip() or None) if isinstance(value, str) else None


def objects(value: object, what: str) -> list[dict[str, Any]]:
    """Return a list of objects; an absent list is empty.

    Raises:
        ParseError: it is something else.
    """
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ParseError(f"{what} is not a list of objects")
    return value
