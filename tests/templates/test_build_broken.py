"""Builds that are killed, run out of disk, or get broken or forged packages: nothing half, nothing left, one line."""

from __future__ import annotations

import http.server
import itertools
import multiprocessing
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from metalserve.errors import MetalserveError
from metalserve.lab.layout import Layout
from metalserve.lab.packages import build_packages
from metalserve.lab.packages.model import Package
from metalserve.lab.repository import make_flat_repository, signing_key
from metalserve.lab.rootfs import base_path
from metalserve.templates import build as building
from metalserve.templates import rootfs
from metalserve.templates.archive import Archive
from metalserve.templates.build import build_template
from metalserve.templates.building_roles import converge
from metalserve.templates.check import verify_build
from metalserve.templates.manifest import file_entry
from metalserve.templates.shelf import Shelf
from metalserve.templates.signing import TrustedKey
from metalserve.templates.spec import KernelSpec, TemplateSpec, load_spec
from metalserve.trees.debian import Bootstrap
from metalserve.trees.mirrors import Mirrors
from metalserve.trees.system import blame_room, mount_overlay, mounts_below, run
from tests.templates.builds import make_keys
from tests.templates.killed import killed_at
from tests.templates.standin_build import TOOLS, small_spec, stand_in
from tests.templates.trees import real_tree

STRIDE = 7
"""Of the changes of the file system, neighbours are mostly files of one directory."""


class Home:
    """A templates directory with a key of its own."""

    def __init__(self, path: Path, secret: Path, trusted: list[TrustedKey]) -> None:
        self.path, self.secret, self.trusted = path, secret, trusted
        self.shelf, self.spec = Shelf(path / "shelf"), small_spec()

    def build(self, spec: TemplateSpec | None = None) -> None:
        build_template(spec or self.spec, shelf=self.shelf, tools=TOOLS, key=self.secret)

    def left(self) -> list[str]:
        return sorted(path.name for path in (self.path / "work").iterdir() if not path.name.startswith("."))

    def whole(self, name: str = "small") -> int:
        """How many builds are on the shelf, each seen to be whole and signed."""
        builds = self.shelf.builds(name)
        for each in builds:
            verify_build(each.path, self.trusted)
        return len(builds)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    path = tmp_path / "templates"
    monkeypatch.setenv("METALSERVE_TEMPLATES_DIR", str(path))
    return Home(path, *make_keys(tmp_path))


def test_a_build_killed_at_any_change_publishes_nothing_half_and_the_next_one_works(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch)
    whole, outcomes = 0, set()
    for number in itertools.count(1, STRIDE):
        moment = f"2026-11-27T{number // 3600:02}:{number // 60 % 60:02}:{number % 60:02}Z"
        monkeypatch.setattr(building, "moment", lambda moment=moment: moment)
        killed = killed_at(number, home.build)
        # the last changes come after the rename that publishes: by then it is there, and whole
        outcomes.add((killed, home.whole() - whole))
        whole = home.whole()
        if not killed:
            break
    assert outcomes == {(True, 0), (True, 1), (False, 1)}
    assert home.left() == [], "the last one has cleared what the killed ones left"


@pytest.mark.parametrize("same", [True, False])
def test_two_builds_at_once(home: Home, monkeypatch: pytest.MonkeyPatch, same: bool) -> None:
    """Of one template only one is built; two templates share the package cache and the shelf."""
    both = multiprocessing.get_context("fork").Barrier(2)
    refused = multiprocessing.get_context("fork").Event()

    def meet(root: Path) -> None:
        if same:
            assert refused.wait(60)
        else:
            both.wait(60)

    stand_in(monkeypatch, fill=meet)
    names = ["small", "small" if same else "other"]
    specs = [small_spec(name) for name in names]
    said = multiprocessing.get_context("fork").Queue()

    def one(spec: TemplateSpec) -> None:
        try:
            home.build(spec)
            said.put("")
        except MetalserveError as error:
            said.put(str(error))

    children = [multiprocessing.get_context("fork").Process(target=one, args=(spec,)) for spec in specs]
    for child in children:
        child.start()
    first = said.get(timeout=60)
    refused.set()
    words = sorted([first, said.get(timeout=60)])
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert words[0] == ""
    assert ("held by `metalserve template build small` (pid" in words[1]) if same else words[1] == ""
    assert [home.whole(name) for name in sorted(set(names))] == [1] * len(set(names))
    assert home.left() == []


@contextmanager
def small_disk(place: Path, kib: int) -> Iterator[None]:
    """A file system of so many KiB at `place`."""
    place.mkdir(parents=True)
    run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", place])
    try:
        yield
    finally:
        run(["umount", place])


def test_a_disk_that_fills_up_at_any_moment_is_one_line_and_nothing_stays(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small disk")
    monkeypatch.setattr(building, "check_space", lambda work, spec: None)
    room = 0

    def fill(root: Path) -> None:
        """Leave `room` KiB."""
        size = shutil.disk_usage(root).free - (room << 10)
        (root / "filler").write_bytes(b"x" * max(0, size))

    stand_in(monkeypatch, fill=fill)
    with small_disk(home.path, 1024):
        failed = 0
        for room in range(0, 256, 4):
            try:
                home.build()
                break
            except MetalserveError as error:
                failed += 1
                assert "No space left" in str(error) and "\n" not in str(error), room
                assert home.left() == []
                assert home.shelf.builds("small") == []
        assert failed >= 5, "it ran out at several steps"
        assert home.whole() == 1, "and works when there is room"
        assert home.left() == []


def test_a_program_that_had_no_room_to_say_so_is_told_from_one_that_failed(tmp_path: Path) -> None:
    for said in (
        "dpkg: error processing archive: failed to write: No space left on device",
        "OSError: [Errno 28] : 'x'",
    ):
        with pytest.raises(MetalserveError, match="dpkg failed: No space left on device -> make room"):
            blame_room(tmp_path, "dpkg", said)
    blame_room(tmp_path, "mmdebstrap", "tar --extract failed: 512")
    if os.geteuid() == 0:
        with small_disk(tmp_path / "small", 1024), pytest.raises(MetalserveError, match="No space left"):
            blame_room(tmp_path / "small", "mmdebstrap", "tar --extract failed: 512")


def package(name: str, version: str, *, fails: bool = False) -> Package:
    words = 'echo "numactl: no such node" >&2; exit 3\n'
    return Package(name, version, "a package of a test", scripts={"postinst": words} if fails else {}, arch_all=True)


def test_a_package_that_fails_to_install_ends_the_build_with_its_name(
    home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    base = base_path(Layout.current(), "trixie")
    if os.geteuid() != 0 or not base.is_dir():
        pytest.skip("needs root, and the base of a lab that has been up")

    def from_the_labs_base(recipe: Bootstrap, target: Path, log: Path, *, epoch: int | None = None) -> None:
        upper, work = target.with_name("upper"), target.with_name("overlay")
        for path in (target, upper, work):
            path.mkdir()
        upper.chmod(0o755)
        mount_overlay(target, lower=[base], upper=upper, work=work)

    pool = tmp_path / "pool/main"
    pool.mkdir(parents=True)
    [broken] = build_packages([package("linux-image-broken", "1", fails=True)], pool, "amd64")
    archive = Archive(Mirrors(tmp_path.as_uri()), {"trixie": "0" * 64}, 1_795_486_335)
    stand_in(monkeypatch)
    monkeypatch.setattr(building, "read_archive", lambda system, mirrors: archive)
    monkeypatch.setattr(building, "make_rootfs", rootfs.make_rootfs)
    monkeypatch.setattr(rootfs, "bootstrap", from_the_labs_base)
    file = {"path": f"pool/main/{broken.name}", "sha256": file_entry(broken).sha256}
    spec = small_spec().model_copy(update={"kernel": KernelSpec.model_validate({"files": [file]})})
    said = r"the kernel of small failed .*dpkg: error processing package linux-image-broken .*exit status 3"
    with pytest.raises(MetalserveError, match=said):
        home.build(spec)
    assert home.left() == []
    assert mounts_below(home.path.resolve()) == []
    assert home.shelf.builds("small") == []


@contextmanager
def web(directory: Path) -> Iterator[str]:
    """Serve a directory on this machine; gives its URL."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *words: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(directory)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_broken_package_fails_the_role_that_wants_it_by_name(tmp_path: Path) -> None:
    """Real apt and the real base role; the repository has what that role installs, one of it broken."""
    value = load_spec("debian-13-base").model_dump(mode="json")
    spec = TemplateSpec.model_validate({**value, "settings": {"base": {"ntp": False}}})
    place, cache, served = tmp_path / "place", tmp_path / "cache", tmp_path / "www"
    for path in (place, cache, served):
        path.mkdir()
    key = signing_key(tmp_path / "keys")
    names = ["gnupg", "nvme-cli", "numactl"]
    build_packages([package(name, "9000", fails=name == "numactl") for name in names], served, "amd64")
    make_flat_repository(served, key=key, origin="test", label="test")
    said = r"base / install: .*dpkg: error processing package numactl .*exit status 3"
    with real_tree(tmp_path / "tree") as root, web(served) as url:
        for path in (root / "etc/apt/sources.list", *(root / "etc/apt/sources.list.d").glob("*")):
            path.unlink(missing_ok=True)
        shutil.copy(key.public, root / "usr/share/keyrings/test.asc")
        source = f"deb [signed-by=/usr/share/keyrings/test.asc] {url} ./\n"
        (root / "etc/apt/sources.list.d/test.list").write_text(source)
        with pytest.raises(MetalserveError, match=said):
            converge(spec, root, epoch=1_795_486_335, cache=cache, place=place)


def test_an_archive_that_another_has_signed_is_refused(
    home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if os.geteuid() != 0 or shutil.which("mmdebstrap") is None:
        pytest.skip("needs root and mmdebstrap")
    served, suites = tmp_path / "www", ("trixie", "trixie-updates")
    flat = served / "flat"
    flat.mkdir(parents=True)
    make_flat_repository(flat, key=signing_key(tmp_path / "keys"), origin="Debian", label="Debian")
    for suite in suites:
        shutil.copytree(flat, served / "debian/dists" / suite)
    with web(served) as url:
        monkeypatch.setenv("METALSERVE_TEMPLATE_MIRROR", f"{url}/debian")
        with pytest.raises(MetalserveError, match=r"mmdebstrap failed .*(not signed|couldn't be verified|NO_PUBKEY)"):
            home.build()
    assert home.left() == []
    assert home.shelf.builds("small") == []
    assert mounts_below(home.path.resolve()) == []
