"""Values that say what a host should be. Pure: no host, no pyinfra.

A role's `desired.py` returns a `Desired`; `diff.py` compares it with an `Observation`; `render.py` turns the
difference into one shell script. `--dry`, drift, audit and tests are that same comparison.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

from metalserve.errors import MetalserveError

if TYPE_CHECKING:
    from metalserve.desired.observed import Observation


class NotYetKnown(MetalserveError):
    """A decision that needs something which this very run will bring (the driver, a mounted file system ...).

    Before execution it is shown as "known only after ..."; during execution it is a failure.
    """


@dataclass(frozen=True, slots=True)
class Package:
    """A distribution package.

    Attributes:
        name: package name.
        version: upstream version that the installed one must equal or begin with (`580.178.04` accepts
            `580.178.04-1`); `None` accepts any version.
        present: False removes (and purges) the package.
    """

    name: str
    version: str | None = None
    present: bool = True

    def satisfied_by(self, installed: str | None) -> bool:
        """Tell whether `installed` (full version string, or None) is what is wanted."""
        if not self.present:
            return installed is None
        if installed is None:
            return False
        return self.version is None or version_matches(installed, self.version)


def version_matches(installed: str, wanted: str) -> bool:
    """Tell whether package version `installed` is `wanted`, with or without epoch and packaging revision."""
    bare = installed.split(":", 1)[1] if ":" in installed and ":" not in wanted else installed
    return bare == wanted or bare.startswith((f"{wanted}-", f"{wanted}+", f"{wanted}~"))


@dataclass(frozen=True, slots=True)
class File:
    """A regular file with its whole content.

    Attributes:
        path: absolute path.
        content: the exact bytes, as text; `None` means that the file must not exist.
        mode: octal permission string such as "0644".
        secret: never show the content, not even in a difference.
    """

    path: str
    content: str | None
    mode: str = "0644"
    owner: str = "root"
    group: str = "root"
    secret: bool = False

    @property
    def sha256(self) -> str:
        """Hex digest of the content (UTF-8)."""
        return hashlib.sha256((self.content or "").encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory with its permissions."""

    path: str
    mode: str = "0755"
    owner: str = "root"
    group: str = "root"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A repository's public key on the host, accepted only with this fingerprint.

    Attributes:
        path: where it lies on the host: `/etc/apt/keyrings/metalserve-NAME.asc`, where an observation looks.
        fingerprint: 40 hexadecimal digits of the primary key.
        url: where the host fetches it, or None when `content` is given.
        content: the ASCII-armoured key, or None.
    """

    path: str
    fingerprint: str
    url: str | None = None
    content: str | None = None


@dataclass(frozen=True, slots=True)
class Unit:
    """A systemd unit.

    Attributes:
        name: full unit name (`docker.service`).
        running: True started, False stopped, None left alone.
        enabled: True or False; None leaves it alone.
        masked: True masks it.
        restart_on: absolute paths; when one of them is newer than the unit's start, the unit is restarted.
            Judged by time on the host, so a run that died between write and restart is made good by the next.
        reload: reload (`systemctl reload-or-restart`) instead of restart.
        optional: a unit that the host does not have is fine (nothing to stop or mask).
    """

    name: str
    running: bool | None = True
    enabled: bool | None = True
    masked: bool = False
    restart_on: tuple[str, ...] = ()
    reload: bool = False
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Sysctl:
    """A kernel setting, live and (by a file that the role writes) after a reboot."""

    key: str
    value: str


@dataclass(frozen=True, slots=True)
class Module:
    """A kernel module that must be loaded."""

    name: str


@dataclass(frozen=True, slots=True)
class Action:
    """Anything the other kinds cannot say: a script, and the condition under which it is not needed.

    Attributes:
        name: what it does, for people ("create the XFS file system on /dev/nvme0n1").
        done: judges from an observation whether the wished state is already there.
        script: POSIX shell, run as root with `set -eu` after the prelude's functions are defined.
        why: what the observation said, shown beside the name.
        phase: "early" runs before files and packages, "middle" between them and units, "late" after units.
    """

    name: str
    done: Callable[[Observation], bool]
    script: str
    why: str = ""
    phase: str = "middle"


@dataclass(frozen=True, slots=True)
class Reboot:
    """The host must be restarted, and why. Runs last in its stage."""

    reason: str
    timeout_s: int = 1800


@dataclass(frozen=True)
class Desired:
    """What one stage of a role wants of a host."""

    packages: tuple[Package, ...] = ()
    keys: tuple[SigningKey, ...] = ()
    directories: tuple[Directory, ...] = ()
    files: tuple[File, ...] = ()
    units: tuple[Unit, ...] = ()
    sysctls: tuple[Sysctl, ...] = ()
    modules: tuple[Module, ...] = ()
    actions: tuple[Action, ...] = ()
    reboot: Reboot | None = None
    notes: tuple[str, ...] = field(default=(), compare=False)

    def __add__(self, other: Desired) -> Desired:
        """Join two wishes; the first reboot wins."""
        joined = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self) if f.name != "reboot"}
        return Desired(reboot=self.reboot or other.reboot, **joined)


@dataclass(frozen=True)
class Watch:
    """What an observation must look at, beside what it always does (packages, OS, memory, mounts).

    Known from settings alone, so that one observation at the start of a run serves every role.

    Attributes:
        paths: absolute paths or shell globs whose type, mode, owner, time and hash are wanted.
        units: systemd unit names or patterns.
        sysctls: dotted keys.
        commands: section name -> POSIX shell command; its output and exit status become a section.
    """

    paths: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    sysctls: tuple[str, ...] = ()
    commands: Mapping[str, str] = field(default_factory=dict)

    def __or__(self, other: Watch) -> Watch:
        """Join two watches."""
        return Watch(
            paths=_unique(self.paths + other.paths),
            units=_unique(self.units + other.units),
            sysctls=_unique(self.sysctls + other.sysctls),
            commands={**self.commands, **other.commands},
        )

    def covers(self, other: Watch) -> bool:
        """Tell whether an observation of `self` also answers for `other`."""
        return (self | other) == self


def _unique(items: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(items))
