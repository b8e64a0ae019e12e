"""A build that is refused or fails: one line, nothing on the shelf, nothing left behind."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from metalserve.errors import MetalserveError
from metalserve.templates import build as building
from metalserve.templates.build import build_template, check_space, reproducible
from metalserve.templates.shelf import Shelf
from metalserve.templates.signing import make_key
from metalserve.templates.spec import TemplateSpec, load_spec
from metalserve.templates.toolroot import ToolRoot
from metalserve.trees.system import held

TOOLS = ToolRoot(Path("/nonexistent"), {"mtools": "4"})


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    if os.geteuid() != 0 or shutil.which("mmdebstrap") is None:
        pytest.skip("needs root and mmdebstrap")
    monkeypatch.setenv("METALSERVE_TEMPLATES_DIR", str(tmp_path / "templates"))
    make_key(tmp_path / "secret", tmp_path / "public.pub")
    monkeypatch.setenv("METALSERVE_TEMPLATE_KEY", str(tmp_path / "secret"))
    yield tmp_path / "templates"


def build(place: Path, spec: TemplateSpec, *, keep: bool = False) -> None:
    build_template(spec, shelf=Shelf(place / "shelf"), tools=TOOLS, keep=keep)


def left(place: Path) -> list[str]:
    return sorted(path.name for path in (place / "work").iterdir() if not path.name.startswith("."))


@pytest.mark.parametrize("name", ["ubuntu-24.04", "rocky-9", "debian-13"])
def test_a_mirror_out_of_reach_ends_the_build_before_anything_is_made(
    place: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METALSERVE_TEMPLATE_MIRROR", "http://127.0.0.1:9/os")
    monkeypatch.setattr(building, "check_machine", lambda spec: None)  # dnf may not be installed
    with pytest.raises(MetalserveError, match="the mirror is not in reach"):
        build(place, load_spec(name))
    assert left(place) == []
    assert Shelf(place / "shelf").names() == []


def test_the_second_build_of_a_template_is_refused_and_told_who_builds(place: Path) -> None:
    (place / "work").mkdir(parents=True)
    (place / "work/debian-13-base").mkdir()
    lock = place / "work/.debian-13-base.lock"
    held_now = held(lock, "metalserve template build debian-13-base", thing="this template", where="x")
    said = rf"held by `metalserve template build .*pid {os.getpid()}"
    with held_now, pytest.raises(MetalserveError, match=said):
        build(place, load_spec("debian-13-base"))
    assert left(place) == ["debian-13-base"], "what the other one has made stays"


def test_what_a_killed_build_has_left_is_gone_with_the_next(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METALSERVE_TEMPLATE_MIRROR", "http://127.0.0.1:9/os")
    half = place / "work/debian-13-base/root.new/etc"
    half.mkdir(parents=True)
    (place / "work/another-template").mkdir()
    with pytest.raises(MetalserveError, match="not in reach"):
        build(place, load_spec("debian-13-base"))
    assert left(place) == ["another-template"]


def test_a_step_that_fails_publishes_nothing_and_keeps_the_tree_only_when_asked(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: object, **keywords: object) -> None:
        raise MetalserveError("package broken: dpkg returned an error code (1)", where="build.log")

    archive = SimpleNamespace(suites={"trixie": "0" * 64}, epoch=1_795_486_335, mirrors=None)
    monkeypatch.setattr(building, "read_archive", lambda system, mirrors: archive)
    monkeypatch.setattr(building, "mirrors_for", lambda system: None)
    monkeypatch.setattr(building, "make_rootfs", fails)
    for keep, names in ((False, []), (True, ["debian-13-base"])):
        with pytest.raises(MetalserveError, match="package broken"):
            build(place, load_spec("debian-13-base"), keep=keep)
        assert left(place) == names
    assert Shelf(place / "shelf").names() == []


def test_without_a_key_nothing_is_built(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("METALSERVE_TEMPLATE_KEY")
    with pytest.raises(MetalserveError, match="METALSERVE_TEMPLATE_KEY"):
        build(place, load_spec("debian-13-base"))
    assert not (place / "work").exists()


def test_a_disk_without_room_is_refused_before_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = load_spec("debian-13-base")
    check_space(tmp_path, spec)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=5000 << 20))
    with pytest.raises(MetalserveError, match="5000 MiB are free, and a build needs up to 7680 MiB"):
        check_space(tmp_path, spec)


def test_a_plain_user_is_told_to_use_sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(MetalserveError, match="sudo"):
        building.check_machine(load_spec("debian-13"))


def test_all_programs_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(MetalserveError, match="apt-get install dnf mmdebstrap mount util-linux"):
        building.check_machine(load_spec("rocky-9"))


def test_an_installation_without_the_connector_is_refused_before_minutes_are_spent(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **keywords: ())
    with pytest.raises(MetalserveError, match="pyinfra does not know the connector @image"):
        build(place, load_spec("debian-13-base"))
    assert not (place / "work").exists()


def test_images_with_compiled_modules_are_not_promised_byte_for_byte(tmp_path: Path) -> None:
    spec = load_spec("debian-13-l40s")
    assert "raw" in reproducible(spec, tmp_path).identical
    assert "uki.efi" not in reproducible(spec, tmp_path).identical
    modules = tmp_path / "usr/lib/modules/6.12.94+deb13-amd64/updates/dkms"
    modules.mkdir(parents=True)
    (modules / "nvidia.ko.xz").write_bytes(b"")
    said = reproducible(spec, tmp_path)
    assert "raw" in said.differs and "raw" not in said.identical and "packages.tsv" in said.identical
