"""What the hosts are served: distribution packages, NVIDIA stand-ins, engine image and model; each made when needed."""

from __future__ import annotations

import importlib
import importlib.util
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from metalserve.lab.layout import Layout
from metalserve.lab.repository import SigningKey
from metalserve.lab.rootfs import LAB
from metalserve.lab.system import read_json, write_json
from metalserve.trees.system import tree_digest

IMAGE = "images/vllm-openai-v0.33.0.tar"
CATALOGUE = LAB.parent / "catalogue"


@dataclass(frozen=True)
class Engine:
    """Where hosts find the engine: settings for the inventory."""

    image: str | None = None
    image_sha256: str | None = None
    model: dict[str, str] | None = None


def nvidia_repository(layout: Layout, key: SigningKey) -> bool:
    """Make the repository of NVIDIA stand-ins, unless it stands from the same sources; False when there is none."""
    module = _module("metalserve.lab.packages", "build_repository")
    if module is None:
        return False
    digest = tree_digest([LAB / "packages", LAB / "repository.py"], key.fingerprint)
    _made(layout, "nvidia", digest, lambda: module.build_repository(layout.www, key))
    return (layout.www / "nvidia").is_dir()


def engine(layout: Layout) -> Engine:
    """Make the stand-in engine's image and the model, unless they stand from the same sources."""
    module = _module("metalserve.lab.engine", "build_image")
    if module is None:
        return Engine()
    layout.www.joinpath("images").mkdir(parents=True, exist_ok=True)
    digest = tree_digest([LAB / "engine", CATALOGUE / "vllm"])
    target = layout.www / IMAGE
    sha256 = _made(layout, "image", digest, lambda: module.build_image(target, cache=layout.cache), target)
    manifest = Path(_made(layout, "model", digest, lambda: str(module.build_model(layout.www))))
    shutil.copyfile(manifest, layout.manifest)
    head: dict[str, Any] = yaml.safe_load(manifest.read_text())
    model = {
        "name": str(head["repository"]),
        "revision": str(head["revision"]),
        "manifest": str(layout.manifest),
        "source": f"{layout.service_url}/models",
    }
    return Engine(image=f"{layout.service_url}/{IMAGE}", image_sha256=sha256, model=model)


def _made(layout: Layout, name: str, digest: str, make: Callable[[], Any], result: Path | None = None) -> Any:
    """Call `make` unless it has been called for the same digest; return what it returned."""
    stamp = layout.root / "made" / f"{name}.json"
    before = read_json(stamp)
    if before and before["digest"] == digest and (result is None or result.exists()):
        return before["value"]
    value = make()
    stamp.parent.mkdir(parents=True, exist_ok=True)
    write_json(stamp, {"digest": digest, "value": value})
    return value


def _module(name: str, function: str) -> Any:
    """Import a part of the lab, `None` when it is not there."""
    if importlib.util.find_spec(name) is None:
        return None
    module = importlib.import_module(name)
    return module if hasattr(module, function) else None
