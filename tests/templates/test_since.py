"""The changes of a build are written when it is built, and put together over several builds later."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from metalserve.templates.changes import CHANGES, side_of
from metalserve.templates.manifest import Manifest, file_entries
from metalserve.templates.packages import Package, write_tsv
from metalserve.templates.shelf import Build, Shelf
from metalserve.templates.since import changes_between, write_changes
from tests.templates.builds import make_build, make_keys, some_manifest

ENTRY = """\
openssl ({version}) {suite}; urgency=medium

  * {words}

 -- A <a@b.invalid>  Tue, 30 Sep 2025 20:46:53 +0200
"""


class Builder:
    def __init__(self, path: Path) -> None:
        self.path, self.shelf = path, Shelf(path / "shelf")
        self.key, _ = make_keys(path)
        self.number = 0
        self.log = ""

    def build(self, version: str, suite: str = "trixie", words: str = "nothing", tell: bool = True) -> Build:
        self.number += 1
        self.log = ENTRY.format(version=version, suite=suite, words=words) + self.log
        root, out = self.path / f"root-{self.number}", self.path / f"out-{self.number}"
        docs = root / "usr/share/doc/openssl"
        docs.mkdir(parents=True)
        if tell:
            (docs / "changelog.Debian.gz").write_bytes(gzip.compress(self.log.encode()))
        manifest = make_build(out, self.number)
        packages = [Package("openssl", version, "amd64", "openssl")]
        write_tsv(packages, out / "packages.tsv")
        write_changes(self.shelf, "debian-13", side_of(manifest, packages), root, out)
        return self.shelf.publish(out, self.again(out, manifest), key=self.key)

    def again(self, out: Path, manifest: Manifest) -> Manifest:
        return some_manifest(file_entries(out), manifest.raw, self.number)


def test_the_first_build_and_the_next(tmp_path: Path) -> None:
    builder = Builder(tmp_path)
    first = builder.build("1-1")
    data = json.loads((first.path / CHANGES).read_text())
    assert (data["before"], data["after"], len(data["added"])) == (None, first.build, 1)
    second = builder.build("1-2", "trixie-security", "CVE-2026-1111")
    data = json.loads((second.path / CHANGES).read_text())
    assert (data["before"], data["after"]) == (first.build, second.build)
    assert data["updated"][0]["cves"] == ["CVE-2026-1111"]


def test_what_was_known_is_put_together_over_several_builds(tmp_path: Path) -> None:
    builder = Builder(tmp_path)
    first = builder.build("1-1")
    builder.build("1-2", "trixie-security", "CVE-2026-1111")
    builder.build("1-3")
    last = builder.build("1-4", "trixie-security", "CVE-2026-2222")
    (update,) = changes_between(builder.shelf, first, last).updated
    assert (update.before, update.after, update.security) == ("1-1", "1-4", "yes")
    assert update.cves == ("CVE-2026-2222", "CVE-2026-1111")
    assert update.why == "its changelog says trixie-security"


def test_one_step_that_is_unknown_makes_the_whole_unknown(tmp_path: Path) -> None:
    builder = Builder(tmp_path)
    first = builder.build("1-1")
    builder.build("1-2", tell=False)
    last = builder.build("1-3")
    (update,) = changes_between(builder.shelf, first, last).updated
    assert update.security == "unknown"


def test_a_build_that_is_gone_leaves_it_unknown(tmp_path: Path) -> None:
    builder = Builder(tmp_path)
    first = builder.build("1-1")
    builder.shelf.promote("debian-13", first.build, "stable")
    builder.build("1-2")
    last = builder.build("1-3")
    builder.shelf.gc("debian-13", keep=1, yes=True)
    (update,) = changes_between(builder.shelf, first, last).updated
    assert (update.before, update.after, update.security) == ("1-1", "1-3", "unknown")
    assert changes_between(builder.shelf, None, last).added[0].version == "1-3"
