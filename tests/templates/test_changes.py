"""What changed between two builds, and which updates are known to close holes."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from metalserve.templates.changelogs import Entry, changelogs_of, parse_changelog
from metalserve.templates.changes import Changes, Part, Side, compare, side_of
from metalserve.templates.changes_text import markdown
from metalserve.templates.manifest import FileEntry
from metalserve.templates.offers import Offers
from metalserve.templates.packages import Package
from tests.templates.builds import DIGEST, some_manifest

OTHER = "f" * 64
RAW = FileEntry(size=1, sha256=DIGEST)

CHANGELOG = """\
openssl (3.5.1-1+deb13u2) trixie-security; urgency=medium

  * CVE-2026-11111 and CVE-2026-22222
  * CVE-2026-11111 again

 -- Someone <some@one.invalid>  Tue, 30 Sep 2026 20:46:53 +0200

openssl (3.5.1-1+deb13u1) trixie; urgency=medium

  * Fix CVE-2025-99999

 -- Someone <some@one.invalid>  Tue, 30 Sep 2025 20:46:53 +0200
"""


def package(name: str, version: str = "1.0-1", architecture: str = "amd64") -> Package:
    return Package(name, version, architecture, name)


def side(build: str, *packages: Package, **parts: str) -> Side:
    return Side(build, parts, packages)


def test_the_first_build_has_nothing_before_it() -> None:
    changes = compare(None, side("b", package("bash")))
    assert changes.before is None
    assert changes.added == (package("bash"),)


def test_added_removed_updated_and_what_stayed() -> None:
    before = side("a", package("bash"), package("gone"), package("same"), kernel="6.12.1")
    after = side("b", package("bash", "1.0-2"), package("new"), package("same"), kernel="6.12.2")
    changes = compare(before, after)
    assert [each.name for each in changes.added] == ["new"]
    assert [each.name for each in changes.removed] == ["gone"]
    assert [(each.name, each.before, each.after, each.downgrade) for each in changes.updated] == [
        ("bash", "1.0-1", "1.0-2", False)
    ]
    assert changes.unchanged == 1
    assert changes.parts == (Part("kernel", "6.12.1", "6.12.2"),)


def test_two_kernels_of_rpm_side_by_side_are_added_and_removed() -> None:
    before = side("a", package("kernel-core", "5-1"), package("kernel-core", "5-2"))
    after = side("b", package("kernel-core", "5-2"), package("kernel-core", "5-3"), package("kernel-core", "5-4"))
    changes = compare(before, after, rpm=True)
    assert changes.updated == ()
    assert [each.version for each in changes.added] == ["5-3", "5-4"]
    assert [each.version for each in changes.removed] == ["5-1"]


def test_where_an_update_is_from_tells_whether_it_closes_a_hole() -> None:
    names = ("main", "secure", "both", "old", "elsewhere")
    before = side("a", *(package(name) for name in names))
    after = side("b", *(package(name, "0.9-1" if name == "old" else "1.0-2") for name in names))
    offers = {
        ("main", "1.0-2", "amd64"): ("trixie",),
        ("secure", "1.0-2", "amd64"): ("trixie-security",),
        ("both", "1.0-2", "amd64"): ("trixie", "trixie-security"),
        ("old", "0.9-1", "amd64"): ("trixie-security",),
    }
    found = {each.name: (each.security, each.why) for each in compare(before, after, offers=Offers({}, offers)).updated}
    assert found == {
        "main": ("unknown", "from trixie, no changelog"),
        "secure": ("yes", "from trixie-security"),
        "both": ("yes", "from trixie-security"),
        "old": ("no", "an older version"),
        "elsewhere": ("unknown", "no changelog"),
    }


def test_the_changelog_names_the_holes_that_were_closed_since() -> None:
    entries = parse_changelog(CHANGELOG)
    assert entries == [
        Entry("3.5.1-1+deb13u2", "trixie-security", ("CVE-2026-11111", "CVE-2026-22222")),
        Entry("3.5.1-1+deb13u1", "trixie", ("CVE-2025-99999",)),
    ]
    after = side("b", package("openssl", "3.5.1-1+deb13u2"))
    for old, cves in (
        ("3.5.1-1+deb13u1", ("CVE-2026-11111", "CVE-2026-22222")),
        ("3.5.1-1", ("CVE-2026-11111", "CVE-2026-22222", "CVE-2025-99999")),
    ):
        (update,) = compare(side("a", package("openssl", old)), after, changelog=lambda _package: entries).updated
        assert (update.security, update.why) == ("yes", "its changelog says trixie-security")
        assert update.cves == cves


def test_cves_alone_are_enough_and_a_changelog_without_any_says_no() -> None:
    for entry, security in (
        (Entry("2-1", "unstable", ("CVE-2026-1234",)), "yes"),
        (Entry("2-1", "unstable", ()), "no"),
    ):
        changes = compare(side("a", package("x")), side("b", package("x", "2-1")), changelog=lambda _p, e=entry: [e])
        assert changes.updated[0].security == security


def test_changelogs_are_read_in_the_root_and_nowhere_else(tmp_path: Path) -> None:
    docs = tmp_path / "root/usr/share/doc"
    outside = tmp_path / "outside"
    for directory in (docs / "libssl3", docs / "native", docs / "broken", docs / "linked", outside):
        directory.mkdir(parents=True)
    for path in (docs / "libssl3/changelog.Debian.gz", docs / "native/changelog.gz", outside / "changelog.Debian.gz"):
        path.write_bytes(gzip.compress(CHANGELOG.encode()))
    (docs / "broken/changelog.Debian.gz").write_bytes(gzip.compress(CHANGELOG.encode())[:-9])
    (docs / "openssl").symlink_to("libssl3")
    (docs / "far").symlink_to("../../../../outside")
    (docs / "absolute").symlink_to(outside)
    (docs / "linked/changelog.Debian.gz").symlink_to(outside / "changelog.Debian.gz")
    read = changelogs_of(tmp_path / "root")
    for name in ("libssl3", "openssl", "native"):
        assert read(package(name)) == parse_changelog(CHANGELOG), name
    for name in ("broken", "far", "absolute", "linked", "nothing"):
        assert read(package(name)) is None, name


def test_what_a_build_is_made_of_is_compared_by_name() -> None:
    before = some_manifest({"disk.raw.zst": RAW}, RAW)
    after = some_manifest({"disk.raw.zst": RAW}, RAW, 1, roles={"base": OTHER, "new": DIGEST}, release=OTHER)
    changes = compare(side_of(before, []), side_of(after, []))
    assert {part.part for part in changes.parts} == {
        "role base",
        "role new",
        "role nvidia_driver",
        "content of the release",
    }
    assert Part("role new", "-", DIGEST[:12]) in changes.parts


def test_json_and_markdown_say_the_same() -> None:
    before = side("a", package("openssl", "3.5.1-1"), package("gone"), kernel="6.12.1")
    after = side("b", package("openssl", "3.5.1-1+deb13u2"), package("new"), kernel="6.12.2")
    changes = compare(before, after, changelog=lambda _package: parse_changelog(CHANGELOG))
    data = json.loads(changes.content())
    assert data["updated"][0]["cves"] == ["CVE-2026-11111", "CVE-2026-22222", "CVE-2025-99999"]
    text = markdown(changes)
    for words in (
        "a -> b",
        "| openssl | 3.5.1-1 | 3.5.1-1+deb13u2 |",
        "CVE-2026-22222",
        "| kernel | 6.12.1 | 6.12.2 |",
    ):
        assert words in text
    assert "- new 1.0-1" in text
    assert "- gone 1.0-1" in text
    assert "Nothing changed" in markdown(Changes("a", "b"))


PACKAGES = st.lists(
    st.builds(
        package, st.sampled_from("abcd"), st.sampled_from(["1-1", "1-2", "2-1"]), st.sampled_from(["amd64", "all"])
    ),
    unique=True,
)


@given(PACKAGES, PACKAGES)
def test_every_package_is_told_exactly_once(old: list[Package], new: list[Package]) -> None:
    changes = compare(side("a", *old), side("b", *new))
    came = [*changes.added, *(package(each.name, each.after, each.architecture) for each in changes.updated)]
    went = [*changes.removed, *(package(each.name, each.before, each.architecture) for each in changes.updated)]
    assert sorted(came) == sorted(set(new) - set(old))
    assert sorted(went) == sorted(set(old) - set(new))
    assert changes.unchanged == len(set(old) & set(new))
    back = compare(side("b", *new), side("a", *old))
    assert (back.added, back.removed) == (changes.removed, changes.added)
    assert all(update.before != update.after for update in changes.updated)
    assert changes.empty == (set(old) == set(new))
