"""What an observation asks of a host's store besides what lies there (`store.py`), and the answers as values. Pure."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from typing import Any

from metalserve.weights.host import CONFIGS, PACKAGE, call
from metalserve.weights.store import ModelPlace


@dataclass(frozen=True, slots=True)
class Reference:
    """Who needs a model: an engine that serves it, or the inventory that names it."""

    name: str
    repository: str
    revision: str
    since: float = 0.0

    @property
    def model(self) -> str:
        """The model in short: ORGANISATION/NAME@REVISION12."""
        return f"{self.repository}@{self.revision[:12]}"


@dataclass(frozen=True, slots=True)
class Collectable:
    """What garbage collection would remove.

    Attributes:
        paths: directories and leftovers.
        freed_bytes: what that would free.
    """

    paths: tuple[str, ...] = ()
    freed_bytes: int = 0


def _with_agent(command: str) -> str:
    return f"if [ -e {PACKAGE}/__main__.py ] && command -v python3 >/dev/null; then {command}; fi"


def checked_command(place: ModelPlace) -> str:
    """Return the shell command whose output `read_checked` reads."""
    return f"cat {shlex.quote(f'{place.store}/.checked-{place.revision}')} 2>/dev/null || :"


def read_checked(text: str) -> float:
    """Return when every byte was last read and found right, seconds since 1970 by the host's clock; 0: never."""
    data = _object(text)
    at = data.get("at") if data is not None and data.get("state") == "intact" else None
    return float(at) if isinstance(at, int | float) else 0.0


def published_command(place: ModelPlace) -> str:
    """Return the shell command whose output `read_published` reads: the beginning of the marker, which may be long."""
    return f"head -c 400 {shlex.quote(place.marker)} 2>/dev/null || :"


def read_published(text: str) -> float:
    """Return when a model was published, seconds since 1970 by the host's clock; 0: not known.

    Not the marker's own time: a full check writes it anew where only the times of files were wrong.
    """
    found = re.search(r'"published_at": ([0-9]+)', text) if text.startswith("{") else None
    return float(found.group(1)) if found else 0.0


def references_command(mount: str) -> str:
    """Return the shell command whose output `read_references` reads: a file of a reference a line."""
    return (
        f'for ms_file in {shlex.quote(mount)}/.references/*.json; do [ ! -f "$ms_file" ] || '
        "{ tr -d '\\n' <\"$ms_file\"; echo; }; done"
    )


def read_references(text: str) -> tuple[Reference, ...]:
    """Read the references to models on a host; what is none is passed over: the agent refuses to go on with such."""
    rows = [row for line in text.splitlines() if (row := _object(line)) is not None]
    return tuple(
        Reference(str(row["name"]), str(row["repository"]), str(row["revision"]), float(row.get("since") or 0))
        for row in rows
        if {"name", "repository", "revision"} <= row.keys()
    )


def collectable_command(mount: str, keep: int) -> str:
    """Return the shell command whose output `read_collectable` reads."""
    return _with_agent(call("gc", mount, "--keep", str(keep), "--dry", "--json"))


def read_collectable(text: str) -> Collectable:
    """Read what garbage collection would remove; nothing where nobody could say."""
    data = _object(text)
    if data is None or not isinstance(data.get("removed"), list):
        return Collectable()
    return Collectable(tuple(map(str, data["removed"])), int(data.get("freed_bytes") or 0))


def forgotten_command(key: str) -> str:
    """Return the shell command whose output `read_forgotten` reads: jobs other than `key` whose model is not there."""
    return (
        f'for ms_config in {CONFIGS}/*.json; do [ -e "$ms_config" ] || continue; '
        "ms_key=${ms_config##*/}; ms_key=${ms_key%.json}; "
        f'[ "$ms_key" != {shlex.quote(key)} ] || continue; '
        'ms_store=$(sed -n \'s/^ "store": "\\([^"]*\\)".*/\\1/p\' "$ms_config"); '
        'ms_revision=$(sed -n \'s/^ "revision": "\\([^"]*\\)".*/\\1/p\' "$ms_config"); '
        '[ -d "$ms_store/$ms_revision" ] || echo "$ms_key"; done'
    )


def read_forgotten(text: str) -> tuple[str, ...]:
    """Read the keys of jobs that are left of models which are no longer there."""
    return tuple(line for line in text.split() if re.fullmatch(r"[A-Za-z0-9._-]+", line))


def _object(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
