"""What an archive offers, from the indexes that apt leaves; asked by apt itself, so that it is verified."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import shutil
from pathlib import Path

import pytest

from metalserve.templates.manifest import TemplateError
from metalserve.templates.offers import Offers, ask_for_offers, is_security, read_lists

INDEX = """\
Package: bash
Version: 5.2.37-2
Architecture: amd64
Description: a shell
 Version: not this

Package: tzdata
Architecture: all
Version: 2026b-0
Multi-Arch: foreign
"""

SECURE = """\
Package: bash
Architecture: amd64
Version: 5.2.37-2+deb13u1

Package: without-version
Architecture: amd64
"""


def lists(directory: Path) -> Path:
    prefix = "mirror_debian_dists_"
    (directory / f"{prefix}trixie_InRelease").write_text("one")
    (directory / f"{prefix}trixie-security_InRelease").write_text("two")
    (directory / f"{prefix}trixie_main_binary-amd64_Packages").write_text(INDEX)
    (directory / f"{prefix}trixie-security_main_binary-amd64_Packages.xz").write_bytes(lzma.compress(SECURE.encode()))
    (directory / f"{prefix}trixie-updates_main_binary-amd64_Packages.gz").write_bytes(gzip.compress(INDEX.encode()))
    (directory / "lock").touch()
    return directory


def test_indexes_are_read_whatever_their_compression(tmp_path: Path) -> None:
    offers = read_lists(lists(tmp_path))
    assert offers.packages == {
        ("bash", "5.2.37-2", "amd64"): ("trixie", "trixie-updates"),
        ("tzdata", "2026b-0", "all"): ("trixie", "trixie-updates"),
        ("bash", "5.2.37-2+deb13u1", "amd64"): ("trixie-security",),
    }
    assert offers.suites == {
        "trixie": hashlib.sha256(b"one").hexdigest(),
        "trixie-security": hashlib.sha256(b"two").hexdigest(),
    }
    assert offers.newest()["bash", "amd64"] == ("5.2.37-2+deb13u1", ("trixie-security",))
    assert offers.newest_security() == {("bash", "amd64"): "5.2.37-2+deb13u1"}


def test_the_origin_of_a_package() -> None:
    offers = Offers({}, {("a", "1", "all"): ("trixie", "trixie-security"), ("b", "1", "all"): ("trixie",)})
    assert offers.origin("a", "1", "all") == "trixie-security"
    assert offers.origin("b", "1", "all") == "trixie"
    assert offers.origin("b", "2", "all") is None


@pytest.mark.parametrize(
    ("suite", "security"),
    [("trixie-security", True), ("noble-security", True), ("buster/updates", True), ("trixie-updates", False)],
)
def test_which_suites_are_of_security(suite: str, security: bool) -> None:
    assert is_security(suite) is security


def test_lists_without_an_index_are_not_taken_for_an_empty_archive(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match="has no index of packages"):
        read_lists(tmp_path)
    broken = lists(tmp_path) / "mirror_debian_dists_trixie_main_binary-amd64_Packages.gz"
    broken.write_bytes(b"nothing")
    with pytest.raises(TemplateError, match=r"Packages\.gz: cannot be read"):
        read_lists(tmp_path)


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="apt is not installed")
def test_an_archive_that_does_not_answer_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match="apt-get update: failed"):
        ask_for_offers(["deb [trusted=yes] http://127.0.0.1:9/debian trixie main"], "amd64", tmp_path)


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="apt is not installed")
def test_apt_verifies_what_it_fetches(tmp_path: Path) -> None:
    repository = tmp_path / "repository/dists/trixie"
    index = repository / "main/binary-amd64/Packages"
    index.parent.mkdir(parents=True)
    index.write_text(INDEX)
    digest = hashlib.sha256(INDEX.encode()).hexdigest()
    release = f"Suite: trixie\nCodename: trixie\nSHA256:\n {digest} {len(INDEX)} main/binary-amd64/Packages\n"
    (repository / "Release").write_text(release)
    line = f"file:{tmp_path}/repository trixie main"
    with pytest.raises(TemplateError, match=r"apt-get update: failed: .*not signed"):
        ask_for_offers([f"deb {line}"], "amd64", tmp_path / "one")
    offers = ask_for_offers([f"deb [trusted=yes] {line}"], "amd64", tmp_path / "two")
    assert offers.packages["bash", "5.2.37-2", "amd64"] == ("trixie",)
    assert "trixie" in offers.suites
