"""The model of the role tests: its manifest, and what the agent on a host says of it."""

from __future__ import annotations

import json
from typing import Any

from metalserve.weights.manifest import Manifest
from metalserve.weights.store import list_digest

REVISION = "ab" * 20
FILES = [
    {"path": "config.json", "size": 10, "sha256": "a" * 64},
    {"path": "model 1.safetensors", "size": 5 * 2**30, "sha256": "b" * 64},
]
MANIFEST = Manifest.model_validate({"repository": "org/model", "revision": REVISION, "files": FILES})
KEY = f"org--model-{REVISION[:12]}"


def status(state: str, **more: Any) -> str:
    """Return what the agent says of the store."""
    there = {"absent": 0, "partial": 2**30}.get(state, MANIFEST.total)
    data = {"format": 1, "state": state, "what": "", "bytes_there": there, "list": ""}
    listed = {"list": list_digest(MANIFEST)} if state == "published" else {}
    return "@@agent\n" + json.dumps({**data, **listed, **more}) + "\n"


PUBLISHED = status("published")


def referring(*names: str, revision: str = REVISION) -> str:
    """Return what the agent says of references to the model, by name."""
    rows = [{"name": name, "repository": "org/model", "revision": revision, "since": 1} for name in names]
    return "".join(json.dumps({"format": 1, **row}) + "\n" for row in rows)
