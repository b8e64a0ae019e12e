"""Where Debian packages come from: the machine's own apt sources, read when the lab is built."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from metalserve.errors import MetalserveError

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_CODENAMES = ("bullseye", "bookworm", "trixie", "forky", "stable", "testing", "sid")


@dataclass(frozen=True)
class Mirrors:
    """Base URLs of a Debian archive and, where known, of its security archive."""

    archive: str
    security: str | None = None

    def sources(self, suite: str, components: Sequence[str] = ("main",), keyring: Path = KEYRING) -> list[str]:
        """Return the apt source lines of a suite, updates and security included."""
        option, names = f"[signed-by={keyring}]", " ".join(components)
        return [f"deb {option} {uri} {name} {names}" for uri, name in self.places(suite)]

    def places(self, suite: str) -> list[tuple[str, str]]:
        """Return (base URL, suite) of everything that a suite consists of."""
        places = [(self.archive, name) for name in (suite, f"{suite}-updates")]
        return [*places, (self.security, f"{suite}-security")] if self.security else places


def machine_mirrors(
    apt: Path = Path("/etc/apt"), environment: Mapping[str, str] = os.environ, keyring: Path = KEYRING
) -> Mirrors:
    """Find the Debian mirrors to build from.

    `METALSERVE_LAB_MIRROR` (URL of the archive, optionally a space and the URL of the security archive) goes
    before the machine's apt sources.

    Raises:
        MetalserveError: no Debian mirror is configured (an Ubuntu machine, say), or Debian's keys are not installed.
    """
    wanted = environment.get("METALSERVE_LAB_MIRROR", "").split()
    if wanted:
        found = Mirrors(wanted[0].rstrip("/"), wanted[1].rstrip("/") if len(wanted) > 1 else None)
    else:
        found = _from_sources(apt)
    if not keyring.exists():
        raise MetalserveError(
            "Debian's archive keys are not on this machine",
            where=str(keyring),
            remedy="apt-get install debian-archive-keyring",
        )
    return found


def _from_sources(apt: Path) -> Mirrors:
    archive = security = None
    for uri, suite in parse_sources(apt):
        base = suite.split("-", 1)[0].split("/", 1)[0]
        if base not in _CODENAMES or not uri.startswith(("http://", "https://")):
            continue
        if "security" in suite:
            security = security or uri
        elif suite == base and "debian" in uri.rsplit("/", 1)[-1]:
            archive = archive or uri
    if archive is None:
        raise MetalserveError(
            "no Debian mirror in this machine's apt sources, and the lab's hosts are Debian",
            where=str(apt),
            remedy="name one: METALSERVE_LAB_MIRROR='http://MIRROR/debian http://MIRROR/debian-security'",
        )
    return Mirrors(archive, security)


def parse_sources(apt: Path) -> list[tuple[str, str]]:
    """Return the (URI, suite) pairs of the enabled binary sources that offer `main`, in both of apt's formats."""
    files = [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))]
    found: list[tuple[str, str]] = []
    for file in files:
        try:
            text = file.read_text(errors="replace")
        except OSError:
            continue
        if file.suffix == ".sources":
            found += _deb822(text)
        elif file.suffix == ".list":
            found += _one_line(text)
    return found


def _one_line(text: str) -> list[tuple[str, str]]:
    found = []
    for line in text.splitlines():
        words = line.split("#", 1)[0].split()
        if not words or words[0] != "deb":
            continue
        if len(words) > 1 and words[1].startswith("["):
            while len(words) > 1 and not words[1].endswith("]"):
                del words[1]
            del words[1:2]
        if len(words) >= 4 and "main" in words[3:]:
            found.append((words[1].rstrip("/"), words[2]))
    return found


def _deb822(text: str) -> list[tuple[str, str]]:
    found = []
    for stanza in text.split("\n\n"):
        fields: dict[str, str] = {}
        key = ""
        for line in stanza.splitlines():
            if line.startswith("#"):
                continue
            if line[:1] in (" ", "\t") and key:
                fields[key] += " " + line.strip()
            elif ":" in line:
                key, value = line.split(":", 1)
                key = key.strip().lower()
                fields[key] = value.strip()
        if fields.get("enabled", "yes").lower() in ("no", "false"):
            continue
        if "deb" in fields.get("types", "").split() and "main" in fields.get("components", "").split():
            found += [
                (uri.rstrip("/"), suite)
                for uri in fields.get("uris", "").split()
                for suite in fields.get("suites", "").split()
            ]
    return found
