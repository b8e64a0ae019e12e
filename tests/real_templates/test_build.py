"""Templates from nothing, out of the machine's own mirror: whole, the same twice, and after being killed; slow."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from metalserve.errors import MetalserveError
from metalserve.paths import ROOT, templates_directory
from metalserve.templates import pack
from metalserve.templates.check import verify_build
from metalserve.templates.checks import runner
from metalserve.templates.packages import read_tsv
from metalserve.templates.shelf import Build, Shelf
from metalserve.templates.signing import make_key, trusted_keys
from metalserve.trees.debian import remove_tree
from metalserve.trees.mirrors import machine_mirrors
from metalserve.trees.system import mounts_below

pytestmark = [pytest.mark.slow, pytest.mark.lab]

FIELDS = ("vermagic", "license", "signer")


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A templates directory of these tests' own; tool root and package cache are links to those that are there.

    It lies below the real one: 15 GB are too much for a temporary directory in memory.
    """
    if os.geteuid() != 0 or shutil.which("mmdebstrap") is None:
        pytest.skip("building a template needs root and mmdebstrap")
    try:
        machine_mirrors()
    except MetalserveError as error:
        pytest.skip(str(error))
    home = templates_directory() / "test-build"
    remove_tree(home)
    home.mkdir(parents=True)
    make_key(home / "secret", home / "public.pub")
    for name in ("tools", "cache"):
        if (templates_directory() / name).is_dir():
            subprocess.run(["cp", "-al", templates_directory() / name, home], check=True)
    try:
        yield home
        assert mounts_below(home.resolve()) == []
    finally:
        remove_tree(home)


def environment(home: Path) -> Mapping[str, str]:
    return {
        **os.environ,
        "METALSERVE_TEMPLATES_DIR": str(home),
        "METALSERVE_TEMPLATE_KEY": str(home / "secret"),
    }


def start(home: Path, name: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "metalserve", "template", "build", name],
        cwd=ROOT, env=environment(home), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip


def build(home: Path, name: str) -> Build:
    process = start(home, name)
    said, _ = process.communicate(timeout=3600)
    assert process.returncode == 0, said
    found = Shelf(home / "shelf").build(name)
    verify_build(found.path, trusted_keys([home / "public.pub"]))
    assert work(home) == []
    return found


def work(home: Path) -> list[str]:
    return [path.name for path in (home / "work").iterdir() if not path.name.startswith(".")]


@pytest.mark.parametrize("name", ["debian-12-base", "debian-13-base"])
def test_two_builds_from_nothing_are_the_same_bytes(home: Path, name: str) -> None:
    same_twice(home, name)


def same_twice(home: Path, name: str) -> Build:
    """Build twice, and see that only what the manifest names differs; returns the first."""
    one = build(home, name)
    time.sleep(1.1)  # builds are named by the second
    two = build(home, name)
    first, second = one.manifest, two.manifest
    assert first.inputs == second.inputs, "the archive moved on between the two: run it again"
    differing = {file for file in first.files if first.files[file] != second.files[file]}
    if pack.ROOT_TAR in differing:
        pytest.fail(f"these files differ: {different(contents(one), contents(two))}")
    assert first.raw == second.raw
    assert differing <= set(first.reproducible.differs), differing
    assert {"raw", *first.files} == {*first.reproducible.identical, *first.reproducible.differs}
    return one


def contents(made: Build) -> dict[str, str]:
    """Return path -> what the packed root file system has there: type, mode, owner, time, link, SHA-256."""
    found = {}
    command = ["zstd", "-dcq", str(made.path / pack.ROOT_TAR)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
            for each in archive:
                stream = archive.extractfile(each) if each.isreg() else None
                content = hashlib.sha256(stream.read() if stream is not None else b"").hexdigest()
                status = f"{each.type!r} {each.mode:o} {each.uid}:{each.gid} {each.mtime} {each.linkname}"
                found[each.name] = f"{status} {content}"
    return found


def different(one: dict[str, str], two: dict[str, str]) -> list[str]:
    """Return what two trees have not alike, one line each."""
    names = sorted(name for name in {*one, *two} if one.get(name) != two.get(name))
    return [f"{name}: {one.get(name)} / {two.get(name)}" for name in names]


@pytest.mark.parametrize(
    ("name", "kernel", "version"),
    [("debian-12-l40s", "6.1.0-50-amd64", "535."), ("debian-13-l40s", "6.12.94+deb13-amd64", "550.")],
)
def test_the_archives_driver_is_compiled_into_an_image_for_its_kernel(
    home: Path, name: str, kernel: str, version: str
) -> None:
    """Read from what is published, not from the tree that the build has checked itself."""
    made = same_twice(home, name)
    assert made.manifest.kernel.version == kernel
    driver = {p.name: p.version for p in read_tsv(made.path / "packages.tsv") if p.version.startswith(version)}
    assert {"nvidia-open-kernel-dkms", "nvidia-smi", "libcuda1", "firmware-nvidia-gsp"} <= set(driver)
    assert len({version.split("-")[0] for version in driver.values()}) == 1, driver
    with unpacked(made, home / "unpacked") as root:
        look = runner(root)
        modules = root / "usr/lib/modules" / kernel
        files = {path.name.split(".ko")[0]: path for path in (modules / "updates").rglob("*.ko*")}
        assert {f"nvidia-current-open{part}" for part in ("", "-modeset", "-drm", "-uvm")} <= set(files)
        for path in files.values():
            seen = {field: look(["modinfo", "-F", field, f"/{path.relative_to(root)}"]).strip() for field in FIELDS}
            assert seen["vermagic"].split()[0] == kernel, path
            assert "GPL" in seen["license"], "the closed modules say NVIDIA"
            assert seen["signer"] == "", "the key is of the build alone"
        needed = look(["modprobe", "--show-depends", "-S", kernel, "nvidia-current-open"])
        assert "/nvidia-current-open.ko" in needed, "depmod has not seen it"
        assert "/nouveau.ko" not in look(["lsinitramfs", f"/boot/initrd.img-{kernel}"])


@contextmanager
def unpacked(made: Build, place: Path) -> Iterator[Path]:
    """Give the root file system of a build, unpacked from its archive."""
    remove_tree(place)
    place.mkdir()
    try:
        subprocess.run(["tar", "-xf", made.path / "root.tar.zst", "-C", place], check=True)
        yield place
    finally:
        remove_tree(place)


def test_a_build_killed_at_any_moment_leaves_nothing_mounted_and_the_next_one_works(home: Path) -> None:
    name, chosen = "debian-13-base", random.Random(20261126)
    shelf = Shelf(home / "shelf")
    began = time.monotonic()
    build(home, name)
    length = time.monotonic() - began
    before = [each.build for each in shelf.builds(name)]
    for _ in range(5):
        process = start(home, name)
        time.sleep(chosen.uniform(1, 0.7 * length))
        process.send_signal(signal.SIGKILL)
        said, _ = process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL, f"it was not killed, it had ended: {said}"
        deadline = time.monotonic() + 20
        while (left := of_build(home)) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert left == []
        assert mounts_below(home.resolve()) == []
        assert [each.build for each in shelf.builds(name)] == before
    build(home, name)


def test_two_builds_at_once(home: Path) -> None:
    """Two templates share package cache and shelf; a second build of the same one is told who builds it."""
    other = home / "other.yaml"
    other.write_text("extends: debian-13-base\ndescription: another name\n")
    shelf = Shelf(home / "shelf")
    before = len(shelf.builds("debian-13-base"))
    both = [start(home, "debian-13-base"), start(home, str(other))]
    until(both, lambda: (home / "work/debian-13-base").is_dir() and (home / "work/other").is_dir())
    third = start(home, "debian-13-base")
    said, _ = third.communicate(timeout=120)
    assert third.returncode == 1
    assert f"held by `metalserve template build debian-13-base` (pid {both[0].pid})" in said
    for process in both:
        said, _ = process.communicate(timeout=3600)
        assert process.returncode == 0, said
    one, two = shelf.build("debian-13-base"), shelf.build("other")
    assert len(shelf.builds("debian-13-base")) == before + 1
    for each in (one, two):
        verify_build(each.path, trusted_keys([home / "public.pub"]))
    assert one.manifest.files["packages.tsv"] == two.manifest.files["packages.tsv"]
    assert work(home) == []


def until(running: list[subprocess.Popen[str]], condition: Callable[[], bool]) -> None:
    """Wait until something is so, while all of these run."""
    deadline = time.monotonic() + 1800
    while not condition():
        for process in running:
            assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("when", ["root.new/usr/bin", "root/etc/apt", "disk.raw"])
def test_a_disk_that_fills_up_publishes_nothing(home: Path, when: str) -> None:
    """The home is a disk of its own that shrinks to what is used on it when the build has come to `when`."""
    small, name = home / "small", "debian-13-base"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12g", "tmpfs", small], check=True)
    try:
        for file in ("secret", "public.pub"):
            shutil.copy2(home / file, small)
        (small / "tools").symlink_to(home / "tools")
        process = start(small, name)
        until([process], lambda: (small / "work" / name / when).exists())
        used = shutil.disk_usage(small).used + (4 << 20)
        subprocess.run(["mount", "-o", f"remount,size={used}", small], check=True)
        said, _ = process.communicate(timeout=1800)
        assert process.returncode == 1
        assert "No space left" in said.splitlines()[-1], said
        assert "Traceback" not in said
        assert work(small) == []
        assert Shelf(small / "shelf").names() == []
        assert mounts_below(small.resolve()) == [small.resolve()]
        assert of_build(small) == []
    finally:
        subprocess.run(["umount", small], check=True)
        small.rmdir()


def of_build(home: Path) -> list[str]:
    """Return processes that work in the tests' directory: its path is on their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(home) in words and path.parent.name != str(os.getpid()):
            found.append(words[:200])
    return found
