"""What the shelf does with directories: holds them against manifests, syncs, holds and removes them."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

from metalserve.templates.manifest import MANIFEST, SIGNATURE, Manifest, TemplateError

GONE = ".gone-"
"""A build that is being removed: GONE + its name."""

NEW_LINK = ".link-"
"""A channel's link before it is put in its place."""


def check_listing(directory: Path, manifest: Manifest) -> None:
    """Hold a build's directory against its manifest: plain files of the listed sizes, and nothing else.

    Raises:
        TemplateError: the first thing that is not as listed.
    """
    wanted = {*manifest.files, MANIFEST, SIGNATURE}
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except OSError as error:
        raise TemplateError(f"cannot be read: {error.strerror}", where=str(directory)) from error
    for entry in entries:
        if entry.name not in wanted:
            raise TemplateError("is not listed in the manifest", where=entry.path, remedy="a build has nothing else")
        if not entry.is_file(follow_symlinks=False):
            raise TemplateError(
                "is no plain file", where=entry.path, remedy="a build has neither links nor directories"
            )
    present = {entry.name: entry for entry in entries}
    for name in sorted(wanted - set(present)):
        what = "is not signed" if name == SIGNATURE else f"{name} is missing"
        raise TemplateError(what, where=str(directory))
    for name, listed in sorted(manifest.files.items()):
        size = present[name].stat(follow_symlinks=False).st_size
        if size != listed.size:
            raise TemplateError(f"has {size} bytes; the manifest says {listed.size}", where=present[name].path)


def tidy(home: Path) -> None:
    """Finish what a killed run left: builds half removed, links that were not put in place. The lock is held."""
    for entry in list(os.scandir(home)):
        if entry.name.startswith(GONE):
            shutil.rmtree(entry.path)
        elif entry.name.startswith(NEW_LINK):
            os.unlink(entry.path)


def in_use(path: Path) -> bool:
    """Tell whether somebody holds a build (`Build.hold`)."""
    descriptor = open_directory(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def take_away(path: Path, home: Path) -> bool:
    """Rename a build out of sight unless somebody holds it, and tell whether it went."""
    descriptor = open_directory(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.rename(path, home / f"{GONE}{path.name}")
        sync(home)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def size_on_disk(path: Path) -> int:
    """Return the bytes that the files of a directory take on the disk."""
    return sum(entry.stat(follow_symlinks=False).st_blocks * 512 for entry in os.scandir(path))


def open_directory(path: Path) -> int:
    """Open a directory that is no symlink; raises TemplateError when that fails."""
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise TemplateError(f"cannot be opened: {error.strerror}", where=str(path)) from error


def is_at(descriptor: int, path: Path) -> bool:
    """Tell whether an open directory is still the one at `path`."""
    try:
        at, held = os.lstat(path), os.fstat(descriptor)
    except FileNotFoundError:
        return False
    return (at.st_dev, at.st_ino) == (held.st_dev, held.st_ino)


def sync(path: Path) -> None:
    """Bring a file or directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
