"""SBOMs list every package, and the same root gives the same bytes again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from metalserve.templates.manifest import TemplateError
from metalserve.templates.packages import Package, packages_of_root
from metalserve.templates.sbom import CYCLONEDX, SPDX, what_it_reads, write_sbom
from metalserve.templates.sbom_rpm import from_packages, read_licences
from metalserve.templates.sbom_subject import Subject

DEBIAN = Subject("debian-13", "ab" * 32, "debian", "13", 1_763_000_000)
ROCKY = Subject("rocky-9", "ab" * 32, "rocky", "9", 1_763_000_000)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    directory = tmp_path / "root"
    status = directory / "var/lib/dpkg/status"
    status.parent.mkdir(parents=True)
    stanza = (
        "Package: {name}\nStatus: install ok installed\nMaintainer: Some One <some@one.invalid>\n"
        "Architecture: amd64\nVersion: 1.{number}-1\nSection: misc\nPriority: optional\nDescription: nothing\n"
    )
    names = ["dpkg", *(f"package-{number}" for number in range(30))]
    status.write_text("\n".join(stanza.format(name=name, number=number) for number, name in enumerate(names)))
    (status.parent / "arch-native").write_text("amd64\n")
    return directory


def documents(directory: Path, root: Path) -> tuple[bytes, bytes]:
    pytest.importorskip("debsbom")
    directory.mkdir()
    write_sbom(root, packages_of_root(root), DEBIAN, directory)
    return (directory / CYCLONEDX).read_bytes(), (directory / SPDX).read_bytes()


def test_a_debian_root_gives_the_same_documents_twice(tmp_path: Path, root: Path) -> None:
    first, second = documents(tmp_path / "one", root), documents(tmp_path / "two", root)
    assert first == second
    cyclonedx, spdx = json.loads(first[0]), json.loads(first[1])
    assert {("package-7", "1.8-1"), ("dpkg", "1.0-1")} <= {(c["name"], c["version"]) for c in cyclonedx["components"]}
    assert {("package-7", "1.8-1")} <= {(p["name"], p.get("versionInfo")) for p in spdx["packages"]}
    assert cyclonedx["serialNumber"] == f"urn:uuid:{DEBIAN.serial}"
    assert spdx["documentNamespace"] == DEBIAN.namespace
    assert spdx["creationInfo"]["created"] == "2025-11-13T02:13:20Z"
    assert str(root) not in first[0].decode() + first[1].decode()


def test_the_copy_that_is_read_beside_other_work_gives_the_same_documents(tmp_path: Path, root: Path) -> None:
    licence = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nFiles: *\nLicense: MIT\n"
    for name in ("dpkg", "package-1"):
        (root / "usr/share/doc" / name).mkdir(parents=True)
        (root / "usr/share/doc" / name / "copyright").write_text(f"{licence}Copyright: 2020 {name}\n")
    (root / "usr/share/doc/package-2").symlink_to("package-1")
    (tmp_path / "copyright").write_text(licence.replace("MIT", "of-the-machine-that-builds"))
    (root / "usr/share/doc/package-3").symlink_to(tmp_path)
    whole = documents(tmp_path / "one", root)
    copy = what_it_reads(root, packages_of_root(root), DEBIAN, tmp_path / "copy")
    (root / "var/lib/dpkg/status").unlink()
    assert not (copy / "usr/share/doc/package-3").exists()
    listed = sorted(str(path.relative_to(copy)) for path in copy.rglob("copyright"))
    assert listed == [f"usr/share/doc/{name}/copyright" for name in ("dpkg", "package-1", "package-2")]
    write_sbom(copy, packages_of_root(copy), DEBIAN, tmp_path)
    assert (tmp_path / CYCLONEDX).read_text().count("MIT") == whole[0].decode().count("MIT") >= 3
    assert "of-the-machine-that-builds" not in (tmp_path / CYCLONEDX).read_text()


def test_of_the_archives_lists_only_what_is_installed_is_read(tmp_path: Path, root: Path) -> None:
    lists = root / "var/lib/apt/lists"
    lists.mkdir(parents=True)
    about = "Codename: trixie\nArchitectures: amd64\nComponents: main\n"
    (lists / "archive_dists_trixie_InRelease").write_text(about)
    stanza = "Package: {}\nVersion: {}\nArchitecture: amd64\nMaintainer: M <m@m.invalid>\nSHA256: {}\nFilename: p/{}\n"
    names = [("package-7", "1.8-1", "7" * 64), ("stranger", "1.8-1", "8" * 64), ("package-70", "1.8-1", "9" * 64)]
    index = "\n".join(stanza.format(name, version, digest, name) for name, version, digest in names)
    (lists / "archive_dists_trixie_main_binary-amd64_Packages").write_text(index)
    (lists / "archive_dists_trixie_main_i18n_Translation-en").write_text("Package: package-7\n")
    whole = documents(tmp_path / "one", root)
    assert b"7" * 64 in whole[0], "the list is read"
    copy = what_it_reads(root, packages_of_root(root), DEBIAN, tmp_path / "copy")
    (kept,) = (copy / "var/lib/apt/lists").glob("*_Packages")
    assert kept.read_text().count("Package: ") == 1
    assert documents(tmp_path / "two", copy) == whole


def test_a_package_that_the_document_lacks_is_found(tmp_path: Path, root: Path) -> None:
    pytest.importorskip("debsbom")
    packages = [*packages_of_root(root), Package("hidden", "1", "amd64", "hidden")]
    with pytest.raises(TemplateError, match=r"sbom\.cdx\.json: lacks 1 installed packages, hidden first"):
        write_sbom(root, packages, DEBIAN, tmp_path)


def test_a_root_that_debsbom_cannot_read_is_an_error(tmp_path: Path) -> None:
    pytest.importorskip("debsbom")
    with pytest.raises(TemplateError, match="debsbom: "):
        write_sbom(tmp_path / "nowhere", [], DEBIAN, tmp_path)


def test_packages_of_rpm_are_listed_with_their_epochs(tmp_path: Path) -> None:
    packages = [
        Package("shadow-utils", "2:4.9-12.el9", "x86_64", "shadow-utils"),
        Package("libstdc++", "11.5-5.el9", "x86_64", "gcc"),
    ]
    write_sbom(tmp_path, packages, ROCKY, tmp_path)
    cyclonedx, spdx = (json.loads((tmp_path / name).read_text()) for name in (CYCLONEDX, SPDX))
    assert [each["purl"] for each in cyclonedx["components"]] == [
        "pkg:rpm/rocky/libstdc%2B%2B@11.5-5.el9?arch=x86_64",
        "pkg:rpm/rocky/shadow-utils@4.9-12.el9?arch=x86_64&epoch=2",
    ]
    assert [each["name"] for each in spdx["packages"]] == ["rocky", "libstdc++", "shadow-utils"]
    assert len(spdx["relationships"]) == 3
    assert from_packages(packages[::-1], ROCKY) == (cyclonedx, spdx)


def test_licences_of_rpm_are_named_in_the_packages_own_words() -> None:
    packages = [Package("bash", "5.1.8-9.el9", "x86_64", "bash"), Package("pair", "2:1-1", "noarch", "pair")]
    licences = read_licences("bash\t5.1.8-9.el9\tGPLv3+\npair\t2:1-1\t(none)\nnot a line\n")
    cyclonedx, spdx = from_packages(packages, ROCKY, licences)
    assert [each.get("licenses") for each in cyclonedx["components"]] == [[{"license": {"name": "GPLv3+"}}], None]
    assert [each.get("licenseComments") for each in spdx["packages"]] == [None, "the package says: GPLv3+", None]


def test_the_spdx_of_rpm_is_valid(tmp_path: Path) -> None:
    pytest.importorskip("spdx_tools")
    from spdx_tools.spdx.parser.parse_anything import parse_file
    from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

    write_sbom(tmp_path, [Package("bash", "5.1.8-9.el9", "x86_64", "bash")], ROCKY, tmp_path)
    assert validate_full_spdx_document(parse_file(str(tmp_path / SPDX))) == []
