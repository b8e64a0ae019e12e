"""Releases: pinned sets of versions, and whether they fit together."""

from __future__ import annotations

from metalserve.releases.check import check_release, release_warnings
from metalserve.releases.model import (
    Release,
    ReleaseError,
    load_release,
    no_such_release,
    read_release,
    release_names,
    version_key,
)

__all__ = [
    "Release",
    "ReleaseError",
    "check_release",
    "load_release",
    "no_such_release",
    "read_release",
    "release_names",
    "release_warnings",
    "version_key",
]
