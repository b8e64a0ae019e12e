"""The files whose manifests are made of every kind of source."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from metalserve.weights.manifest import content_revision, load_manifest
from tests.weights.manifests import Run

FILES = {
    "config.json": b'{"a": 1}',
    "model.safetensors": os.urandom(6 << 20),
    "sub dir/ü & #?%.json": b"odd name",
    "empty.txt": b"",
}


def same(target: Path, files: dict[str, bytes] = FILES) -> None:
    """The manifest has just these files, and their hashes; its revision is made of them."""
    manifest = load_manifest(target)
    found = {file.path: (file.size, file.sha256) for file in manifest.files}
    assert found == {path: (len(body), hashlib.sha256(body).hexdigest()) for path, body in files.items()}
    assert manifest.revision == content_revision(manifest.files)


def make(cli: Run, target: Path, *arguments: object) -> tuple[int, str, str]:
    return cli(*arguments, "--repository", "org/model", "--output", target)
