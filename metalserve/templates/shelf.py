"""The shelf: finished builds of templates, published by one rename, and the channels that point at them.

SHELF/NAME/BUILD/           a build; it is there whole or not at all, and never changes
SHELF/NAME/candidate        symlink to BUILD, as is `stable`
SHELF/NAME/.lock            held by whoever publishes, promotes or removes
SHELF/NAME/.gone-*          a build that is being removed; the next run finishes that
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from metalserve.templates.manifest import (
    BUILD,
    MANIFEST,
    NAME,
    SIGNATURE,
    Manifest,
    TemplateError,
    checked_build,
    checked_name,
    read_small,
)
from metalserve.templates.shelf_files import (
    NEW_LINK,
    check_listing,
    in_use,
    is_at,
    open_directory,
    size_on_disk,
    sync,
    take_away,
    tidy,
)
from metalserve.templates.signing import sign

Channel = Literal["candidate", "stable"]
CHANNELS: tuple[Channel, ...] = get_args(Channel)
LATEST = "latest"
"""Stands for the newest build of a template."""


@dataclass(frozen=True)
class Build:
    """A published build.

    Attributes:
        name: of the template.
        build: of the build.
        path: its directory.
        channels: the channels that point at it.
    """

    name: str
    build: str
    path: Path
    channels: tuple[Channel, ...] = ()

    @property
    def manifest(self) -> Manifest:
        """The manifest, read now and not verified; raises TemplateError when it is refused."""
        return Manifest.load(self.path / MANIFEST)

    @contextmanager
    def hold(self) -> Iterator[Path]:
        """Keep the build from being removed while it is in use, and give its directory.

        Raises:
            TemplateError: it is no longer there.
        """
        descriptor = open_directory(self.path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            if not is_at(descriptor, self.path):
                raise TemplateError("was removed a moment ago", where=f"{self.name}/{self.build}")
            yield self.path
        finally:
            os.close(descriptor)


@dataclass(frozen=True)
class Removal:
    """What a clearing of a template's builds did, or would do.

    Attributes:
        name: of the template.
        removed: builds that went (or would go).
        kept: build -> why it stays.
        freed: bytes of those that went.
    """

    name: str
    removed: tuple[str, ...]
    kept: dict[str, str] = field(default_factory=dict)
    freed: int = 0


class Shelf:
    """The builds below one directory.

    Args:
        path: the directory; it is made when the first build is published.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> list[str]:
        """Return the templates that have a build or had one, in order."""
        if not self.path.is_dir():
            return []
        return sorted(
            entry.name
            for entry in os.scandir(self.path)
            if NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
        )

    def builds(self, name: str) -> list[Build]:
        """Return all builds of a template, oldest first."""
        home = self.path / checked_name(name)
        if home.is_symlink() or not home.is_dir():
            return []
        at = self.channels(name)
        found = sorted(
            entry.name
            for entry in os.scandir(home)
            if BUILD.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
        )
        return [Build(name, build, home / build, tuple(c for c in CHANNELS if at.get(c) == build)) for build in found]

    def build(self, name: str, which: str = LATEST) -> Build:
        """Return one build of a template.

        Args:
            name: of the template.
            which: the name of a build, a channel, or "latest".

        Raises:
            TemplateError: there is no such template, build or channel.
        """
        builds = self.builds(name)
        if which in CHANNELS or which == LATEST:
            wanted = self.channels(name).get(which, "") if which != LATEST else builds[-1].build if builds else ""
        else:
            wanted = checked_build(which)
        for each in builds:
            if each.build == wanted:
                return each
        if not builds:
            raise TemplateError("has no build", where=name, remedy=f"`metalserve template build {name}`")
        if which in CHANNELS and not wanted:
            raise TemplateError(f"has no {which} build", where=name, remedy=f"`metalserve template promote {name}`")
        raise TemplateError(f"has no build {wanted}", where=name, remedy=f"`metalserve template list {name}` shows all")

    def channels(self, name: str) -> dict[str, str]:
        """Return channel -> build of a template.

        Raises:
            TemplateError: a channel is no symlink to the name of a build.
        """
        found: dict[str, str] = {}
        for channel in CHANNELS:
            link = self.path / checked_name(name) / channel
            try:
                target = os.readlink(link)
            except FileNotFoundError:
                continue
            except OSError:
                target = ""
            if not BUILD.fullmatch(target):
                raise TemplateError("is no link to a build", where=str(link), remedy="remove it, and promote a build")
            found[channel] = target
        return found

    def publish(self, directory: Path, manifest: Manifest, *, key: Path | None = None) -> Build:
        """Publish a finished build: it appears on the shelf by one rename, whole and on the disk.

        Args:
            directory: holds the files that the manifest lists and nothing else, on the shelf's file system; it moves.
            manifest: of the build; it is written when `key` is given, else it must be there, and its signature too.
            key: secret key to sign with.

        Raises:
            TemplateError: the directory is not what the manifest says, is not signed, or the build exists already.
        """
        if key is not None:
            manifest.write(directory / MANIFEST)
            sign(directory, key)
        elif read_small(directory / MANIFEST) != manifest.content():
            raise TemplateError("is not the manifest of this build", where=str(directory / MANIFEST))
        check_listing(directory, manifest)
        for path in directory.iterdir():
            sync(path)
        sync(directory)
        with self._locked(manifest.name) as home:
            target = home / manifest.build
            if os.path.lexists(target):  # a rename onto an empty directory would replace it
                raise TemplateError("is on the shelf already", where=f"{manifest.name}/{manifest.build}")
            try:
                os.rename(directory, target)
            except OSError as error:
                hint = (
                    "the shelf must be on the file system of the work directory" if error.errno == errno.EXDEV else None
                )
                raise TemplateError(
                    f"cannot be published: {error.strerror}", where=str(directory), remedy=hint
                ) from error
            sync(home)
        return self.build(manifest.name, manifest.build)

    def promote(self, name: str, which: str | None = None, channel: Channel = "stable") -> Build:
        """Point a channel at a build.

        Args:
            name: of the template.
            which: a build, a channel or "latest"; when not given: for `stable` the candidate, else the newest.
            channel: the channel that moves.

        Raises:
            TemplateError: there is no such build, or it is not signed.
        """
        with self._locked(name) as home:
            found = self.build(name, which or ("candidate" if channel == "stable" else LATEST))
            if not (found.path / SIGNATURE).is_file():
                raise TemplateError("is not signed", where=f"{name}/{found.build}")
            link = home / f"{NEW_LINK}{secrets.token_hex(8)}"
            os.symlink(found.build, link)
            os.replace(link, home / channel)
            sync(home)
            return self.build(name, found.build)

    def gc(self, name: str, *, keep: int = 3, needed: Iterable[str] = (), yes: bool = False) -> Removal:
        """Remove old builds of a template; never the newest, those of a channel, those in use or needed.

        Args:
            name: of the template.
            keep: newest builds that stay, at least 1.
            needed: further builds that stay, since an order is about to install them.
            yes: remove; otherwise only tell what would go.
        """
        if keep < 1:
            raise TemplateError("the newest build always stays: at least 1", where="keep")
        if not (self.path / checked_name(name)).is_dir():
            raise TemplateError("has no build", where=name)
        with self._locked(name) as home:
            builds, wanted = self.builds(name), set(needed)
            newest = {each.build for each in builds[-keep:]}
            kept, removed, freed = {}, [], 0
            for each in builds:
                reason = ", ".join(each.channels) or ("an order names it" if each.build in wanted else "")
                if each.build == builds[-1].build:
                    reason = ", ".join(filter(None, (reason, "newest")))
                elif each.build in newest:
                    reason = reason or f"one of the {keep} newest"
                if reason:
                    kept[each.build] = reason
                    continue
                size = size_on_disk(each.path)
                if in_use(each.path) or (yes and not take_away(each.path, home)):
                    kept[each.build] = "in use"
                    continue
                removed.append(each.build)
                freed += size
            if yes:
                tidy(home)
            return Removal(name, tuple(removed), kept, freed)

    @contextmanager
    def _locked(self, name: str) -> Iterator[Path]:
        home = self.path / checked_name(name)
        try:
            if not home.is_dir():
                home.mkdir(parents=True, exist_ok=True)
                sync(self.path)
            if home.is_symlink():
                raise TemplateError("is a symlink; the shelf has none there", where=str(home))
            descriptor = os.open(home / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise TemplateError(f"the shelf cannot be used: {error.strerror}", where=str(home)) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            tidy(home)
            yield home
        finally:
            os.close(descriptor)
