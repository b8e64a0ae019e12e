"""Whether a build is stale, and why: the archive has moved on, the release or a role changed, or it is old.

The decision is pure (`judge`); `look` gathers what it needs from the shelf, the checkout and the archive.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from metalserve.errors import MetalserveError
from metalserve.templates.archive import keyring_of, mirrors_for, read_archive
from metalserve.templates.inputs import BESIDE_ROLES, release_digest, role_digests, spec_digest
from metalserve.templates.manifest import Manifest
from metalserve.templates.offers import Offers, ask_for_offers
from metalserve.templates.packages import TSV, Package, read_tsv
from metalserve.templates.shelf import Shelf
from metalserve.templates.spec import TemplateSpec
from metalserve.templates.versions import compare_debian

Kind = Literal["missing", "kernel", "security", "update", "repository", "release", "role", "specification", "age"]
State = Literal["fresh", "stale", "unknown"]
_NAMED = 5
"""Packages that a reason names before the rest is counted."""


@dataclass(frozen=True)
class Reason:
    """One reason to rebuild.

    Attributes:
        kind: what sort of.
        what: in words.
    """

    kind: Kind
    what: str


@dataclass(frozen=True)
class Staleness:
    """What is known of the newest build of a template.

    Attributes:
        name: of the template.
        build: the newest build, or None.
        reasons: why it is stale.
        notes: what should be known and is no reason.
        unknown: what could not be found out; without a reason, the build is then not called fresh.
    """

    name: str
    build: str | None
    reasons: tuple[Reason, ...] = ()
    notes: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    @property
    def state(self) -> State:
        """Stale with any reason; fresh only when everything was looked at."""
        if self.reasons:
            return "stale"
        return "unknown" if self.unknown else "fresh"

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return {**asdict(self), "state": self.state}


@dataclass(frozen=True)
class Now:
    """What a build begun now would be made of.

    Attributes:
        spec: digest of the specification.
        roles: digests of the roles and of what they use.
        release_name: name of the release.
        release: digest of its content.
        kernel: the kernel's package, or None where the specification names files.
        offers: what the archive offers; None where it could not be asked, or its packages cannot be compared.
        suites: suite or repository -> digest of its index now; empty where it could not be asked.
        unknown: what could not be found out, and why.
    """

    spec: str
    roles: Mapping[str, str]
    release_name: str
    release: str
    kernel: str | None
    offers: Offers | None = None
    suites: Mapping[str, str] | None = None
    unknown: tuple[str, ...] = ()


def judge(
    manifest: Manifest, packages: Iterable[Package], now: Now, *, today: datetime, days: int, updates: bool = False
) -> Staleness:
    """Tell whether a build is stale.

    Args:
        manifest: of the build.
        packages: that it has.
        now: what a new build would be made of.
        today: the time, with its time zone.
        days: age in days from which on a build is stale whatever it is made of.
        updates: any newer package is a reason; otherwise only security updates and the kernel are.
    """
    reasons: list[Reason] = []
    if manifest.inputs.spec != now.spec:
        reasons.append(Reason("specification", "its specification changed"))
    if manifest.release != now.release_name:
        reasons.append(Reason("release", f"its release is {now.release_name} now, it was {manifest.release}"))
    elif manifest.inputs.release != now.release:
        reasons.append(Reason("release", f"the content of release {now.release_name} changed"))
    reasons += [Reason("role", words) for words in _roles(manifest.inputs.roles, now.roles)]
    notes: list[str] = []
    if now.offers is not None:
        of_packages, notes = _packages(list(packages), now.offers, now.kernel, updates)
        reasons += of_packages
    elif now.suites is not None:
        moved = [name for name, digest in sorted(now.suites.items()) if manifest.inputs.suites.get(name) != digest]
        if moved:
            reasons.append(Reason("repository", f"{', '.join(moved)} changed; packages of rpm are not compared"))
    age = today - datetime.strptime(manifest.created, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    if age.days >= days:
        reasons.append(Reason("age", f"it is {age.days} days old, and {days} are allowed"))
    return Staleness(manifest.name, manifest.build, tuple(reasons), tuple(notes), now.unknown)


def _roles(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    words = []
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) == after.get(name):
            continue
        what = f"{name} of the roles" if name in BESIDE_ROLES else f"role {name}"
        words.append(
            f"{what} {'changed' if name in before and name in after else 'is new' if name in after else 'left'}"
        )
    return words


def _packages(
    packages: list[Package], offers: Offers, kernel: str | None, updates: bool
) -> tuple[list[Reason], list[str]]:
    newest, secure = offers.newest(), offers.newest_security()
    kernel_name = (kernel or "").split("/")[0]
    kernels, holes, rest, elsewhere = [], [], [], 0
    for package in packages:
        key = (package.name, package.architecture)
        if key not in newest:
            elsewhere += 1
            continue
        version, _ = newest[key]
        if compare_debian(version, package.version) <= 0:
            continue
        closes = key in secure and compare_debian(secure[key], package.version) > 0
        words = f"{package.name} {package.version} -> {version}"
        if package.name == kernel_name:
            kernels.append(f"{words}{', which closes holes' if closes else ''}")
        elif closes:
            holes.append(words)
        else:
            rest.append(words)
    reasons = [Reason("kernel", f"new kernel: {words}") for words in kernels]
    if holes:
        reasons.append(Reason("security", f"{len(holes)} security updates: {_few(holes)}"))
    notes = []
    if rest and updates:
        reasons.append(Reason("update", f"{len(rest)} other updates: {_few(rest)}"))
    elif rest:
        notes.append(f"{len(rest)} updates that are not of security: {_few(rest)}")
    if elsewhere:
        notes.append(f"{elsewhere} packages are in none of the distribution's suites and were not compared")
    return reasons, notes


def _few(words: list[str]) -> str:
    more = len(words) - _NAMED
    return ", ".join(words[:_NAMED]) + (f" and {more} more" if more > 0 else "")


Ask = Callable[[TemplateSpec], tuple[Offers | None, Mapping[str, str]]]
"""Asks the archive of a specification: what it offers (None for rpm), and the digests of its indexes."""


def ask_archive(spec: TemplateSpec) -> tuple[Offers | None, Mapping[str, str]]:
    """Ask the archive that a build would read from; raises MetalserveError when it does not answer."""
    mirrors = mirrors_for(spec.os)
    if spec.os.family == "dnf":
        return None, read_archive(spec.os, mirrors).suites
    lines = mirrors.sources(spec.os.codename, spec.os.components, keyring_of(spec.os))
    with tempfile.TemporaryDirectory(prefix="metalserve-offers-") as scratch:
        offers = ask_for_offers(lines, spec.architecture, Path(scratch))
    return offers, offers.suites


def look(
    spec: TemplateSpec,
    shelf: Shelf,
    *,
    days: int,
    updates: bool = False,
    today: datetime | None = None,
    ask: Ask = ask_archive,
) -> Staleness:
    """Tell whether the newest build of a template is stale.

    The tool root does not count: newer tools make no better image.

    Args:
        spec: the template.
        shelf: where its builds are.
        days: age in days from which on a build is stale.
        updates: any newer package is a reason.
        today: the time; now unless given.
        ask: asks the archive.

    Raises:
        MetalserveError: the build on the shelf cannot be read.
    """
    builds = shelf.builds(spec.name)
    if not builds:
        return Staleness(spec.name, None, (Reason("missing", "it has no build"),))
    newest = builds[-1]
    offers, suites = None, None
    unknown: tuple[str, ...] = ()
    try:
        offers, suites = ask(spec)
    except MetalserveError as error:
        unknown = (f"the archive could not be asked: {error}",)
    now = Now(
        spec=spec_digest(spec),
        roles=role_digests(spec.roles),
        release_name=spec.release,
        release=release_digest(spec.release),
        kernel=spec.kernel.package,
        offers=offers,
        suites=suites,
        unknown=unknown,
    )
    installed = read_tsv(newest.path / TSV)
    return judge(newest.manifest, installed, now, today=today or datetime.now(UTC), days=days, updates=updates)
