"""The archive that a template is built from: where it is, what state it is in, and whether it is in reach."""

from __future__ import annotations

import hashlib
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path

from metalserve.errors import MetalserveError
from metalserve.templates.spec import OsSpec
from metalserve.trees.mirrors import KEYRING, Mirrors, machine_mirrors

MIRROR_VARIABLE = "METALSERVE_TEMPLATE_MIRROR"
"""Environment variable: base URL of the distribution's packages, and after a space of its security updates."""

UBUNTU_KEYRING = Path("/usr/share/keyrings/ubuntu-archive-keyring.gpg")

_TIMEOUT_S = 20.0
_ROCKY_INDEX = "{mirror}/{release}/{component}/x86_64/os/repodata/repomd.xml"

Fetch = Callable[[str], bytes]


@dataclass(frozen=True)
class Archive:
    """The archive as it was when a build began.

    Attributes:
        mirrors: what the build reads from.
        suites: suite (for the RHEL family: repository) -> SHA-256 of its signed index.
        epoch: when the newest of them was made, in seconds since 1970: what the image's files bear at most.
    """

    mirrors: Mirrors
    suites: Mapping[str, str]
    epoch: int


def mirrors_for(system: OsSpec, environment: Mapping[str, str] = os.environ) -> Mirrors:
    """Return where packages are read from when a template is built.

    The environment goes first, then (for Debian) the machine's own apt sources, then what the specification says.
    """
    given = environment.get(MIRROR_VARIABLE, "").split()
    if given:
        return Mirrors(given[0].rstrip("/"), given[1].rstrip("/") if len(given) > 1 else None)
    if system.distribution == "debian":
        return machine_mirrors(environment=environment)
    return Mirrors(system.mirror, system.security)


def keyring_of(system: OsSpec) -> Path:
    """Return the keyring of the distribution's archive on this machine."""
    return UBUNTU_KEYRING if system.distribution == "ubuntu" else KEYRING


def indexes(system: OsSpec, mirrors: Mirrors) -> dict[str, str]:
    """Return suite -> URL of its index: InRelease of apt's suites, repomd.xml of dnf's repositories."""
    if system.family == "apt":
        return {suite: f"{uri}/dists/{suite}/InRelease" for uri, suite in mirrors.places(system.codename)}
    return {
        name: _ROCKY_INDEX.format(mirror=mirrors.archive, release=system.release, component=name)
        for name in system.components
    }


def read_archive(system: OsSpec, mirrors: Mirrors, fetch: Fetch | None = None) -> Archive:
    """Read the indexes of a distribution.

    Raises:
        MetalserveError: the mirror is not in reach, or does not have the release.
    """
    suites, newest = {}, 0
    for suite, url in indexes(system, mirrors).items():
        content = (fetch or _fetch)(url)
        suites[suite] = hashlib.sha256(content).hexdigest()
        newest = max(newest, _date(content, url))
    return Archive(mirrors, suites, newest)


def _date(content: bytes, url: str) -> int:
    text = content.decode(errors="replace")
    found = re.search(r"^Date: (.+)$", text, re.MULTILINE)
    if found:
        return int(parsedate_to_datetime(found.group(1)).timestamp())
    revision = re.search(r"<revision>(\d+)</revision>", text)
    if revision:
        return int(revision.group(1))
    raise MetalserveError("is not the index of an archive", where=url, remedy="see what the mirror answers there")


def _fetch(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:  # noqa: S310 - the scheme was checked
            content: bytes = answer.read(4 << 20)
            return content
    except (urllib.error.URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise MetalserveError(
            f"the mirror is not in reach: {reason}",
            where=url,
            remedy=f"name one that is: {MIRROR_VARIABLE}='http://MIRROR/... [http://SECURITY/...]'",
        ) from error


def check_unchanged(root: Path, archive: Archive) -> None:
    """See that a tree was made from the archive as it was when the build began, by the indexes that apt has in it.

    Raises:
        MetalserveError: the archive has moved on meanwhile, so that nobody could say what the image is made of.
    """
    known = set(archive.suites.values())
    names = [f"_dists_{suite}_InRelease" for suite in archive.suites]
    for path in sorted((root / "var/lib/apt/lists").glob("*_InRelease")):
        if path.name.endswith(tuple(names)) and hashlib.sha256(path.read_bytes()).hexdigest() not in known:
            raise MetalserveError(
                "the archive was renewed while the template was built", where=path.name, remedy="build it again"
            )
