"""Models for tests of staging: random bytes of any size below the lab's file service, with their manifest."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from metalserve.lab.api import Lab

MIB = 1 << 20


@dataclass(frozen=True)
class Model:
    """A model that the file service has.

    Attributes:
        name: ORGANISATION/NAME.
        revision: commit.
        manifest: on the controller.
        source: `model.source`.
        total: bytes.
    """

    name: str
    revision: str
    manifest: Path
    source: str
    total: int

    @property
    def key(self) -> str:
        return f"{self.name.replace('/', '--')}-{self.revision[:12]}"

    @property
    def store(self) -> str:
        return f"/srv/models/{self.name.replace('/', '--')}"

    @property
    def published(self) -> str:
        return f"{self.store}/{self.revision}"

    def settings(self, **more: Any) -> dict[str, Any]:
        """Return the host settings that name it."""
        told = {"name": self.name, "revision": self.revision, "manifest": str(self.manifest), "source": self.source}
        return {"model": {**told, **more}}


def publish(lab: Lab, directory: Path, name: str, digit: str, *, shards: int = 4, mib: int = 256) -> Model:
    """Make a model of `shards` files of `mib` MiB and a small one; `digit` repeated is its revision."""
    revision = digit * 40
    place = lab.layout.www / "models" / name / "resolve" / revision
    place.mkdir(parents=True)
    rows = []
    for shard in range(shards):
        digest = hashlib.sha256()
        with (place / f"model-{shard}.safetensors").open("wb") as file:
            for _ in range(mib):
                block = os.urandom(MIB)
                digest.update(block)
                file.write(block)
        rows.append({"path": f"model-{shard}.safetensors", "size": mib * MIB, "sha256": digest.hexdigest()})
    (place / "config.json").write_text("{}\n")
    rows.append({"path": "config.json", "size": 3, "sha256": hashlib.sha256(b"{}\n").hexdigest()})
    manifest = directory / f"{name.replace('/', '--')}-{digit}.yaml"
    manifest.write_text(yaml.safe_dump({"repository": name, "revision": revision, "files": rows}))
    total = shards * mib * MIB + 3
    return Model(name, revision, manifest, f"{lab.layout.service_url}/models", total)
