"""The real driver of Debian's own archive, compiled by DKMS for an image's kernel: no GPU is needed for that.

The roles run through pyinfra on a tree (`@chroot`), as they would for an OS template. Minutes of compiling each.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metalserve.errors import MetalserveError
from metalserve.paths import ROOT
from metalserve.trees.mirrors import machine_mirrors
from tests.real_driver.tree import Tree, debian_tree

pytestmark = [pytest.mark.slow, pytest.mark.lab]

HERE = Path(__file__).parent
DATA = {
    "release": "2026.11-lts",
    "driver": {"source": "distro", "modules": "open"},
    "expect": {"gpu": "l40s", "count": 4},
    "simulated": True,  # the GPUs: there are none
}

# The archives' drivers do not compile with their own newest kernels (driver_packages.yaml says from which on).
EARLIER = ("6.12.94", "+deb13")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("making a root file system needs root")
    try:
        machine_mirrors()
    except MetalserveError as error:
        pytest.skip(str(error))
    yield tmp_path


def converge(tree: Tree, directory: Path) -> tuple[int, str, dict[str, Any]]:
    """Run the roles on the tree; returns exit status, output and the host's report."""
    report = directory / "report.json"
    report.unlink(missing_ok=True)
    inventory = directory / "inventory.py"
    inventory.write_text(f"image = [('@chroot/{tree.root}', {DATA!r})]\n")
    done = subprocess.run(
        [sys.executable, "-m", "pyinfra", "-y", str(inventory), str(HERE / "deploy.py")],
        cwd=ROOT,
        env={**os.environ, "METALSERVE_REPORT": str(report), "PYINFRA_PROGRESS": "off", "COLUMNS": "140"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=3000,
    )
    hosts = json.loads(report.read_text())["hosts"] if report.exists() else {}
    return done.returncode, done.stdout, next(iter(hosts.values()), {})


def modules(tree: Tree) -> list[Path]:
    return sorted((tree.root / "lib/modules").glob("*/updates/dkms/nvidia*.ko*"))


@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
def test_the_open_modules_are_compiled_for_the_images_kernel(suite: str, place: Path) -> None:
    with debian_tree(place, suite) as tree:
        if suite == "trixie":
            if not tree.add_kernel(*EARLIER):
                pytest.skip(f"the mirror no longer has kernel {EARLIER[0]}, the last that this driver compiles for")
        else:
            tree.add_kernel_of_the_release()
        kernel = tree.kernel
        assert kernel != os.uname().release

        rc, out, report = converge(tree, place)
        assert rc == 0, out

        built = modules(tree)
        assert built, out
        assert {path.parent.parent.parent.name for path in built} == {kernel}
        core = next(path for path in built if path.name.startswith("nvidia-current-open.ko"))
        inside = "/" + str(core.relative_to(tree.root))
        version = tree.run("modinfo", "-F", "version", inside).strip()
        assert tree.run("modinfo", "-F", "vermagic", inside).split()[0] == kernel
        assert "MIT" in tree.run("modinfo", "-F", "license", inside), "the open modules are dual MIT/GPL"
        # kernel and user space of one version, although the archive has newer user space (Debian 12)
        for package in ("nvidia-open-kernel-dkms", "nvidia-smi", "libcuda1", "libnvidia-ml1"):
            assert tree.installed(package).startswith(f"{version}-"), (package, tree.installed(package), version)
        assert "installed" in tree.run("dkms", "status")
        assert not tree.run("dpkg", "--audit")
        # nothing of NVIDIA's repository, and nothing was started
        assert not list((tree.root / "etc/apt/sources.list.d").glob("metalserve-nvidia*"))

        rc, out, report = converge(tree, place)
        assert rc == 0, out
        assert report["changes"] == [], report["changes"]


@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
def test_a_kernel_that_the_driver_does_not_compile_for_is_refused_before_it_is_touched(suite: str, place: Path) -> None:
    with debian_tree(place, suite) as tree:
        tree.add_newest_kernel()
        before = tree.run("dpkg-query", "-W")
        rc, out, report = converge(tree, place)
        if rc == 0:  # Debian may have mended it since
            pytest.skip(f"the archive's driver compiles for {tree.kernel} now: {modules(tree)}")
        assert "cannot be compiled for kernel" in report["failure"]["what"], out
        assert "driver.source" in report["failure"]["remedy"]
        names = {line.split("\t")[0] for line in tree.run("dpkg-query", "-W").splitlines()}
        assert names == {line.split("\t")[0] for line in before.splitlines()}
