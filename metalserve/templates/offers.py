"""What an apt archive offers: the indexes that `apt-get update` fetched, for a root or for this question alone."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from metalserve.templates.manifest import TemplateError
from metalserve.templates.versions import compare_debian

_INDEX = re.compile(r".*_dists_(?P<suite>.+)_[^_]+_binary-[a-z0-9]+_Packages(?:\.(?:gz|xz|lz4|zst|bz2))?")
_RELEASE = re.compile(r".*_dists_(?P<suite>.+)_(?:In)?Release")
_TIMEOUT_S = 300.0
"""An archive that has not answered by then is taken for unreachable."""

Key = tuple[str, str, str]
"""Name, version and architecture of a package."""


@dataclass(frozen=True)
class Offers:
    """What some suites offer.

    Attributes:
        suites: suite -> SHA-256 of its InRelease.
        packages: (package, version, architecture) -> the suites that have it.
    """

    suites: Mapping[str, str] = field(default_factory=dict)
    packages: Mapping[Key, tuple[str, ...]] = field(default_factory=dict)

    def origin(self, name: str, version: str, architecture: str) -> str | None:
        """Return a suite that has this very package, a security one before others, or None when none has it."""
        found = self.packages.get((name, version, architecture), ())
        return next((suite for suite in found if is_security(suite)), found[0] if found else None)

    def newest(self) -> dict[tuple[str, str], tuple[str, tuple[str, ...]]]:
        """Return (package, architecture) -> its newest version and the suites that have that."""
        found: dict[tuple[str, str], tuple[str, tuple[str, ...]]] = {}
        for (name, version, architecture), suites in self.packages.items():
            before = found.get((name, architecture))
            if before is None or compare_debian(version, before[0]) > 0:
                found[name, architecture] = (version, suites)
        return found

    def newest_security(self) -> dict[tuple[str, str], str]:
        """Return (package, architecture) -> its newest version in a security suite."""
        secure = {key: suites for key, suites in self.packages.items() if any(map(is_security, suites))}
        return {key: version for key, (version, _) in Offers(packages=secure).newest().items()}


def is_security(suite: str) -> bool:
    """Tell whether a suite is one of security updates: `trixie-security`, `noble-security`, old `buster/updates`."""
    return suite.endswith(("-security", "/updates", "_updates"))


def read_lists(directory: Path) -> Offers:
    """Read the indexes that `apt-get update` left in `directory`: `/var/lib/apt/lists` of a root not yet cleaned.

    Raises:
        TemplateError: an index cannot be read, or there is none.
    """
    offers: dict[Key, tuple[str, ...]] = {}
    indexes = [(path, found["suite"]) for path in sorted(directory.glob("*")) if (found := _INDEX.fullmatch(path.name))]
    if not indexes:
        raise TemplateError("has no index of packages", where=str(directory), remedy="apt-get update")
    for path, suite in indexes:
        for key in parse_index(_text(path).splitlines()):
            offers[key] = tuple(sorted({*offers.get(key, ()), suite}))
    return Offers(release_digests(directory), offers)


def release_digests(directory: Path) -> dict[str, str]:
    """Return suite -> SHA-256 of its InRelease among the lists of apt in `directory`."""
    found = {}
    for path in sorted(directory.glob("*Release")):
        if named := _RELEASE.fullmatch(path.name):
            found[named["suite"]] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def parse_index(lines: Iterable[str]) -> Iterator[Key]:
    """Return the packages of an index (`Packages`)."""
    fields: dict[str, str] = {}
    for line in (*lines, ""):
        if not line:
            if {"Package", "Version", "Architecture"} <= fields.keys():
                yield fields["Package"], fields["Version"], fields["Architecture"]
            fields = {}
        elif line.startswith(("Package:", "Version:", "Architecture:")):
            key, _, value = line.partition(":")
            fields[key] = value.strip()


def _text(path: Path) -> str:
    try:
        if path.suffix == ".gz":
            content = gzip.decompress(path.read_bytes())
        elif path.suffix == ".xz":
            content = lzma.decompress(path.read_bytes())
        elif path.suffix in (".lz4", ".zst", ".bz2"):  # apt knows whatever apt wrote
            helper = ["/usr/lib/apt/apt-helper", "cat-file", str(path)]
            content = subprocess.run(helper, capture_output=True, check=True).stdout
        else:
            content = path.read_bytes()
    except (OSError, EOFError, lzma.LZMAError, subprocess.CalledProcessError) as error:
        raise TemplateError(f"cannot be read: {error}", where=str(path)) from error
    return content.decode(errors="replace")


def ask_for_offers(sources: Sequence[str], architecture: str, directory: Path) -> Offers:
    """Fetch the indexes of `sources` with apt, which verifies them, and read them; the machine's own stay as they are.

    Args:
        sources: lines of a sources.list.
        architecture: as Debian calls it.
        directory: an empty directory for what is fetched.

    Raises:
        TemplateError: apt is not there, an index could not be fetched or verified, or a suite is missing.
    """
    for name in ("lists/partial", "cache/archives/partial", "etc/preferences.d", "etc/apt.conf.d"):
        (directory / name).mkdir(parents=True)
    (directory / "sources.list").write_text("".join(f"{line}\n" for line in sources))
    (directory / "status").touch()
    options = {
        "Dir::State": directory,
        "Dir::State::lists": directory / "lists",
        "Dir::State::status": directory / "status",
        "Dir::Cache": directory / "cache",
        "Dir::Etc::sourcelist": directory / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferencesparts": directory / "etc/preferences.d",
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Update::Error-Mode": "any",
        "Acquire::GzipIndexes": "false",
        "Acquire::Languages": "none",
        "APT::Sandbox::User": "root",
        "Acquire::Retries": "2",
    }
    words = ["apt-get", "-q", *(word for key, value in options.items() for word in ("-o", f"{key}={value}")), "update"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
    except FileNotFoundError:
        raise TemplateError("is not on this machine; the archive cannot be asked", where="apt-get") from None
    except subprocess.TimeoutExpired:
        raise TemplateError(f"the archive did not answer within {_TIMEOUT_S:.0f} s", where="apt-get update") from None
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if line.startswith("E:")] or ["E: no message"]
        raise TemplateError(f"failed: {errors[0][2:].strip()}", where="apt-get update")
    found = read_lists(directory / "lists")
    wanted = {_suite(line) for line in sources}
    if missing := wanted - set(found.suites):
        raise TemplateError(f"has no {', '.join(sorted(missing))}", where="apt-get update")
    return found


def _suite(line: str) -> str:
    words = re.sub(r"\[[^]]*\]", "", line).split()
    return words[2].replace("/", "_") if len(words) > 2 else line
