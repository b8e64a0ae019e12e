"""Releases: pinned sets of versions, whether they fit together, and what a change of release means."""

from __future__ import annotations

from metalserve.releases.check import Broken, Verdict, check_release, judge_release, release_warnings
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
    "Broken",
    "Release",
    "ReleaseError",
    "Verdict",
    "check_release",
    "judge_release",
    "load_release",
    "no_such_release",
    "read_release",
    "release_names",
    "release_warnings",
    "version_key",
]
