"""Asks rpm's database of a tree, without running anything of the tree or writing into it."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from metalserve.templates.manifest import TemplateError

PLACES: Final = ("usr/lib/sysimage/rpm", "var/lib/rpm")
"""Where it lies: RHEL 10 and Fedora; RHEL 8 and 9, and what a Debian's dnf has installed."""

FILES: Final = ("rpmdb.sqlite", "Packages", "Packages.db")
"""By its kind: SQLite (RHEL 9 on), Berkeley DB (RHEL 8), NDB."""

_TIMEOUT_S: Final = 120.0


def rpm_database(root: Path) -> Path | None:
    """Return the directory of the tree's database, or None where there is none; a link is not followed out of it."""
    for place in PLACES:
        path = root / place
        inside = not any((root / each).is_symlink() for each in (place, *map(str, Path(place).parents)) if each != ".")
        if inside and any((path / name).is_file() for name in FILES):
            return path
    return None


def query_rpm(database: Path, query: str) -> str:
    """Return what `rpm -qa --queryformat QUERY` prints of a database.

    It is a copy that is asked: rpm writes beside a database that it only reads.

    Raises:
        TemplateError: the program rpm is not there, failed, or warned: then not every package need be among it.
    """
    if shutil.which("rpm") is None:
        raise TemplateError("is rpm's, and the program rpm is not here", where=str(database), remedy="install rpm")
    with tempfile.TemporaryDirectory(prefix="metalserve-rpm-") as scratch:
        copy = Path(scratch) / "rpm"
        shutil.copytree(database, copy, symlinks=True)
        try:
            done = subprocess.run(
                ["rpm", "--dbpath", str(copy), "-qa", "--queryformat", query],
                capture_output=True, text=True, errors="replace", check=False, timeout=_TIMEOUT_S,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise TemplateError(f"rpm did not end within {_TIMEOUT_S:.0f} s", where=str(database)) from None
    said = [line for line in done.stderr.splitlines() if line.startswith(("error", "warning"))]
    if done.returncode != 0 or said:
        raise TemplateError(
            f"rpm cannot read it ({done.returncode}): {(said or ['no message'])[0]}", where=str(database)
        )
    return done.stdout
