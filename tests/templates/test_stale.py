"""A build is stale for reasons that are told, fresh only when all was looked at, and unknown otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from metalserve.errors import MetalserveError
from metalserve.templates.inputs import release_digest, role_digests, spec_digest
from metalserve.templates.manifest import FileEntry
from metalserve.templates.offers import Offers
from metalserve.templates.packages import Package
from metalserve.templates.shelf import Shelf
from metalserve.templates.spec import TemplateSpec, load_spec
from metalserve.templates.stale import Now, Staleness, judge, look
from tests.templates.builds import BEGIN, DIGEST, make_build, make_keys, some_manifest

OTHER = "f" * 64
RAW = FileEntry(size=1, sha256=DIGEST)
MANIFEST = some_manifest({"disk.raw.zst": RAW}, RAW)
PACKAGES = (
    Package("bash", "5.2-3", "amd64", "bash"),
    Package("linux-image-amd64", "6.12.57-1", "amd64", "linux-signed-amd64"),
    Package("nvidia-driver", "580.65-1", "amd64", "nvidia"),
    Package("openssl", "3.5.1-1", "amd64", "openssl"),
)
SAME = {(each.name, each.version, each.architecture): ("trixie",) for each in PACKAGES if each.name != "nvidia-driver"}
NOW = Now(
    spec=DIGEST,
    roles={"base": DIGEST, "nvidia_driver": DIGEST},
    release_name="2026.11-production",
    release=DIGEST,
    kernel="linux-image-amd64/trixie",
    offers=Offers({}, SAME),
    suites={},
)


def judged(now: Now = NOW, *, today: datetime = BEGIN + timedelta(days=3), updates: bool = False) -> Staleness:
    return judge(MANIFEST, PACKAGES, now, today=today, days=30, updates=updates)


def offering(packages: Mapping[tuple[str, str, str], tuple[str, ...]]) -> Now:
    return replace(NOW, offers=Offers({}, {**SAME, **packages}))


def test_what_is_as_it_would_be_built_now_is_fresh() -> None:
    found = judged()
    assert found.state == "fresh"
    assert found.reasons == ()
    assert found.notes == ("1 packages are in none of the distribution's suites and were not compared",)


@pytest.mark.parametrize(
    ("now", "kind", "words"),
    [
        (replace(NOW, spec=OTHER), "specification", "its specification changed"),
        (replace(NOW, release=OTHER), "release", "the content of release 2026.11-production changed"),
        (replace(NOW, release_name="next"), "release", "its release is next now, it was 2026.11-production"),
        (replace(NOW, roles={**NOW.roles, "base": OTHER}), "role", "role base changed"),
        (replace(NOW, roles={**NOW.roles, "cuda": OTHER}), "role", "role cuda is new"),
        (replace(NOW, roles={"base": DIGEST}), "role", "role nvidia_driver left"),
        (
            offering({("linux-image-amd64", "6.12.60-1", "amd64"): ("trixie",)}),
            "kernel",
            "new kernel: linux-image-amd64 6.12.57-1 -> 6.12.60-1",
        ),
        (
            offering({("linux-image-amd64", "6.12.60-1", "amd64"): ("trixie-security",)}),
            "kernel",
            "new kernel: linux-image-amd64 6.12.57-1 -> 6.12.60-1, which closes holes",
        ),
        (
            offering({("openssl", "3.5.1-1+deb13u1", "amd64"): ("trixie-security",)}),
            "security",
            "1 security updates: openssl 3.5.1-1 -> 3.5.1-1+deb13u1",
        ),
        (
            replace(NOW, offers=None, suites={"BaseOS": OTHER}),
            "repository",
            "BaseOS changed; packages of rpm are not compared",
        ),
    ],
)
def test_each_reason_is_told(now: Now, kind: str, words: str) -> None:
    found = judged(now)
    assert found.state == "stale"
    assert [(reason.kind, reason.what) for reason in found.reasons] == [(kind, words)]


def test_a_hole_that_a_still_newer_update_closes_as_well_counts() -> None:
    now = offering(
        {
            ("openssl", "3.5.1-1+deb13u1", "amd64"): ("trixie-security",),
            ("openssl", "3.5.2-1", "amd64"): ("trixie-updates",),
        }
    )
    assert [reason.what for reason in judged(now).reasons] == ["1 security updates: openssl 3.5.1-1 -> 3.5.2-1"]


def test_an_ordinary_update_is_a_note_unless_it_is_asked_for() -> None:
    now = offering({("bash", "5.2-4", "amd64"): ("trixie",), ("bash", "5.2-3", "arm64"): ("trixie-security",)})
    found = judged(now)
    assert found.state == "fresh"
    assert found.notes[0] == "1 updates that are not of security: bash 5.2-3 -> 5.2-4"
    assert [reason.kind for reason in judged(now, updates=True).reasons] == ["update"]


def test_an_older_offer_is_no_reason() -> None:
    older = {("openssl", "3.5.0-1", "amd64"): ("trixie-security",)}
    assert judged(offering(older)).state == "fresh"


def test_age_alone_makes_it_stale() -> None:
    assert judged(today=BEGIN + timedelta(days=29, hours=23)).state == "fresh"
    found = judged(today=BEGIN + timedelta(days=30))
    assert [reason.what for reason in found.reasons] == ["it is 30 days old, and 30 are allowed"]


def test_what_could_not_be_asked_is_never_fresh() -> None:
    now = replace(NOW, offers=None, suites=None, unknown=("the archive could not be asked",))
    assert judged(now).state == "unknown"
    assert judged(replace(now, spec=OTHER)).state == "stale"


def test_many_updates_are_counted() -> None:
    packages = [Package(f"lib{number}", "1-1", "amd64", "lib") for number in range(9)]
    offers = Offers({}, {(each.name, "1-2", "amd64"): ("trixie-security",) for each in packages})
    found = judge(MANIFEST, packages, replace(NOW, offers=offers), today=BEGIN, days=30)
    assert found.reasons[0].what.startswith("9 security updates: lib0 1-1 -> 1-2, ")
    assert found.reasons[0].what.endswith(" and 4 more")


class Shop:
    """A shelf with one build of a real specification."""

    def __init__(self, path: Path) -> None:
        self.spec = load_spec("debian-13")
        self.shelf = Shelf(path / "shelf")
        key, _ = make_keys(path)
        manifest = make_build(
            path / "work",
            spec=spec_digest(self.spec),
            roles=role_digests(self.spec.roles),
            release=release_digest(self.spec.release),
        ).model_copy(update={"release": self.spec.release})
        self.shelf.publish(path / "work", manifest, key=key)

    def look(self, *, fails: bool = False, spec: TemplateSpec | None = None) -> Staleness:
        def ask(_spec: TemplateSpec) -> tuple[Offers | None, Mapping[str, str]]:
            if fails:
                raise MetalserveError("no answer", where="archive")
            return Offers({}, {("bash", "5.2-3", "amd64"): ("trixie",)}), {}

        return look(spec or self.spec, self.shelf, days=30, today=BEGIN + timedelta(days=1), ask=ask)


def test_a_build_of_this_very_checkout_is_fresh(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    assert shop.look().as_dict() == {
        "name": "debian-13",
        "build": shop.shelf.build("debian-13").build,
        "state": "fresh",
        "reasons": (),
        "notes": (),
        "unknown": (),
    }
    changed = shop.spec.model_copy(update={"packages": [*shop.spec.packages, "htop"]})
    assert [reason.kind for reason in shop.look(spec=changed).reasons] == ["specification"]


def test_an_archive_that_does_not_answer_leaves_it_unknown(tmp_path: Path) -> None:
    found = Shop(tmp_path).look(fails=True)
    assert found.state == "unknown"
    assert found.unknown == ("the archive could not be asked: archive: no answer",)


def test_a_template_without_a_build_is_stale(tmp_path: Path) -> None:
    found = look(load_spec("debian-13"), Shelf(tmp_path), days=30)
    assert (found.state, found.build, found.reasons[0].kind) == ("stale", None, "missing")
