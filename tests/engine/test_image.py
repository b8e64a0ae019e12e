"""The image archive and the tiny model: what `docker load` and the staging role get."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest
import yaml

from metalserve.errors import MetalserveError
from metalserve.lab.engine import build_image, build_model


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small tree in place of the Debian one, which takes the network and five seconds."""
    root = tmp_path / "rootfs"
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/python3").write_text("#!/bin/sh\n")
    (root / "bin").symlink_to("usr/bin")
    return root


def image(archive: Path) -> tuple[dict[str, str], dict[str, object], dict[str, bytes]]:
    with tarfile.open(archive) as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar.getmembers()}  # type: ignore[union-attr]
    manifest = json.loads(files["manifest.json"])[0]
    return manifest, json.loads(files[manifest["Config"]]), files


def test_archive_is_what_docker_load_reads(root: Path, tmp_path: Path) -> None:
    target = tmp_path / "out/image.tar"
    digest = build_image(target, suite_rootfs=root, cache=tmp_path / "cache")
    assert hashlib.sha256(target.read_bytes()).hexdigest() == digest
    manifest, config, files = image(target)
    assert manifest["RepoTags"] == ["vllm/vllm-openai:v0.33.0"]
    assert manifest["Config"] == hashlib.sha256(files[manifest["Config"]]).hexdigest() + ".json"
    layers = [hashlib.sha256(files[name]).hexdigest() for name in manifest["Layers"]]
    assert config["rootfs"]["diff_ids"] == [f"sha256:{layer}" for layer in layers]  # type: ignore[index]
    assert config["config"]["Labels"]["simulated"] == "true"  # type: ignore[index]
    assert config["config"]["Entrypoint"] == ["vllm", "serve"]  # type: ignore[index]
    with tarfile.open(fileobj=io.BytesIO(files[manifest["Layers"][1]])) as layer:
        names = layer.getnames()
        assert layer.getmember("usr/local/bin/vllm").mode == 0o755
    assert "opt/vllm-standin/flags-0.33.0.json" in names
    assert "opt/vllm-standin/standin/server.py" in names


def test_two_builds_give_the_same_bytes(root: Path, tmp_path: Path) -> None:
    first = build_image(tmp_path / "a.tar", suite_rootfs=root, cache=tmp_path / "cache")
    (root / "usr/bin/python3").touch()
    assert build_image(tmp_path / "b.tar", suite_rootfs=root, cache=tmp_path / "cache") == first


def test_releases_share_the_base_layer_and_differ_in_entry_point(root: Path, tmp_path: Path) -> None:
    build_image(tmp_path / "new.tar", version="0.32.0", suite_rootfs=root, cache=tmp_path / "cache")
    build_image(tmp_path / "old.tar", version="0.11.0", suite_rootfs=root, cache=tmp_path / "cache")
    new, new_config, _ = image(tmp_path / "new.tar")
    old, old_config, _ = image(tmp_path / "old.tar")
    assert new["Layers"][0] == old["Layers"][0]
    assert new["Layers"][1] != old["Layers"][1]
    assert new_config["config"]["Entrypoint"] == ["vllm", "serve"]  # type: ignore[index]
    assert old_config["config"]["Entrypoint"] == ["python3", "-m", "vllm.entrypoints.openai.api_server"]  # type: ignore[index]


def test_unknown_release_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(MetalserveError, match=r"no flag catalogue for vLLM 9\.9\.9"):
        build_image(tmp_path / "x.tar", version="9.9.9", suite_rootfs=root, cache=tmp_path)
    assert not (tmp_path / "x.tar").exists()


def test_model_matches_its_manifest_and_is_the_same_every_time(tmp_path: Path) -> None:
    manifest_path = build_model(tmp_path)
    manifest = yaml.safe_load(manifest_path.read_text())
    place = tmp_path / "models" / manifest["repository"] / "resolve" / manifest["revision"]
    assert len(manifest["revision"]) == 40
    shards = [entry for entry in manifest["files"] if entry["path"].endswith(".safetensors")]
    assert len(shards) == 4
    assert all(1_900_000 < entry["size"] < 2_300_000 for entry in shards)
    for entry in manifest["files"]:
        content = (place / entry["path"]).read_bytes()
        assert len(content) == entry["size"]
        assert hashlib.sha256(content).hexdigest() == entry["sha256"]
    before = manifest_path.read_bytes()
    (place / "config.json").write_text("{}")  # a damaged file is mended
    assert build_model(tmp_path).read_bytes() == before
    assert json.loads((place / "config.json").read_text())["num_hidden_layers"] == 4
