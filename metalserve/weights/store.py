"""The store of models on a host: where a model lies, and whether what lies there is what was proved. Pure.

    MOUNT/ORGANISATION--NAME/REVISION/            published: every byte hashed, never changed again
    MOUNT/ORGANISATION--NAME/.partial-REVISION/   being fetched
    MOUNT/ORGANISATION--NAME/REVISION/.metalserve-manifest    what was hashed, with sizes and times

A directory is published by one rename, after the last byte was proved; the agent on the host does it
(`metalserve/weights/agent/`). Its marker is long, so that the agent itself compares and tells what came of it; a host
that has no agent yet may have a model of the staging script of before, whose short marker is read here.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

from metalserve.settings import ModelSettings
from metalserve.weights.manifest import Manifest

MARKER = ".metalserve-manifest"
_HEADER = "metalserve-manifest 1"
_RULE = "@@listing"
_AGENT_RULE = "@@agent"

AGENT_LIBRARY = "/usr/local/lib/metalserve"
"""Directory on the host that has the agent as the package `msweights`."""


@dataclass(frozen=True, slots=True)
class ModelPlace:
    """Where one revision of a model lies on a host."""

    store: str
    revision: str

    @property
    def published(self) -> str:
        """The directory that an engine is given."""
        return f"{self.store}/{self.revision}"

    @property
    def marker(self) -> str:
        """The file in it that says what was hashed."""
        return f"{self.published}/{MARKER}"

    @property
    def partial(self) -> str:
        """The directory that is being filled."""
        return f"{self.store}/.partial-{self.revision}"


def place_of(mount: str, model: ModelSettings) -> ModelPlace:
    """Return where `model` lies below the mount point of the models."""
    return ModelPlace(f"{mount}/{model.name.replace('/', '--')}", model.revision)


def file_list(manifest: Manifest) -> str:
    """Return the list that the staging script reads: SHA-256, size, path as in a URL, path; one file a line."""
    return "".join(f"{f.sha256}\t{f.size}\t{quote(f.path)}\t{f.path}\n" for f in manifest.files)


def list_digest(manifest: Manifest) -> str:
    """Return the digest of the list of files, which a published directory names in its marker."""
    return hashlib.sha256(file_list(manifest).encode()).hexdigest()


def inspect_command(place: ModelPlace) -> str:
    """Return the shell command whose output `inspect` reads; no byte of a model is read by it.

    The agent's answer is one line. Without an agent it is a short marker and a listing.
    """
    published, partial = shlex.quote(place.published), shlex.quote(place.partial)
    return (
        f"if [ -f {AGENT_LIBRARY}/msweights/look.py ] && told=$(PYTHONPATH={AGENT_LIBRARY} python3 -B -m msweights "
        f"inspect {shlex.quote(place.store)} {shlex.quote(place.revision)} --json 2>/dev/null); then "
        f"echo {_AGENT_RULE}; printf '%s\\n' \"$told\"; "
        f"elif [ -d {published} ]; then cd {published}; "
        f'if [ "$(head -c 19 {MARKER} 2>/dev/null)" = {_HEADER.split()[0]} ]; then cat {MARKER}; '
        f"elif [ -f {MARKER} ]; then echo other marker; else echo no marker; fi; echo {_RULE}; "
        f"find . ! -type d ! -path ./{MARKER} -printf '%s\\t%T@\\t%P\\n'; "
        f"elif [ -d {partial} ]; then "
        f"find {partial} -type f -printf '%s\\n' | awk '{{n+=$1}} END{{printf \"partial %.0f\\n\", n}}'; "
        "else echo absent; fi"
    )


_OTHER_MANIFEST = "it was staged from another manifest"

State = Literal["absent", "partial", "published", "changed"]


@dataclass(frozen=True, slots=True)
class StoreState:
    """What lies in the store.

    Attributes:
        state: `absent`, `partial` (being fetched), `published` (as it was when its bytes were hashed), or
            `changed` (published once, but no longer like that, of another manifest, or found to have wrong bytes).
        bytes_there: bytes found.
        what: in words, why it is `changed`.
    """

    state: State
    bytes_there: int = 0
    what: str = ""


def inspect(text: str, manifest: Manifest) -> StoreState:
    """Judge the output of `inspect_command` against a manifest.

    Sizes and times are compared with those that the files had when they were hashed: a byte that changed since
    has changed a time. Anything that the manifest does not name counts as a change too.
    """
    if text.startswith(f"{_AGENT_RULE}\n"):
        return _told_by_agent(text.partition("\n")[2], manifest)
    head, rule, body = text.partition(f"{_RULE}\n")
    words = head.split()
    if not rule:
        if words[:1] == ["partial"] and words[1:2] and words[1].isdigit():
            return StoreState("partial", int(words[1]))
        return StoreState("absent")
    found = _rows(body)
    total = sum(size for size, _ in found.values())
    lines = head.splitlines()
    if lines[:1] == ["other marker"]:
        return StoreState("changed", total, "it was published by an agent that is no longer on the host")
    if lines[:1] != [_HEADER]:
        return StoreState("changed", total, "it has no marker of metalserve")
    if lines[1:2] != [f"list {list_digest(manifest)}"]:
        return StoreState("changed", total, _OTHER_MANIFEST)
    proved = _rows("\n".join(lines[2:]))
    sizes = {f.path: f.size for f in manifest.files}
    for path in sorted(sizes.keys() | found.keys()):
        if path not in sizes:
            return StoreState("changed", total, f"{path} is not in the manifest")
        if path not in found:
            return StoreState("changed", total, f"{path} is missing")
        if found[path][0] != sizes[path]:
            return StoreState("changed", total, f"{path} has {found[path][0]} bytes instead of {sizes[path]}")
        if found[path] != proved.get(path):
            return StoreState("changed", total, f"{path} was changed after its bytes were proved")
    return StoreState("published", total)


def _told_by_agent(line: str, manifest: Manifest) -> StoreState:
    """Judge what the agent told of the store: its `inspect` compared names, sizes and times with the marker."""
    try:
        data: Any = json.loads(line)
        state, there, what = str(data["state"]), int(data["bytes_there"]), str(data["what"])
        known, listed = data["format"] == 1, str(data["list"])
    except (ValueError, KeyError, TypeError):
        return StoreState("changed", 0, "the agent's answer cannot be read")
    if state in ("absent", "partial") and known:
        return StoreState("partial", there) if state == "partial" else StoreState("absent")
    if state == "published" and known and listed == list_digest(manifest):
        return StoreState("published", there)
    if state == "published":
        return StoreState("changed", there, _OTHER_MANIFEST if known else "the agent on the host is of another version")
    return StoreState("changed", there, f"{state}: {what}" if state == "damaged" else what)


def _rows(text: str) -> dict[str, tuple[int, str]]:
    rows: dict[str, tuple[int, str]] = {}
    for line in text.splitlines():
        parts = line.split("\t", 2)
        if len(parts) == 3 and parts[0].isdigit():
            rows[parts[2]] = (int(parts[0]), parts[1])
    return rows
