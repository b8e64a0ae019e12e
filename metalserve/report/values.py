"""Values out of a report file, which may be old, cut down or made by others: each read or told to be missing."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

_NO_KEYS: Mapping[str, Any] = {}
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff\u202a-\u202e\u2066-\u2069]")
"""Control characters and surrogates: they break terminals, XML or UTF-8; the last two ranges turn text around."""
_ADDRESS = re.compile(r"\b(?:[0-9a-f]{4,8}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]\b", re.IGNORECASE)
_GPU = re.compile(r"\bGPU ?(\d{1,3})\b")


def text(value: Any) -> str:
    """Return `value` as text that a terminal, XML and HTML (once escaped) can hold; "" for None.

    Lists become lines; what else is no text becomes JSON.
    """
    if isinstance(value, str):
        plain = value.isascii() and value.isprintable()
        return value if plain else _UNSEEN.sub("\ufffd", value.replace("\r\n", "\n"))
    if value is None:
        return ""
    if isinstance(value, (list, tuple)):
        return "\n".join(text(v) for v in value)
    try:
        return text(json.dumps(value, ensure_ascii=False, default=str))
    except ValueError:  # a number of thousands of digits
        return "\ufffd"


def line(value: Any) -> str:
    """Return `value` as text of one line."""
    return " ".join(text(value).split())


def number(value: Any) -> float | None:
    """Return `value` where it is a finite number of a size that hardware has (below 1e18), else None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if -1e18 < value < 1e18 else None


def utc(value: str) -> datetime | None:
    """Return a report's time (ISO 8601; without a zone it is UTC), or None where it is none."""
    try:
        found = datetime.fromisoformat(value)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def whole(value: Any) -> int | None:
    """Return `value` where it is a whole number, also one written as text ("0"), else None."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        return int(value)
    found = number(value)
    return int(found) if found is not None and found == int(found) else None


def flag(value: Any) -> bool | None:
    """Return `value` where it is true or false, else None."""
    return value if isinstance(value, bool) else None


def mapping(value: Any) -> Mapping[str, Any]:
    """Return `value` where it is an object, else an empty one."""
    return value if isinstance(value, Mapping) else _NO_KEYS


def mappings(value: Any) -> list[Mapping[str, Any]]:
    """Return those of a list that are objects."""
    return [v for v in value if isinstance(v, Mapping)] if isinstance(value, (list, tuple)) else []


def items(value: Any) -> list[Any]:
    """Return `value` where it is a list, else an empty one."""
    return list(value) if isinstance(value, (list, tuple)) else []


def numbers(value: Any) -> list[float | None]:
    """Return a list's numbers, None where one could not be read."""
    return [number(v) for v in value] if isinstance(value, (list, tuple)) else []


def known(values: Sequence[float | None]) -> list[float]:
    """Return the numbers that were read."""
    return [v for v in values if v is not None]


def gpu_index(subject: str) -> int | None:
    """Return the GPU's number where a finding is about one ("GPU 3 (0000:5d:00.0)"), else None."""
    found = _GPU.search(subject)
    return int(found.group(1)) if found else None


def address(subject: str) -> str | None:
    """Return the PCI address that a text names, with its domain ("0000:5d:00.0"), else None."""
    found = _ADDRESS.search(subject)
    if found is None:
        return None
    name = found.group().lower()
    return name if name.count(":") == 2 else f"0000:{name}"
