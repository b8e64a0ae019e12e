"""apt's preferences, what unattended-upgrades may take, and `apt-cache policy`. Nothing here raises."""

from __future__ import annotations

import re
from collections.abc import Mapping

from metalserve.hardware.boot import AptState, Upgrade
from metalserve.hardware.parsers.text import integer

_SETTING = re.compile(r'([A-Za-z:-]{1,80}?)(?:::)? "(.{0,400})";?')
_INDEX = re.compile(r"\s+-?\d{1,5} (\S.*)")
_RELEASE = re.compile(r"\s+release (\S.*)")
_PACKAGE = re.compile(r"(\S{1,200}):")
_FIELD = re.compile(r"  (Installed|Candidate): (\S.{0,200})")
_VERSION = re.compile(r"(?: \*\*\*|    ) (\S{1,200}) -?\d{1,5}")
_OFF = ("", "0", "false", "no", "off")


def parse_apt(
    settings: str, preferences: str, policy: str | None, candidates: str | None, facts: Mapping[str, str]
) -> AptState:
    """Join what the blocks `apt`, `preferences`, `policy` and `candidates` say.

    Args:
        settings: lines of `apt-config dump`.
        preferences: `file=` lines, each with the lines of that file that name packages, pins and priorities.
        policy: `apt-cache policy`, or `None` when it was not asked.
        candidates: `apt-cache policy PACKAGE...`, or `None`.
        facts: `unattended`, `distro_id`, `distro_codename`, `ActiveState`, `NextElapseUSecRealtime`.
    """
    values: dict[str, list[str]] = {}
    for line in settings.splitlines():
        found = _SETTING.fullmatch(line.strip())
        if found and found.group(2):
            values.setdefault(found.group(1), []).append(found.group(2))

    def last(name: str) -> str:
        return values.get(name, [""])[-1].strip()

    on = last("APT::Periodic::Unattended-Upgrade").lower() not in _OFF
    enabled = (last("APT::Periodic::Enable") or "1").lower() not in _OFF
    reboot = last("Unattended-Upgrade::Automatic-Reboot").lower() not in _OFF
    return AptState(
        unattended=facts.get("unattended") == "1" and on and enabled,
        timer=facts.get("ActiveState", ""),
        next_run="" if facts.get("NextElapseUSecRealtime") in (None, "n/a") else facts["NextElapseUSecRealtime"],
        allowed=_allowed(values, facts),
        blacklist=tuple(values.get("Unattended-Upgrade::Package-Blacklist", ())),
        reboot=(last("Unattended-Upgrade::Automatic-Reboot-Time") or "now") if reboot else "",
        upgrades=None if candidates is None else _upgrades(candidates, _releases(policy or "")),
        pins=_pins(preferences),
    )


def _allowed(values: Mapping[str, list[str]], facts: Mapping[str, str]) -> tuple[str, ...]:
    """Both settings in the newer one's form, as unattended-upgrades itself joins them."""
    old = []
    for text in values.get("Unattended-Upgrade::Allowed-Origins", ()):
        origin, colon, archive = text.partition(":")
        if not colon:
            origin, _, archive = text.partition(" ")
        old.append(f"o={origin.strip()},a={archive.strip()}")
    both = [*old, *values.get("Unattended-Upgrade::Origins-Pattern", ())]
    ident = facts.get("distro_id", "")
    for name, value in (
        ("${distro_id}", {"debian": "Debian", "ubuntu": "Ubuntu"}.get(ident, ident)),
        ("${distro_codename}", facts.get("distro_codename", "")),
    ):
        both = [pattern.replace(name, value) for pattern in both]
    return tuple(both)


def _releases(policy: str) -> dict[str, str]:
    """Index line (`http://mirror.example.org/debian bookworm/main amd64 Packages`) -> its `release` line."""
    found: dict[str, str] = {}
    index = ""
    for line in policy.splitlines():
        release = _RELEASE.fullmatch(line)
        if release and index:
            found[index] = release.group(1)
        elif head := _INDEX.fullmatch(line):
            index = head.group(1)
    return found


def _upgrades(text: str, releases: Mapping[str, str]) -> tuple[Upgrade, ...]:
    found = []
    name, installed, candidate, version = "", "", "", ""
    origins: list[str] = []
    for line in [*text.splitlines(), "end:"]:
        package = _PACKAGE.fullmatch(line)
        if package:
            if candidate not in ("", "(none)", installed) and installed not in ("", "(none)"):
                found.append(Upgrade(name, installed, candidate, tuple(dict.fromkeys(origins))))
            name, installed, candidate, version, origins = package.group(1), "", "", "", []
        elif field := _FIELD.fullmatch(line):
            if field.group(1) == "Installed":
                installed = field.group(2)
            else:
                candidate = field.group(2)
        elif row := _VERSION.fullmatch(line):
            version = row.group(1)
        elif version == candidate and (index := _INDEX.fullmatch(line)):
            origins += [releases[index.group(1)]] if index.group(1) in releases else []
    return tuple(found)


def _pins(text: str) -> tuple[tuple[str, str, str, int], ...]:
    found = []
    file = package = pin = ""
    for line in text.splitlines():
        if line.startswith("file="):
            file, package, pin = line[5:], "", ""
        key, _, value = line.partition(":")
        word = key.strip().lower()
        if word == "package":
            package, pin = value.strip(), ""
        elif word == "pin":
            pin = value.strip()
        elif word == "pin-priority":
            priority = integer(value)
            if priority is not None and "nvidia" in package.lower():
                found.append((file, package, pin, priority))
    return tuple(found)
