"""A template that carries the engine's image: what is refused, what is fetched and checked, where it comes to lie."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import os
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from metalserve.errors import MetalserveError
from metalserve.templates import build as building
from metalserve.templates.build import build_template
from metalserve.templates.engine_image import (
    ARCHIVES,
    EngineImage,
    check_room,
    engine_image,
    fetch_archive,
    place_archive,
    tree_bytes,
)
from metalserve.templates.sbom import add_image
from metalserve.templates.shelf import Shelf
from metalserve.templates.signing import make_key
from metalserve.templates.spec import TemplateSpec, load_spec
from roles.vllm import paths
from tests.templates.builds import some_inputs
from tests.templates.standin_build import ARCHIVE, TOOLS, small_spec, stand_in

NAME = "vllm/vllm-openai:v0.33.0"


def saved(*tags: str, name: str = "manifest.json") -> bytes:
    """Return what `docker save` writes, with a layer of some bytes."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        content = {"layer.tar": b"layer" * 1000, name: json.dumps([{"RepoTags": list(tags)}]).encode()}
        for each, data in content.items():
            member = tarfile.TarInfo(each)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return packed.getvalue()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A directory, and the URL below which its files are served."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None: ...

    directory = tmp_path / "served"
    directory.mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(directory)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield directory, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def image_of(directory: Path, url: str, content: bytes) -> EngineImage:
    (directory / "vllm.tar").write_bytes(content)
    return EngineImage(f"{url}/vllm.tar", hashlib.sha256(content).hexdigest(), *NAME.split(":"))


def carrying(spec: TemplateSpec, image: EngineImage) -> TemplateSpec:
    engine = {"image_archive": image.url, "image_archive_sha256": image.sha256}
    value = {**spec.model_dump(mode="json"), "settings": {"engine": engine}, "engine_image": True}
    return TemplateSpec.model_validate(value)


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ({}, "there is no settings.engine.image_archive that says which"),
        (
            {"image_archive": "http://x.invalid/i.tar"},
            "there is no settings.engine.image_archive_sha256 that says which",
        ),
    ],
)
def test_a_template_that_is_not_told_which_archive_is_refused(
    tmp_path: Path, engine: dict[str, str], words: str
) -> None:
    path = tmp_path / "one.yaml"
    path.write_text(f"extends: debian-13-base\nengine_image: true\nsettings: {{engine: {json.dumps(engine)}}}\n")
    with pytest.raises(MetalserveError, match=words):
        load_spec(str(path))


def test_by_default_a_template_carries_none() -> None:
    assert engine_image(load_spec("debian-13")) is None
    assert some_inputs().digest == some_inputs(engine_image=None).digest != some_inputs(engine_image="0" * 64).digest


def test_it_is_fetched_once_and_hashed_each_time(tmp_path: Path, served: tuple[Path, str]) -> None:
    image, cache = image_of(*served, saved("other:1", NAME)), tmp_path / "cache"
    archive = fetch_archive(image, cache)
    assert archive.name == f"{image.sha256}.tar"
    (served[0] / "vllm.tar").unlink()
    assert fetch_archive(image, cache) == archive
    archive.write_bytes(b"changed on the disk")
    with pytest.raises(MetalserveError, match="cannot be fetched"):
        fetch_archive(image, cache)


def test_an_archive_that_podman_saved_names_its_registry(tmp_path: Path, served: tuple[Path, str]) -> None:
    assert fetch_archive(image_of(*served, saved(f"docker.io/{NAME}")), tmp_path / "cache").is_file()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (saved("vllm/vllm-openai:v0.32.0"), f"does not hold {NAME}, which the release names; it holds vllm.*v0.32.0"),
        (saved(f"not-{NAME}"), f"does not hold {NAME}"),
        (saved(NAME, name="other.json"), "it holds no named image"),
        (b"<html>not found</html>" * 100, "is no archive of `docker save`"),
        (b"", "is no archive of `docker save`"),
    ],
)
def test_what_nodes_could_not_load_is_refused(
    tmp_path: Path, served: tuple[Path, str], content: bytes, words: str
) -> None:
    with pytest.raises(MetalserveError, match=words):
        fetch_archive(image_of(*served, content), tmp_path / "cache")


def test_another_file_than_the_specification_names_is_refused_and_not_kept(
    tmp_path: Path, served: tuple[Path, str]
) -> None:
    image = replace(image_of(*served, saved(NAME)), sha256="0" * 64)
    with pytest.raises(MetalserveError, match=r"has SHA-256 .*, and the specification says 000") as refused:
        fetch_archive(image, tmp_path / "cache")
    assert "image_archive_sha256" in (refused.value.remedy or "")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_root_without_room_for_it_is_refused_with_what_it_needs(tmp_path: Path) -> None:
    archive, spec = tmp_path / "large", load_spec("debian-13")
    with archive.open("wb") as stream:
        stream.truncate(10 << 30)
    with pytest.raises(MetalserveError, match="has 10240 MiB: with it the root needs 10855 MiB, and it has 8192") as no:
        check_room(spec, archive)
    assert no.value.remedy == "disk.root_mib: 11264, or engine_image: false"
    large = spec.model_copy(update={"disk": spec.disk.model_copy(update={"root_mib": 11264})})
    check_room(large, archive)
    with pytest.raises(MetalserveError, match="the root needs 13068 MiB"):
        check_room(large, archive, 2 << 30 | 40 << 20)


def test_it_lies_where_the_role_looks_for_it(tmp_path: Path) -> None:
    assert f"/{ARCHIVES}" == paths.ARCHIVES
    image, archive, root = (
        EngineImage("http://x.invalid/a.tar", "ab" * 32, *NAME.split(":")),
        tmp_path / "a",
        tmp_path / "root",
    )
    archive.write_bytes(b"image" * 1000)
    (root / "etc").mkdir(parents=True)
    before = tree_bytes(root)
    place_archive(image, archive, root, 1_700_000_000)
    placed = root / ARCHIVES / image.file_name
    assert (placed.read_bytes(), placed.stat().st_mtime, placed.stat().st_mode & 0o777) == (
        archive.read_bytes(), 1_700_000_000, 0o644,
    )  # fmt: skip
    assert os.path.samefile(placed, archive), "no second copy of ten gigabytes"
    assert tree_bytes(root) > before
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "linked/var").mkdir(parents=True)
    (tmp_path / "linked/var/cache").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(MetalserveError, match="is a link"):
        place_archive(image, archive, tmp_path / "linked", 0)


def test_both_sboms_name_it(tmp_path: Path) -> None:
    image = EngineImage("http://x.invalid/a.tar", "ab" * 32, *NAME.split(":"))
    cyclonedx: dict[str, object] = {"components": [{"name": "bash"}]}
    relations = [
        {"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": "SPDXRef-os"}
    ]
    spdx: dict[str, object] = {"packages": [], "relationships": relations}
    add_image((cyclonedx, spdx), image)
    [_, component] = cyclonedx["components"]  # type: ignore[misc]
    assert (component["name"], component["version"]) == ("vllm/vllm-openai", "v0.33.0")
    assert component["hashes"] == [{"alg": "SHA-256", "content": "ab" * 32}]
    [package], [_, contains] = spdx["packages"], spdx["relationships"]  # type: ignore[misc]
    assert package["checksums"] == [{"algorithm": "SHA256", "checksumValue": "ab" * 32}]
    assert (contains["spdxElementId"], contains["relationshipType"], contains["relatedSpdxElement"]) == (
        "SPDXRef-os", "CONTAINS", package["SPDXID"],
    )  # fmt: skip


def test_a_whole_build_carries_it_and_names_it_among_its_inputs(
    tmp_path: Path, served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    monkeypatch.setenv("METALSERVE_TEMPLATES_DIR", str(tmp_path / "templates"))
    make_key(tmp_path / "secret", tmp_path / "public.pub")
    monkeypatch.setenv("METALSERVE_TEMPLATE_KEY", str(tmp_path / "secret"))
    stand_in(monkeypatch)
    seen, packed = [], building.pack_all

    def watched(packer: object, *rest: object) -> object:
        found = list(packer.root.glob(f"{ARCHIVES}/*"))  # type: ignore[attr-defined]
        assert all(path.stat().st_mtime == ARCHIVE.epoch for path in found)
        seen.extend(found)
        return packed(packer, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(building, "pack_all", watched)
    image = image_of(*served, saved(NAME))
    shelf = Shelf(tmp_path / "templates/shelf")
    build = build_template(carrying(small_spec(), image), shelf=shelf, tools=TOOLS)
    assert [path.name for path in seen] == [image.file_name]
    assert build.manifest.inputs.engine_image == image.sha256
    bare = build_template(small_spec("bare"), shelf=shelf, tools=TOOLS)
    assert (len(seen), bare.manifest.inputs.engine_image) == (1, None)
