"""Packages of the RHEL family: from rpm's database, by a stand-in for rpm, and by the real one where it is there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from metalserve.templates.manifest import TemplateError
from metalserve.templates.packages import Package, packages_of_root
from metalserve.templates.rpm_database import PLACES, query_rpm, rpm_database
from metalserve.templates.sbom import CYCLONEDX, SPDX, write_sbom
from metalserve.templates.sbom_subject import Subject

ROCKY = Subject("rocky-9", "ab" * 32, "rocky", "9", 1_763_000_000)
SPEC = """\
Name: {name}
Version: {version}
Release: 1.el9
{epoch}
Summary: nothing
License: {licence}
BuildArch: noarch
%description
Nothing.
%files
"""


def database(root: Path, place: str = PLACES[0], name: str = "rpmdb.sqlite") -> Path:
    path = root / place / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"database")
    return path


def rpm(directory: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A program rpm, the only one there is."""
    path = directory / "bin" / "rpm"
    path.parent.mkdir()
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:/usr/bin:/bin")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["rpmdb.sqlite", "Packages"])
def test_the_database_is_found_where_the_releases_have_it(tmp_path: Path, place: str, name: str) -> None:
    assert rpm_database(tmp_path) is None
    assert database(tmp_path, place, name).parent == rpm_database(tmp_path)


def test_a_link_is_not_followed_out_of_the_tree(tmp_path: Path) -> None:
    root = tmp_path / "root"
    database(tmp_path / "other", "rpm")
    (root / "var/lib").mkdir(parents=True)
    (root / "var/lib/rpm").symlink_to(tmp_path / "other/rpm")
    assert rpm_database(root) is None
    # RHEL 10 has such a link beside the database itself
    assert database(root).parent == rpm_database(root)


def test_packages_are_asked_of_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "root"
    database(root)
    rpm(
        tmp_path,
        monkeypatch,
        '[ "$1 $3 $4" = "--dbpath -qa --queryformat" ] || exit 9\n'
        'echo x >>"$2/rpmdb.sqlite"; : >"$2/rpmdb.sqlite-shm"\n'
        r"printf 'bash\t5.1.8-9.el9\tx86_64\tbash-5.1.8-9.el9.src.rpm\n'",
    )
    assert packages_of_root(root) == [Package("bash", "5.1.8-9.el9", "x86_64", "bash")]
    assert [path.name for path in (root / PLACES[0]).iterdir()] == ["rpmdb.sqlite"]
    assert (root / PLACES[0] / "rpmdb.sqlite").read_bytes() == b"database"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo 'error: cannot open Packages index' >&2; exit 1", "cannot open Packages index"),
        ("echo 'warning: rpmdb: a header is damaged' >&2", "a header is damaged"),
        ("exit 3", r"\(3\): no message"),
        (":", "lists no installed package"),
        ("echo nonsense", "is not what was asked for"),
    ],
)
def test_what_rpm_cannot_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, words: str
) -> None:
    database(tmp_path / "root")
    rpm(tmp_path, monkeypatch, script)
    with pytest.raises(TemplateError, match=words):
        packages_of_root(tmp_path / "root")


def test_without_rpm_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = database(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TemplateError, match="install rpm"):
        query_rpm(path.parent, "%{NAME}")


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """A tree that rpm installed two packages into."""
    if shutil.which("rpmbuild") is None or os.geteuid() != 0:
        pytest.skip("needs rpmbuild, and root")
    root, top = tmp_path / "root", tmp_path / "top"
    root.mkdir()
    for name, version, epoch, licence in (("alpha", "1.2", "", "MIT"), ("beta", "3", "Epoch: 2", "GPLv2+")):
        spec = tmp_path / f"{name}.spec"
        spec.write_text(SPEC.format(name=name, version=version, epoch=epoch, licence=licence))
        subprocess.run(["rpmbuild", "-bb", "--quiet", f"--define=_topdir {top}", spec], check=True, capture_output=True)
    files = sorted(map(str, top.glob("RPMS/noarch/*.rpm")))
    subprocess.run(
        ["rpm", "--root", root, "--dbpath", f"/{PLACES[1]}", "--nodeps", "--nosignature", "-i", *files],
        check=True, capture_output=True,
    )  # fmt: skip
    return root


def test_a_tree_that_rpm_has_made(real: Path, tmp_path: Path) -> None:
    before = sorted(path.name for path in (real / PLACES[1]).iterdir())
    found = packages_of_root(real)
    assert found == [
        Package("alpha", "1.2-1.el9", "noarch", "alpha"),
        Package("beta", "2:3-1.el9", "noarch", "beta"),
    ]
    write_sbom(real, found, ROCKY, tmp_path)
    cyclonedx, spdx = (json.loads((tmp_path / name).read_text()) for name in (CYCLONEDX, SPDX))
    assert [each["licenses"][0]["license"]["name"] for each in cyclonedx["components"]] == ["MIT", "GPLv2+"]
    assert [each["versionInfo"] for each in spdx["packages"]] == ["9", "1.2-1.el9", "2:3-1.el9"]
    assert sorted(path.name for path in (real / PLACES[1]).iterdir()) == before
