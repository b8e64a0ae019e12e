"""Before anything is stopped: both ways can be gone. Every package of the new and the old release is fetched. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from metalserve.desired.model import Package

SPACE = "upgrade-space"
"""Section with the free space of file systems."""


def space_command(places: Sequence[str]) -> str:
    """Return the command that tells the free space of the file systems of `places`."""
    return "; ".join(f"df -Pk {shlex.quote(p)} 2>/dev/null | sed -n 's|^|{p} |; 2p'" for p in places) + "; :"


def short_of_space(text: str, wanted: Mapping[str, int]) -> tuple[str, ...]:
    """Return what lacks space, each in words; a place whose free space was not told is one of them.

    Args:
        text: the section of free space.
        wanted: directory -> MiB.
    """
    found = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 7 and words[4].isdigit():
            found[words[0]] = (int(words[4]) // 1024, words[6])
    problems = []
    for place, mib in wanted.items():
        if place not in found:
            problems.append(f"the free space of {place} is not known")
        elif place != "/boot" or found[place][1] == "/boot":  # without a file system of its own, /usr's figure counts
            free, mount = found[place]
            if free < mib:
                problems.append(f"{place} (file system {mount}) has {free} MiB free, {mib} MiB are needed")
    return tuple(problems)


def fetch_script(
    new: Sequence[Package], old: Sequence[Package], gone: Sequence[Package], pin: Package, way_back: str
) -> str:
    """Return the script that fetches both releases' packages and changes nothing that is installed.

    The new pin's preferences are taken for the resolution from its package, unpacked aside: with the old pin in force
    nothing newer could be resolved.

    Args:
        new: packages of the release that is coming.
        old: packages of the release that the host is on; empty when they are the same.
        gone: packages that the new release does not have.
        pin: the new release's pinning package (one of `new`).
        way_back: name of the old release.
    """
    lines = [
        'if [ -n "$(dpkg --audit 2>/dev/null; ls -A /var/lib/dpkg/updates 2>/dev/null)" ]; then',
        "  echo 'dpkg was left half-way: configuring'; dpkg --configure -a || ms_apt -f install; fi",
        "ms_apt update || ms_fail 'apt-get update failed -> check the repositories and the network'",
    ]
    for package in old:
        lines.append(_resolved(package, "ms_version", f"the way back to {way_back} would be lost: "))
    lines += [_resolved(package, "ms_version", "") for package in new]
    lines += [
        'ms_pin=$(mktemp -d "$MS_RUN/pin.XXXXXXXX"); cd "$ms_pin"; chmod 0755 .',
        f"ms_apt download {shlex.quote(pin.name)}",
        'for f in ./*.deb; do dpkg-deb -x "$f" tree; done; mkdir -p tree/etc/apt/preferences.d',
        'ms_apt -o Dir::Etc::PreferencesParts="$ms_pin/tree/etc/apt/preferences.d" install --download-only '
        f"--allow-downgrades --allow-change-held-packages {_wanted(new)} "
        f"{' '.join(shlex.quote(p.name + '-') for p in gone)} || "
        "ms_fail 'the packages of the new release cannot be installed together on this host -> see the lines above; "
        "nothing was changed'",
        'cd /; rm -rf "$ms_pin"',
    ]
    if old:
        # What is installed at the old version by a dependency only is part of the way back too.
        version = next((p.version for p in old if p.version), "")
        lines += [
            "ms_old=$(dpkg-query -W -f='${db:Status-Abbrev} ${Package}=${Version}\\n' | "
            f"awk -v v={shlex.quote(f'={version}-')} '$1 == \"ii\" && index($2, v) {{ print $2 }}')",
            'if [ -n "$ms_old" ]; then ms_apt install --reinstall --download-only --allow-downgrades '
            "--allow-change-held-packages $ms_old || "
            f"ms_fail 'the packages of {way_back} can no longer be fetched, so there would be no way back -> put them "
            "back into the mirror; nothing was changed'; fi",
        ]
    return "\n".join(lines) + "\n"


def _resolved(package: Package, tool: str, before: str) -> str:
    name = shlex.quote(package.name)
    if package.version is None and not before:
        return f"ms_missing {name}"  # says what is near it too
    if package.version is None:
        words = f"{before}the repositories have no package {package.name} -> put it into the mirror"
        return f"apt-cache show {name} >/dev/null 2>&1 || ms_fail {shlex.quote(words)}"
    return (
        f"ms_v=$({tool} {name} {shlex.quote(package.version)} 2>&1) || "
        f'ms_fail {shlex.quote(before)}"$ms_v"{shlex.quote("; nothing was changed")}'
    )


def _wanted(packages: Sequence[Package]) -> str:
    return " ".join(
        shlex.quote(p.name)
        if p.version is None
        else f'{shlex.quote(p.name)}="$(ms_version {shlex.quote(p.name)} {shlex.quote(p.version)})"'
        for p in packages
    )
