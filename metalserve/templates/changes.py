"""What changed from one build of a template to the next, and which updates of packages close holes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from metalserve.templates.changelogs import Entry
from metalserve.templates.manifest import BaseSystem, Inputs, Kernel, Manifest
from metalserve.templates.offers import Offers, is_security
from metalserve.templates.packages import Package
from metalserve.templates.versions import Order, compare_debian, compare_rpm

Security = Literal["yes", "no", "unknown"]
"""Whether an update closes a hole; `unknown` where neither the archive nor a changelog could be read."""

Changelog = Callable[[Package], list[Entry] | None]
"""Returns the entries of a package's changelog, newest first, or None when it is not there."""

CHANGES = "changes.json"


@dataclass(frozen=True)
class Side:
    """One of the two builds that are compared.

    Attributes:
        build: name of the build.
        parts: what else it is made of, see `parts_of`.
        packages: what is installed.
    """

    build: str
    parts: Mapping[str, str]
    packages: tuple[Package, ...]


@dataclass(frozen=True)
class Update:
    """A package that is there in another version.

    Attributes:
        security: whether it closes a hole.
        why: how that is known.
        cves: the CVEs that its changelog names between the two versions.
    """

    name: str
    architecture: str
    before: str
    after: str
    downgrade: bool
    security: Security
    why: str
    cves: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """Something other than a package that changed; a digest is shortened."""

    part: str
    before: str
    after: str


@dataclass(frozen=True)
class Changes:
    """All that changed. `before` is None for the first build of a template."""

    before: str | None
    after: str
    parts: tuple[Part, ...] = ()
    added: tuple[Package, ...] = ()
    removed: tuple[Package, ...] = ()
    updated: tuple[Update, ...] = ()
    unchanged: int = field(default=0)

    @property
    def security(self) -> tuple[Update, ...]:
        """The updates that close a hole."""
        return tuple(update for update in self.updated if update.security == "yes")

    @property
    def empty(self) -> bool:
        """Nothing changed."""
        return not (self.parts or self.added or self.removed or self.updated)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return {"schema": 1, **asdict(self)}

    def content(self) -> bytes:
        """Return what is written to `changes.json`."""
        return (json.dumps(self.as_dict(), indent=1) + "\n").encode()


def parts_of(
    base: BaseSystem, architecture: str, kernel: Kernel, release: str, inputs: Inputs, epoch: int
) -> dict[str, str]:
    """Return what a build is made of beside its packages, by the names that people read."""
    return {
        "distribution": f"{base.distribution} {base.release} {architecture}",
        "kernel": kernel.version,
        "release": release,
        "content of the release": inputs.release[:12],
        "specification": inputs.spec[:12],
        "tool root": inputs.tools[:12],
        "source date epoch": str(epoch),
        **{_part_of_role(name): digest[:12] for name, digest in sorted(inputs.roles.items())},
    }


def _part_of_role(name: str) -> str:
    return (
        f"role {name}" if name.isidentifier() and name not in ("library", "catalogue", "files") else f"{name} of roles"
    )


def side_of(manifest: Manifest, packages: Iterable[Package]) -> Side:
    """Return a finished build as one side of a comparison."""
    of = manifest
    parts = parts_of(of.os, of.architecture, of.kernel, of.release, of.inputs, of.source_date_epoch)
    return Side(manifest.build, parts, tuple(packages))


def compare(
    before: Side | None,
    after: Side,
    *,
    offers: Offers | None = None,
    changelog: Changelog = lambda _package: None,
    rpm: bool = False,
) -> Changes:
    """Return what changed.

    Args:
        before: the build before; None when there is none.
        after: the newer build.
        offers: what the suites offered when `after` was built; tells which updates came from a security suite.
        changelog: changelogs of the packages of `after`.
        rpm: versions are ordered as rpm orders them.
    """
    if before is None:
        return Changes(None, after.build, added=tuple(sorted(after.packages)))
    order = compare_rpm if rpm else compare_debian
    old, new = _by_key(before.packages), _by_key(after.packages)
    added, removed, updated, unchanged = [], [], [], 0
    for key in sorted(old.keys() | new.keys()):
        gone, come = _less(old.get(key, []), new.get(key, [])), _less(new.get(key, []), old.get(key, []))
        unchanged += len(new.get(key, [])) - len(come)
        if len(gone) == len(come) == 1:
            updated.append(_update(gone[0], come[0], order, offers, changelog))
        else:  # several versions side by side, as kernels of rpm are
            removed += gone
            added += come
    names = {**before.parts, **after.parts}
    parts = [Part(name, before.parts.get(name, "-"), after.parts.get(name, "-")) for name in names]
    changed = tuple(part for part in parts if part.before != part.after)
    return Changes(before.build, after.build, changed, tuple(added), tuple(removed), tuple(updated), unchanged)


def _by_key(packages: Iterable[Package]) -> dict[tuple[str, str], list[Package]]:
    found: dict[tuple[str, str], list[Package]] = {}
    for package in sorted(packages):
        found.setdefault((package.name, package.architecture), []).append(package)
    return found


def _less(packages: list[Package], others: list[Package]) -> list[Package]:
    versions = {other.version for other in others}
    return [package for package in packages if package.version not in versions]


def _update(
    before: Package, after: Package, order: Callable[[str, str], Order], offers: Offers | None, changelog: Changelog
) -> Update:
    downgrade = order(after.version, before.version) < 0
    entries = changelog(after)
    lately = [entry for entry in entries or () if order(entry.version, before.version) > 0]
    cves = tuple(dict.fromkeys(cve for entry in lately for cve in entry.cves))
    origin = offers.origin(after.name, after.version, after.architecture) if offers else None
    security, why = _judge(downgrade, origin, entries is not None, lately, cves)
    return Update(after.name, after.architecture, before.version, after.version, downgrade, security, why, cves)


def _judge(
    downgrade: bool, origin: str | None, readable: bool, lately: list[Entry], cves: tuple[str, ...]
) -> tuple[Security, str]:
    if downgrade:
        return "no", "an older version"
    if origin is not None and is_security(origin):
        return "yes", f"from {origin}"
    suite = next((entry.suite for entry in lately if is_security(entry.suite)), None)
    if suite is not None:
        return "yes", f"its changelog says {suite}"
    if cves:
        return "yes", "its changelog names CVEs"
    if readable:
        return "no", "its changelog names none"
    # a point release takes security updates over into the main suite: that it is from there says nothing
    return "unknown", "no changelog" if origin is None else f"from {origin}, no changelog"
