from __future__ import annotations

from pathlib import Path

import pytest

from metalserve.errors import MetalserveError
from metalserve.trees.mirrors import Mirrors, machine_mirrors, parse_sources

DEB822 = """\
Types: deb deb-src
# a comment inside the stanza
URIs: http://mirror.invalid/debian/
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.invalid/debian-security
Suites: bookworm-security
Components: main

Enabled: no
Types: deb
URIs: http://old.invalid/debian
Suites: bullseye
Components: main
"""


def apt(directory: Path, **files: str) -> Path:
    place = directory / "apt"
    (place / "sources.list.d").mkdir(parents=True)
    for name, text in files.items():
        stem, _, suffix = name.rpartition("_")
        target = place / "sources.list" if stem == "" else place / "sources.list.d" / f"{stem}.{suffix}"
        target.write_text(text)
    return place


@pytest.fixture
def keyring(tmp_path: Path) -> Path:
    path = tmp_path / "keyring.gpg"
    path.touch()
    return path


def test_deb822_sources_with_comments_and_disabled_stanzas(tmp_path: Path, keyring: Path) -> None:
    found = machine_mirrors(apt(tmp_path, debian_sources=DEB822), {}, keyring)
    assert found == Mirrors("http://mirror.invalid/debian", "http://mirror.invalid/debian-security")


def test_one_line_sources_with_options(tmp_path: Path, keyring: Path) -> None:
    text = """\
# deb http://commented.invalid/debian bookworm main
deb [arch=amd64 signed-by=/a b=c] http://mirror.invalid/debian bookworm main non-free  # a comment
deb-src http://source.invalid/debian bookworm main
deb http://mirror.invalid/debian-security bookworm-security main
deb https://other.invalid/tool stable main
deb http://half.invalid/debian
"""
    found = machine_mirrors(apt(tmp_path, _list=text), {}, keyring)
    assert found == Mirrors("http://mirror.invalid/debian", "http://mirror.invalid/debian-security")


def test_an_ubuntu_machine_is_told_to_name_a_mirror(tmp_path: Path, keyring: Path) -> None:
    text = "deb http://archive.invalid/ubuntu noble main\ndeb http://security.invalid/ubuntu noble-security main\n"
    with pytest.raises(MetalserveError, match="METALSERVE_LAB_MIRROR"):
        machine_mirrors(apt(tmp_path, _list=text), {}, keyring)


def test_the_environment_goes_before_the_sources(tmp_path: Path, keyring: Path) -> None:
    place = apt(tmp_path, debian_sources=DEB822)
    one = machine_mirrors(place, {"METALSERVE_LAB_MIRROR": "http://mine.invalid/debian/"}, keyring)
    two = machine_mirrors(place, {"METALSERVE_LAB_MIRROR": "http://a.invalid/d http://b.invalid/s"}, keyring)
    assert one == Mirrors("http://mine.invalid/debian", None)
    assert two == Mirrors("http://a.invalid/d", "http://b.invalid/s")
    assert [line.split()[2:] for line in two.sources("trixie")] == [
        ["http://a.invalid/d", "trixie", "main"],
        ["http://a.invalid/d", "trixie-updates", "main"],
        ["http://b.invalid/s", "trixie-security", "main"],
    ]


def test_missing_keys_are_named_with_their_package(tmp_path: Path) -> None:
    with pytest.raises(MetalserveError, match="apt-get install debian-archive-keyring"):
        machine_mirrors(apt(tmp_path, debian_sources=DEB822), {}, tmp_path / "absent.gpg")


@pytest.mark.parametrize("text", ["", "Types: deb\n", "deb\n", "deb [x\n", "URIs: a\nComponents: main\nTypes: deb\n"])
def test_broken_sources_are_passed_over(tmp_path: Path, text: str) -> None:
    assert parse_sources(apt(tmp_path, broken_sources=text, broken_list=text)) == []
