"""What a stand-in package is, and what several of them share."""

from __future__ import annotations

from dataclasses import dataclass, field

LAB_BIN = "/opt/metalserve-lab/bin"


@dataclass(frozen=True)
class File:
    """A file of a package."""

    text: str
    mode: int = 0o644


@dataclass(frozen=True)
class Package:
    """One stand-in package.

    Attributes:
        name: package name.
        version: Debian version.
        summary: first line of the description, after the words that say it is a stand-in.
        upstream: version that the simulated tools report; by default the version without epoch and revision.
        relations: control fields (`Depends`, `Provides`, `Conflicts` ...).
        files: absolute path -> content.
        scripts: maintainer scripts: name -> shell text after `set -e`.
        arch_all: the package is for all architectures.
    """

    name: str
    version: str
    summary: str
    upstream: str = ""
    relations: dict[str, str] = field(default_factory=dict)
    files: dict[str, File] = field(default_factory=dict)
    scripts: dict[str, str] = field(default_factory=dict)
    arch_all: bool = False


def tool(name: str, version: str) -> File:
    """A thin executable: the simulated tool, told which version the package is."""
    return File(
        "#!/bin/sh\n# STAND-IN for the metalserve lab: hands over to the simulated tool\n"
        f'METALSERVE_LAB_TOOL_VERSION={version} exec {LAB_BIN}/{name} "$@"\n',
        0o755,
    )


def unit(text: str) -> File:
    """A systemd unit."""
    return File(text)


ENABLE = (
    'if [ "$1" = configure ]; then\n'
    "  deb-systemd-helper unmask {unit} >/dev/null || true\n"
    "  if deb-systemd-helper --quiet was-enabled {unit}; then\n"
    "    deb-systemd-helper enable {unit} >/dev/null || true\n"
    "  fi\n"
    "fi\n"
)
RELOAD = "if [ -d /run/systemd/system ]; then systemctl --system daemon-reload >/dev/null || true; fi\n"
STOP = (
    'if [ -d /run/systemd/system ] && [ "$1" = remove ]; then deb-systemd-invoke stop {unit} >/dev/null || true; fi\n'
)


def service(name: str, *, enable: bool) -> dict[str, str]:
    """Maintainer scripts of a package with a unit, as debhelper writes them."""
    after = (ENABLE.format(unit=name) if enable else "") + RELOAD
    if enable:
        # Started only on a loaded driver: without one it would fail five times and count as failed from then on.
        after += (
            "if [ -d /run/systemd/system ] && [ -e /proc/driver/nvidia/version ]; then\n"
            f"  deb-systemd-invoke start {name} >/dev/null 2>&1 || true\nfi\n"
        )
    return {"postinst": after, "prerm": STOP.format(unit=name), "postrm": RELOAD}
