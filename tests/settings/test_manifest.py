"""Manifests: what a model's files are, and nothing outside of its directory."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from metalserve.weights.manifest import (
    Manifest,
    ManifestError,
    load_manifest,
    write_manifest,
)

from .samples import REVISION

SHA = "a" * 64


def written(path: Path, **changes: Any) -> Path:
    files = [{"path": "config.json", "size": 3, "sha256": SHA}]
    data = {"repository": "organisation/model", "revision": REVISION, "files": files, **changes}
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path


def file(**changes: Any) -> dict[str, Any]:
    return {"path": "config.json", "size": 3, "sha256": SHA, **changes}


def test_reads_and_adds_up(tmp_path: Path) -> None:
    files = [file(), file(path="weights/model-00001.safetensors", size=2**40)]
    manifest = load_manifest(written(tmp_path / "m.yaml", files=files))
    assert manifest.total == 2**40 + 3
    assert manifest.files[1].path == "weights/model-00001.safetensors"


@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "a/../../x",
        "/etc/passwd",
        "a//b",
        "./a",
        "a/.",
        "",
        ".metalserve-manifest",
        "ü" * 130,
        "a\\b",
        "a\nb",
        "..",
        "a/" + "b" * 1100,
        "a\0b",
    ],
)
def test_paths_do_not_escape(tmp_path: Path, path: str) -> None:
    with pytest.raises(ManifestError, match=r"files\.0\.path: must (be|not)"):
        load_manifest(written(tmp_path / "m.yaml", files=[file(path=path)]))


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"files": []}, "files: must not be empty"),
    ({"files": [file(size=-1)]}, "files.0.size: must be at least 0"),
    ({"files": [file(size="3")]}, "files.0.size: must be a whole number"),
    ({"files": [file(sha256="A" * 64)]}, "files.0.sha256: does not have the form"),
    ({"files": [file(), file()]}, "a path is listed twice"),
    ({"files": [file(path="a"), file(path="a/b")]}, "a file and a directory at once"),
    ({"files": [file(sha265=SHA)]}, "unknown setting (did you mean 'sha256'?)"),
    ({"revision": "main"}, "revision: does not have the form"),
    ({"repository": "../x"}, "repository: does not have the form"),
]


@pytest.mark.parametrize(("change", "words"), WRONG)
def test_wrong_manifests_are_refused_in_one_line(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(ManifestError) as caught:
        load_manifest(written(tmp_path / "m.yaml", **change))
    assert words in str(caught.value)
    assert "m.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "- 1", "a: [", "\x00"])
def test_damaged_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "m.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ManifestError):
        load_manifest(tmp_path / "m.yaml")


def test_many_problems_are_shortened(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="and 95 more"):
        load_manifest(written(tmp_path / "m.yaml", files=[file(path=f"f{i}", size=-1) for i in range(100)]))


def test_a_missing_manifest_and_the_example_say_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"does not exist -> .*metalserve weights manifest --hub"):
        load_manifest(tmp_path / "none.yaml")
    with pytest.raises(ManifestError, match=r"still to be generated -> .*metalserve weights manifest --hub"):
        load_manifest("files/models/EXAMPLE.yaml")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = written(tmp_path / "m.yaml")
    before = target.read_bytes()
    manifest = load_manifest(target)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_manifest(Manifest(**{**manifest.model_dump(), "repository": "other/model"}), target)
    assert target.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["m.yaml"]


def test_what_is_written_reads_back_as_yaml_and_json(tmp_path: Path) -> None:
    made_from = {"kind": "hub", "source": "https://hub.example", "asked": "main"}
    manifest = load_manifest(written(tmp_path / "m.yaml", made_from=made_from))
    assert manifest.made_from is not None
    for name in ("out/n.yaml", "out/n.json"):
        target = tmp_path / name
        write_manifest(manifest, target)
        assert load_manifest(target) == manifest
        assert target.stat().st_mode & 0o777 == 0o644
    assert json.loads((tmp_path / "out/n.json").read_text())["made_from"] == made_from
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["n.json", "n.yaml"]
