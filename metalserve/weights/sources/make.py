"""Makes a manifest of a source, and holds one against its source again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from metalserve.weights.agent.web import SourceError
from metalserve.weights.manifest import (
    MadeFrom,
    Manifest,
    ManifestError,
    ManifestFile,
    checked,
    content_revision,
    path_problem,
)
from metalserve.weights.sources.directory import DirectoryOrigin
from metalserve.weights.sources.hashing import each, hash_all
from metalserve.weights.sources.http_mirror import HttpOrigin
from metalserve.weights.sources.hub import HubOrigin
from metalserve.weights.sources.oci import OciOrigin
from metalserve.weights.sources.origin import Access, Advance, Found, Gone, Listing, Origin
from metalserve.weights.sources.s3 import S3Origin
from metalserve.weights.sources.selection import Selection, choose


@dataclass(frozen=True, slots=True)
class Wish:
    """What a manifest is to be made of.

    Attributes:
        origin: kind, source, what was asked for, how to list, which files.
        repository: ORGANISATION/NAME.
        revision: of hubs: branch, tag or commit; of others: the commit, or empty for `content_revision`.
        names: of HTTP mirrors listed by name.
        access: the secret.
    """

    origin: MadeFrom
    repository: str
    revision: str = ""
    names: Sequence[str] = ()
    access: Access = field(default_factory=Access)


@dataclass(frozen=True, slots=True)
class Made:
    """A manifest, and what the user should know of how it was made.

    Attributes:
        manifest: it.
        left_out: reason -> paths.
        fetched: files whose bytes were read to hash them.
        notes: in words.
    """

    manifest: Manifest
    left_out: dict[str, list[str]]
    fetched: int
    notes: list[str]


def origin_of(wish: Wish) -> Origin:
    """Return the source that a wish names; raises ManifestError when its name is not of the right form."""
    made = wish.origin
    if made.kind == "hub":
        return HubOrigin(wish.repository, wish.revision or made.asked, made.source, wish.access)
    if made.kind == "http":
        return HttpOrigin(made.source, made.listing, wish.names, wish.access)
    if made.kind == "s3":
        return S3Origin(made.source, made.region, wish.access)
    if made.kind == "oci":
        return OciOrigin(made.source, made.asked, wish.access)
    return DirectoryOrigin(made.source)


Begin = Callable[[int | None, int], Advance]
"""Is told bytes (None: not known) and number of the files that are going to be hashed; returns what counts them."""


def make(wish: Wish, begin: Begin, *, gone_is_fine: bool = False) -> Made:
    """Make a manifest.

    Args:
        wish: of what.
        begin: is told what is going to be hashed.
        gone_is_fine: leave out what the source lists and does not have, instead of failing.

    Raises:
        ManifestError: the source refuses, has not what it should, or names a file outside of the model's directory.
    """
    origin = origin_of(wish)
    try:
        listing = origin.listing()
        chosen = choose(listing.files, Selection(wish.origin.include, wish.origin.exclude))
        _refuse_names(chosen.files, listing.source)
        if not chosen.files:
            raise ManifestError("no file is left of what it has", where=listing.source, remedy="see --include")
        settled = each(chosen.files, lambda found: _settled(origin, found, gone_is_fine))
        files = [found for found in settled if found is not None]
        unknown = [found for found in files if not found.known]
        sizes = [found.size for found in unknown]
        total = sum(size for size in sizes if size is not None) if None not in sizes else None
        files = hash_all(origin, files, begin(total, len(unknown)))
    except SourceError as error:
        wish.access.explain(error)
    return Made(_manifest(wish, listing, files), chosen.left_out, len(unknown), [*listing.notes, *chosen.notes])


def _manifest(wish: Wish, listing: Listing, files: Sequence[Found]) -> Manifest:
    rows = [{"path": found.path, "size": found.size, "sha256": found.sha256} for found in files]
    how = {**wish.origin.model_dump(), "source": listing.source, "asked": listing.asked, "listing": listing.listing}
    data = {"repository": wish.repository, "revision": "0" * 40, "made_from": how, "files": rows}
    made = checked(data, listing.source)
    revision = listing.commit or wish.revision or content_revision(made.files)
    return checked({**data, "revision": revision}, listing.source)


def _settled(origin: Origin, found: Found, gone_is_fine: bool) -> Found | None:
    try:
        return origin.settled(found)
    except Gone:
        if not gone_is_fine:
            raise
        return None


def _refuse_names(files: Sequence[Found], where: str) -> None:
    seen: set[str] = set()
    for found in files:
        if wrong := path_problem(found.path):
            raise ManifestError(f"the file {found.path[:200]!r} {wrong}", where=where)
        if found.path in seen:
            raise ManifestError(f"{found.path!r} is there twice", where=where)
        seen.add(found.path)


@dataclass(frozen=True, slots=True)
class Difference:
    """How a source differs from a manifest.

    Attributes:
        files: path -> what is different, in words.
        moved_to: what the branch or tag stands for now, when it is something else than the manifest has.
    """

    files: dict[str, str]
    moved_to: str = ""


def compare(manifest: Manifest, wish: Wish, begin: Begin) -> Difference:
    """Hold a manifest against its source.

    Raises:
        ManifestError: the source refuses, or the pinned revision is gone.
    """
    now = make(wish, begin, gone_is_fine=True).manifest
    pinned = (manifest.revision, wish.origin.source.partition("@")[2])
    moved = _stands_for(wish) if wish.origin.asked else ""
    return Difference(_differences(manifest.files, now.files), "" if moved in pinned else moved)


def _stands_for(wish: Wish) -> str:
    made = wish.origin
    try:
        if made.kind == "hub":
            return HubOrigin(wish.repository, made.asked, made.source, wish.access).current()
        return OciOrigin(made.source, made.asked, wish.access).current() if made.kind == "oci" else ""
    except Gone:
        return "nothing, it is gone"


def _differences(ours: Sequence[ManifestFile], theirs: Sequence[ManifestFile]) -> dict[str, str]:
    before, after = {file.path: file for file in ours}, {file.path: file for file in theirs}
    found: dict[str, str] = {}
    for path in sorted(before.keys() | after.keys()):
        if path not in after:
            found[path] = "is gone from the source"
        elif path not in before:
            found[path] = "is new at the source"
        elif after[path].size != before[path].size:
            found[path] = f"has {after[path].size} bytes at the source instead of {before[path].size}"
        elif after[path].sha256 != before[path].sha256:
            found[path] = f"hashes to {after[path].sha256} at the source instead of {before[path].sha256}"
    return found


__all__ = ["Begin", "Difference", "Made", "Wish", "compare", "make", "origin_of"]
