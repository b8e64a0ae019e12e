"""Packages are read from dpkg and rpm, and survive the way through packages.tsv."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metalserve.templates.manifest import TemplateError
from metalserve.templates.packages import Package, packages_of_root, read_dpkg, read_rpm, read_tsv, tsv, write_tsv

STATUS = """\
Package: linux-image-6.12.57+deb13-amd64
Status: install ok installed
Architecture: amd64
Source: linux-signed-amd64 (6.12.57+1)
Version: 6.12.57-1
Description: Linux
 Version: not this one

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: broken
Status: install reinstreq half-installed
Architecture: amd64
Version: 1

Package: bash
Status: hold ok installed
Architecture: amd64
Version: 5.2.37-2+b5
Source: bash (5.2.37-2)
"""


def test_only_what_is_installed_counts() -> None:
    assert read_dpkg(STATUS) == [
        Package("bash", "5.2.37-2+b5", "amd64", "bash"),
        Package("linux-image-6.12.57+deb13-amd64", "6.12.57-1", "amd64", "linux-signed-amd64"),
    ]


def test_what_rpm_lists() -> None:
    text = (
        "kernel-core\t5.14.0-570.12.1.el9_6\tx86_64\tkernel-5.14.0-570.12.1.el9_6.src.rpm\n"
        "gpg-pubkey\t350d275d-6279464b\t(none)\t(none)\n"
        "shadow-utils\t2:4.9-12.el9\tx86_64\tshadow-utils-4.9-12.el9.src.rpm\n"
    )
    assert read_rpm(text) == [
        Package("kernel-core", "5.14.0-570.12.1.el9_6", "x86_64", "kernel"),
        Package("shadow-utils", "2:4.9-12.el9", "x86_64", "shadow-utils"),
    ]
    with pytest.raises(TemplateError, match="is not what was asked for"):
        read_rpm("error: cannot open database\n")


def test_a_root_without_packages_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match="does not exist"):
        packages_of_root(tmp_path)
    status = tmp_path / "var/lib/dpkg/status"
    status.parent.mkdir(parents=True)
    status.write_text("")
    with pytest.raises(TemplateError, match="lists no installed package"):
        packages_of_root(tmp_path)
    status.write_text("Status: install ok installed\n")
    with pytest.raises(TemplateError, match="cannot be understood"):
        packages_of_root(tmp_path)
    status.write_text(STATUS)
    assert len(packages_of_root(tmp_path)) == 2


WORD = st.text("abc.+:~-0189", min_size=1, max_size=12)


@given(st.lists(st.builds(Package, WORD, WORD, WORD, WORD)))
def test_the_way_through_the_file(tmp_path_factory: pytest.TempPathFactory, packages: list[Package]) -> None:
    path = tmp_path_factory.mktemp("tsv") / "packages.tsv"
    write_tsv(packages, path)
    assert read_tsv(path) == sorted(packages)


@pytest.mark.parametrize("text", ["", "bash\t1\tamd64\tbash\n", tsv([]) + "bash\t1\tamd64\n", tsv([]) + "a\t\tb\tc\n"])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "packages.tsv"
    path.write_text(text)
    with pytest.raises(TemplateError):
        read_tsv(path)
