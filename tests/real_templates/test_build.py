"""Templates from nothing, out of the machine's own mirror: whole, the same twice, and after being killed; slow."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from metalserve.errors import MetalserveError
from metalserve.paths import ROOT, templates_directory
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
    """A templates directory of these tests' own, with a tool root and a package cache that they share.

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
    one = build(home, name).manifest
    time.sleep(1.1)  # builds are named by the second
    two = build(home, name).manifest
    assert one.inputs == two.inputs, "the archive moved on between the two: run it again"
    assert one.raw == two.raw
    differing = {file for file in one.files if one.files[file] != two.files[file]}
    assert differing <= set(one.reproducible.differs), differing
    assert {"raw", *one.files} == {*one.reproducible.identical, *one.reproducible.differs}


def test_the_archives_driver_is_compiled_into_an_image_for_its_kernel(home: Path) -> None:
    """Read from what is published, not from the tree that the build has checked itself."""
    made, kernel = build(home, "debian-13-l40s"), "6.12.94+deb13-amd64"
    assert made.manifest.kernel.version == kernel
    driver = {p.name: p.version for p in read_tsv(made.path / "packages.tsv") if p.version.startswith("550.")}
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
