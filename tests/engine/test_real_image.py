"""The image with a real vLLM for one host of the lab: what goes into it, and the settings that name it."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from metalserve.errors import MetalserveError
from metalserve.lab.engine import real
from metalserve.releases import load_release
from metalserve.settings import EngineSettings


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Packages of an environment, two files of them."""
    site = tmp_path / "venv/lib/python3.11/site-packages"
    (site / f"vllm-{real.VERSION}+cpu.dist-info").mkdir(parents=True)
    (site / "vllm").mkdir()
    module = site / "vllm/__init__.py"
    module.write_text("")
    os.utime(module, (1_700_000_000, 1_700_000_000))
    return site


def test_the_image_holds_the_environments_packages(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tmp_path / "base.tar"
    base.write_bytes(b"")
    asked: dict[str, object] = {}
    monkeypatch.setattr(real, "base_layer", lambda cache, **options: asked.update(options) or base)
    target = tmp_path / "www/image.tar"
    digest = real.build_real_image(target, site_packages=site, cache=tmp_path)
    assert len(digest) == 64
    assert "python3" in str(asked["packages"]) and "unittest" in str(asked["keep"])
    with tarfile.open(target) as tar:
        manifest = json.load(tar.extractfile("manifest.json"))[0]  # type: ignore[arg-type]
        config = json.load(tar.extractfile(manifest["Config"]))["config"]  # type: ignore[arg-type]
        layer = io.BytesIO(tar.extractfile(manifest["Layers"][1]).read())  # type: ignore[union-attr]
    assert manifest["RepoTags"] == ["metalserve-lab/vllm-cpu:v0.32.0"]
    assert config["Entrypoint"] == ["vllm", "serve"]
    assert "simulated" not in config["Labels"]
    with tarfile.open(fileobj=layer) as packages:
        # the compiled modules beside the sources are only used when the sources are as old as they say
        assert packages.getmember("opt/vllm/site-packages/vllm/__init__.py").mtime == 1_700_000_000
    assert list(target.parent.iterdir()) == [target]


def test_an_environment_without_vllm_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MetalserveError, match=r"holds no vLLM 0\.32\.0.*\./run test-vllm"):
        real.build_real_image(tmp_path / "x.tar", site_packages=tmp_path, cache=tmp_path)
    assert not (tmp_path / "x.tar").exists()


def test_its_release_and_settings_are_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = real.write_release(tmp_path / "releases")
    monkeypatch.setenv("METALSERVE_RELEASES_DIR", str(tmp_path / "releases"))
    release = load_release(name)
    assert (release.vllm.version, release.vllm.repository) == ("0.32.0", "metalserve-lab/vllm-cpu")
    assert load_release("2026.11-lts").vllm.version == "0.33.0"
    said = real.settings(release=name, archive="http://10.0.0.1/x.tar", sha256="a" * 64)
    assert EngineSettings(**said["engine"]).extra_args == ["--dtype", "float32", "--enforce-eager"]
