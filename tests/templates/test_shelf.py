"""The shelf: a build is there whole or not at all; channels and removal; what does not belong is refused."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from metalserve.templates.check import verify_build
from metalserve.templates.manifest import DISK, MANIFEST, SIGNATURE, FileEntry, Manifest, file_entries
from metalserve.templates.shelf import Build, Shelf
from metalserve.templates.signing import TemplateError, TrustedKey
from tests.templates.builds import make_build, make_keys, some_manifest


class Yard:
    """A shelf, keys, and builds to put on it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shelf = Shelf(path / "shelf")
        self.key: Path
        self.keys: list[TrustedKey]
        self.key, self.keys = make_keys(path)

    def work(self, number: int = 0, name: str = "debian-13") -> tuple[Path, Manifest]:
        directory = self.path / "work" / f"{name}-{number}"
        return directory, make_build(directory, number, name)

    def publish(self, number: int = 0, name: str = "debian-13") -> Build:
        directory, manifest = self.work(number, name)
        return self.shelf.publish(directory, manifest, key=self.key)


@pytest.fixture
def yard(tmp_path: Path) -> Yard:
    return Yard(tmp_path)


def test_a_published_build_is_found_and_verified(yard: Yard) -> None:
    directory, manifest = yard.work()
    built = yard.shelf.publish(directory, manifest, key=yard.key)
    assert not directory.exists()
    assert built.path == yard.shelf.path / "debian-13" / manifest.build
    assert built.manifest == manifest
    assert verify_build(built.path, yard.keys) == manifest
    assert yard.shelf.names() == ["debian-13"]
    assert yard.shelf.build("debian-13") == built
    assert yard.shelf.build("debian-13", manifest.build) == built


def test_an_empty_shelf_has_nothing_and_says_so(yard: Yard) -> None:
    assert yard.shelf.names() == []
    assert yard.shelf.builds("debian-13") == []
    with pytest.raises(TemplateError, match="debian-13: has no build -> `metalserve template build debian-13`"):
        yard.shelf.build("debian-13")


def test_a_build_that_was_signed_before_is_published_as_it_is(yard: Yard) -> None:
    from metalserve.templates.signing import sign

    directory, manifest = yard.work()
    with pytest.raises(TemplateError, match=r"manifest\.json: does not exist"):
        yard.shelf.publish(directory, manifest)
    manifest.write(directory / MANIFEST)
    with pytest.raises(TemplateError, match="is not signed"):
        yard.shelf.publish(directory, manifest)
    sign(directory, yard.key)
    with pytest.raises(TemplateError, match="is not the manifest of this build"):
        yard.shelf.publish(directory, manifest.model_copy(update={"packages": 7}))
    assert yard.shelf.publish(directory, manifest).manifest == manifest


def test_the_same_build_twice_is_refused_and_the_first_stays(yard: Yard) -> None:
    first = yard.publish()
    directory, manifest = yard.work()
    with pytest.raises(TemplateError, match="is on the shelf already"):
        yard.shelf.publish(directory, manifest, key=yard.key)
    assert directory.is_dir()
    assert verify_build(first.path, yard.keys) == manifest


@pytest.mark.parametrize("kind", ["extra", "hidden", "link", "directory", "missing", "short"])
def test_a_directory_that_is_not_as_listed_is_refused(yard: Yard, kind: str) -> None:
    directory, manifest = yard.work()
    expected = _damage(directory, kind)
    with pytest.raises(TemplateError, match=expected):
        yard.shelf.publish(directory, manifest, key=yard.key)
    assert yard.shelf.builds("debian-13") == []


@pytest.mark.parametrize("kind", ["extra", "hidden", "link", "directory", "missing", "short"])
def test_a_build_that_is_no_longer_as_listed_is_refused(yard: Yard, kind: str) -> None:
    built = yard.publish()
    expected = _damage(built.path, kind)
    with pytest.raises(TemplateError, match=expected):
        verify_build(built.path, yard.keys)


def _damage(directory: Path, kind: str) -> str:
    file = directory / "packages.tsv"
    if kind in ("extra", "hidden"):
        (directory / ("extra" if kind == "extra" else ".hidden")).write_text("x")
        return "is not listed in the manifest"
    if kind == "short":
        file.write_text("x")
        return "packages.tsv: has 1 bytes; the manifest says 58"
    file.rename(directory.parent / "elsewhere")
    if kind == "link":
        file.symlink_to(directory.parent / "elsewhere")
    elif kind == "directory":
        file.mkdir()
    return "packages.tsv is missing" if kind == "missing" else "packages.tsv: is no plain file"


def test_one_changed_byte_is_found_in_the_first_file_that_has_it(yard: Yard) -> None:
    built = yard.publish()
    file = built.path / "packages.tsv"
    content = bytearray(file.read_bytes())
    content[5] ^= 1
    file.write_bytes(content)
    with pytest.raises(TemplateError, match=r"packages\.tsv: has SHA-256 [0-9a-f]{64}; the manifest says [0-9a-f]{64}"):
        verify_build(built.path, yard.keys)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda raw: FileEntry(size=raw.size, sha256="0" * 64), r"disk\.raw\.zst \(uncompressed\): has SHA-256"),
        (lambda raw: FileEntry(size=raw.size - 1, sha256=raw.sha256), "has more than the"),
        (lambda raw: FileEntry(size=raw.size + 1, sha256=raw.sha256), "bytes instead of the"),
    ],
)
def test_the_uncompressed_disk_is_what_the_manifest_says(
    yard: Yard, change: Callable[[FileEntry], FileEntry], expected: str
) -> None:
    directory, manifest = yard.work()
    manifest = some_manifest(manifest.files, change(manifest.raw))
    built = yard.shelf.publish(directory, manifest, key=yard.key)
    with pytest.raises(TemplateError, match=expected):
        verify_build(built.path, yard.keys)
    assert verify_build(built.path, yard.keys, raw=False) == manifest


def test_a_disk_that_is_no_zstd_stream_is_refused(yard: Yard) -> None:
    directory, manifest = yard.work()
    content = (directory / DISK).read_bytes()
    (directory / DISK).write_bytes(content[:-6])
    manifest = some_manifest(file_entries(directory), manifest.raw)
    built = yard.shelf.publish(directory, manifest, key=yard.key)
    with pytest.raises(TemplateError, match="uncompressed"):
        verify_build(built.path, yard.keys)


def test_the_progress_of_verifying_adds_up(yard: Yard) -> None:
    built = yard.publish()
    seen: list[int] = []
    manifest = verify_build(built.path, yard.keys, advance=seen.append)
    assert sum(seen) == sum(entry.size for entry in manifest.files.values()) + manifest.raw.size


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/etc", ".hidden", "A", "a..b", "a\n", "x" * 64, "é"])
def test_no_name_escapes_the_shelf(yard: Yard, name: str) -> None:
    for use in (yard.shelf.builds, yard.shelf.build, yard.shelf.channels, yard.shelf.promote, yard.shelf.gc):
        with pytest.raises(TemplateError, match="is no name of a template"):
            use(name)
    yard.publish()
    with pytest.raises(TemplateError, match="is no name of a build"):
        yard.shelf.build("debian-13", name or "x")


def test_channels_move_from_candidate_to_stable(yard: Yard) -> None:
    first, second = yard.publish(0), yard.publish(1)
    with pytest.raises(TemplateError, match="has no candidate build"):
        yard.shelf.promote("debian-13")
    assert yard.shelf.promote("debian-13", first.build, "candidate").channels == ("candidate",)
    assert yard.shelf.promote("debian-13").channels == ("candidate", "stable")
    assert yard.shelf.promote("debian-13", channel="candidate").build == second.build
    assert yard.shelf.channels("debian-13") == {"candidate": second.build, "stable": first.build}
    assert yard.shelf.build("debian-13", "stable").build == first.build
    assert os.readlink(yard.shelf.path / "debian-13" / "stable") == first.build


def test_a_channel_that_leads_elsewhere_is_refused(yard: Yard) -> None:
    yard.publish()
    link = yard.shelf.path / "debian-13" / "stable"
    link.symlink_to("../../etc")
    for use in (yard.shelf.builds, yard.shelf.gc, lambda name: yard.shelf.build(name, "stable")):
        with pytest.raises(TemplateError, match="is no link to a build"):
            use("debian-13")


def test_an_unsigned_build_is_not_promoted(yard: Yard) -> None:
    built = yard.publish()
    (built.path / SIGNATURE).unlink()
    with pytest.raises(TemplateError, match="is not signed"):
        yard.shelf.promote("debian-13", "latest", "candidate")


def test_gc_tells_what_would_go_and_removes_it_only_when_told(yard: Yard) -> None:
    builds = [yard.publish(number).build for number in range(6)]
    yard.shelf.promote("debian-13", builds[0], "stable")
    yard.shelf.promote("debian-13", builds[1], "candidate")
    told = yard.shelf.gc("debian-13", keep=2, needed=[builds[2]])
    assert told.removed == (builds[3],)
    assert told.freed > 0
    assert told.kept == {
        builds[0]: "stable",
        builds[1]: "candidate",
        builds[2]: "an order names it",
        builds[4]: "one of the 2 newest",
        builds[5]: "newest",
    }
    assert len(yard.shelf.builds("debian-13")) == 6
    assert yard.shelf.gc("debian-13", keep=2, needed=[builds[2]], yes=True) == told
    assert [each.build for each in yard.shelf.builds("debian-13")] == [*builds[:3], *builds[4:]]
    assert not list((yard.shelf.path / "debian-13").glob(".gone-*"))


def test_gc_leaves_a_build_that_is_in_use(yard: Yard) -> None:
    old, _ = yard.publish(0), yard.publish(1)
    with old.hold() as directory:
        assert yard.shelf.gc("debian-13", keep=1, yes=True).kept[old.build] == "in use"
        assert directory.is_dir()
    assert yard.shelf.gc("debian-13", keep=1, yes=True).removed == (old.build,)
    with pytest.raises(TemplateError), old.hold():
        pass
    with pytest.raises(TemplateError, match="at least 1"):
        yard.shelf.gc("debian-13", keep=0, yes=True)


def test_what_a_killed_run_left_is_out_of_sight_and_goes_with_the_next(yard: Yard) -> None:
    first, second = yard.publish(0), yard.publish(1)
    home = yard.shelf.path / "debian-13"
    first.path.rename(home / f".gone-{first.build}")
    (home / ".link-00").symlink_to(second.build)
    assert [each.build for each in yard.shelf.builds("debian-13")] == [second.build]
    yard.publish(2)
    assert sorted(path.name for path in home.glob(".*")) == [".lock"]


def test_a_shelf_on_another_file_system_is_refused_with_a_reason(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    directory, manifest = yard.work()

    def other_device(source: object, target: object) -> None:
        raise OSError(18, os.strerror(18))

    monkeypatch.setattr(os, "rename", other_device)
    with pytest.raises(TemplateError, match="the shelf must be on the file system of the work directory"):
        yard.shelf.publish(directory, manifest, key=yard.key)


def test_everything_is_synced_before_the_rename(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[str] = []
    sync, rename = os.fsync, os.rename

    def note_sync(descriptor: int) -> None:
        happened.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        sync(descriptor)

    def note_rename(source: Path, target: Path) -> None:
        happened.append(f"-> {target.name}")
        rename(source, target)

    directory, manifest = yard.work()
    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "rename", note_rename)
    yard.shelf.publish(directory, manifest, key=yard.key)
    at = happened.index(f"-> {manifest.build}")
    assert {DISK, "packages.tsv", MANIFEST, SIGNATURE, directory.name} <= set(happened[:at])
    assert "debian-13" in happened[at:]


def test_a_reader_that_has_no_zstd_is_told(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    built = yard.publish()

    def none(*_words: object, **_more: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "Popen", none)
    with pytest.raises(TemplateError, match="zstd: is not installed"):
        verify_build(built.path, yard.keys)
