"""A result as it is kept: JSON with a schema number, described in docs/bench-schema.md; written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from metalserve import __version__
from metalserve.errors import MetalserveError
from metalserve.report.writing import write_whole

SCHEMA: Final = 1
"""Raised when a field is renamed or means something else; new fields do not raise it."""
KINDS: Final = ("steps", "sustained", "ab", "quality")

CLOSED_WORDS: Final = (
    "closed loop: each client waits for its answer before it asks again, so a slow engine is asked less often, and "
    "latencies hold for this number of clients, not for users who come when they like (coordinated omission)"
)
OPEN_WORDS: Final = (
    "open loop: requests are sent at moments drawn before the run, however many are still open, and latencies count "
    "from that moment: no coordinated omission"
)


def document(kind: str, started: str, **parts: Any) -> dict[str, Any]:
    """Return a result with its head.

    Args:
        kind: one of `KINDS`.
        started: UTC, ISO 8601.
        parts: what the kind has.
    """
    return {"schema": SCHEMA, "kind": kind, "metalserve": __version__, "started": started, **parts}


def write(path: Path, result: Mapping[str, Any]) -> None:
    """Write a result.

    Raises:
        MetalserveError: it cannot be written.
    """
    write_whole(path, (json.dumps(result, indent=1, allow_nan=False) + "\n").encode())


def read(path: Path, *kinds: str) -> dict[str, Any]:
    """Return a result that was written before.

    Args:
        path: the file.
        kinds: which kinds will do; none means any.

    Raises:
        MetalserveError: it cannot be read, is no result, of another schema or kind.
    """
    where = str(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MetalserveError(f"cannot be read: {error}", where=where) from error
    if not isinstance(value, dict) or value.get("kind") not in KINDS:
        raise MetalserveError("is no result of `metalserve bench`", where=where)
    if value.get("schema") != SCHEMA:
        raise MetalserveError(f"has schema {value.get('schema')}, this version reads {SCHEMA}", where=where)
    if kinds and value["kind"] not in kinds:
        raise MetalserveError(f"is of kind {value['kind']!r}, needed is {' or '.join(kinds)}", where=where)
    return value
