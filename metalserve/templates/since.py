"""The changes of a build against the one before it: written when it is built, read or put together later."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from metalserve.errors import MetalserveError
from metalserve.templates.changelogs import changelogs_of
from metalserve.templates.changes import CHANGES, Changes, Side, Update, compare, side_of
from metalserve.templates.manifest import read_small, write_whole
from metalserve.templates.offers import Offers, read_lists
from metalserve.templates.packages import TSV, read_tsv
from metalserve.templates.shelf import Build, Shelf

APT_LISTS = "var/lib/apt/lists"
_LARGEST = 16 << 20


def write_changes(shelf: Shelf, name: str, after: Side, root: Path, directory: Path, *, rpm: bool = False) -> Changes:
    """Write `changes.json` of a build that is about to be published, against the newest on the shelf that is readable.

    Args:
        shelf: where the builds before it are.
        name: of the template.
        after: the new build.
        root: its tree: changelogs, and the archive's indexes where they were not cleaned away yet.
        directory: where the file goes.
        rpm: versions are ordered as rpm orders them.

    Raises:
        MetalserveError: the file cannot be written.
    """
    changes = compare(_newest(shelf, name), after, offers=_offers(root), changelog=changelogs_of(root), rpm=rpm)
    write_whole(directory / CHANGES, changes.content())
    return changes


def _newest(shelf: Shelf, name: str) -> Side | None:
    for build in reversed(shelf.builds(name)):
        try:
            return _side(build)
        except MetalserveError:  # a damaged build is what `verify` is for; it must not keep a good one from being made
            continue
    return None


def _offers(root: Path) -> Offers | None:
    try:
        return read_lists(root / APT_LISTS)
    except MetalserveError:  # an rpm tree, or indexes that are gone: then only changelogs tell
        return None


def changes_between(shelf: Shelf, before: Build | None, after: Build) -> Changes:
    """Return what changed between two published builds of a template, neither of which is verified.

    What is known of security comes from the `changes.json` of every build from the one to the other: the tree and the
    archive that told are gone.

    Raises:
        MetalserveError: a build cannot be read.
    """
    rpm = after.manifest.os.distribution == "rocky"
    changes = compare(_side(before) if before else None, _side(after), rpm=rpm)
    if before is None:
        return changes
    steps = [each for each in shelf.builds(after.name) if before.build < each.build <= after.build]
    recorded = [update for step in steps for update in _recorded(step)]
    return replace(changes, updated=tuple(_judged(update, recorded) for update in changes.updated))


def _side(build: Build) -> Side:
    return side_of(build.manifest, read_tsv(build.path / TSV))


def _recorded(build: Build) -> list[Update]:
    try:
        data: Any = json.loads(read_small(build.path / CHANGES, _LARGEST))
        return [Update(**{**each, "cves": tuple(each["cves"])}) for each in data["updated"]]
    except (MetalserveError, ValueError, KeyError, TypeError):
        return []


def _judged(update: Update, recorded: Iterable[Update]) -> Update:
    mine = [each for each in recorded if (each.name, each.architecture) == (update.name, update.architecture)]
    if update.downgrade or not mine or mine[0].before != update.before or mine[-1].after != update.after:
        return update  # a build between the two is gone, or had no such package: what was known is not whole
    cves = tuple(dict.fromkeys(cve for each in reversed(mine) for cve in each.cves))
    for security in ("yes", "unknown"):
        for each in mine:
            if each.security == security:
                return replace(update, security=each.security, why=each.why, cves=cves)
    return replace(update, security="no", why=mine[-1].why, cves=cves)
