"""What a host is, as one observation told it. Pure: text in, values out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from metalserve.errors import MetalserveError
from metalserve.hardware.section import Section


class ObservationError(MetalserveError):
    """The host's answer could not be understood; only that host fails."""


@dataclass(frozen=True, slots=True)
class ObservedFile:
    """One file system entry.

    Attributes:
        kind: "file", "directory", "link" or "other".
        mode: four octal digits.
        mtime: seconds since the epoch, by the host's clock.
        sha256: hex digest of a regular file, else "".
        target: where a link points to.
    """

    path: str
    kind: str
    mode: str
    owner: str
    group: str
    mtime: float
    size: int = 0
    sha256: str = ""
    target: str = ""


@dataclass(frozen=True, slots=True)
class ObservedUnit:
    """State of one systemd unit.

    Attributes:
        started: seconds since the epoch of its last start; None: never.
        restarts: how often systemd itself has restarted it since somebody last started it; None when not told.
    """

    name: str
    load: str
    active: str
    sub: str
    enabled: str
    started: float | None
    needs_reload: bool = False
    result: str = ""
    restarts: int | None = None


@dataclass(frozen=True, slots=True)
class ObservedPackage:
    """An installed or half-installed package; `status` is dpkg's three-letter abbreviation ("ii ")."""

    name: str
    version: str
    status: str

    @property
    def installed(self) -> bool:
        """Whether it is wholly installed and configured (held packages too)."""
        return self.status[1:2] == "i"


@dataclass(frozen=True)
class Observation:
    """Everything one observation told of a host.

    Attributes:
        facts: `KEY=value` pairs of the host itself (kernel, arch, boot_id, live ...).
        os_release: /etc/os-release as a mapping.
        packages: package name -> package (installed or left half-way).
        files: path -> entry; a watched path that is missing is not in it.
        units: unit name -> state.
        sysctls: key -> live value; a key that the kernel does not have is not in it.
        keys: path of a repository key -> fingerprints found in it.
        sections: every command's output by name (hardware tools, roles' own commands).
    """

    facts: Mapping[str, str] = field(default_factory=dict)
    os_release: Mapping[str, str] = field(default_factory=dict)
    packages: Mapping[str, ObservedPackage] = field(default_factory=dict)
    files: Mapping[str, ObservedFile] = field(default_factory=dict)
    units: Mapping[str, ObservedUnit] = field(default_factory=dict)
    sysctls: Mapping[str, str] = field(default_factory=dict)
    keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    sections: Mapping[str, Section] = field(default_factory=dict)

    @property
    def live(self) -> bool:
        """Whether systemd runs as PID 1 here; False in an image tree, where nothing is started or loaded."""
        return self.facts.get("live") == "1"

    @property
    def kernel(self) -> str:
        """The kernel that modules are built for: the running one, in an image the image's own; "" when unknown."""
        return self.facts.get("kernel" if self.live else "image_kernel", "")

    @property
    def kernel_settings_writable(self) -> bool:
        """Whether this host owns its kernel settings; a container sees the machine's, read-only."""
        return self.facts.get("proc_sys_rw") == "1"

    @property
    def os_id(self) -> str:
        """Short name such as "debian-12" or "ubuntu-24.04"."""
        return f"{self.os_release.get('ID', 'unknown')}-{self.os_release.get('VERSION_ID', 'unknown')}"

    def version_of(self, package: str) -> str | None:
        """Return the installed version of `package`, or None when it is not wholly installed."""
        found = self.packages.get(package)
        return found.version if found is not None and found.installed else None

    def text(self, section: str) -> str:
        """Return the output of a command section, "" when it was not asked for or failed to run."""
        found = self.sections.get(section)
        return found.text if found is not None else ""


_MARK = "@@ms:"
_CORE = {"facts", "os-release", "packages", "files", "units", "sysctls", "keys"}


def parse_observation(output: str) -> Observation:
    """Read the output of the script that `observe_script.observation_script` makes.

    Raises:
        ObservationError: the output is cut off or is not such a script's output.
    """
    sections = _split(output)
    if "end" not in sections:
        last = list(sections)[-1] if sections else "nothing"
        raise ObservationError(
            f"the observation broke off after section {last!r}",
            remedy="look at the host's SSH session limits, disk and memory, then run again",
        )
    missing = sorted(_CORE - set(sections))
    if missing:
        raise ObservationError(f"the observation lacks section(s) {', '.join(missing)}")
    return Observation(
        facts=_pairs(sections["facts"].text),
        os_release=_pairs(sections["os-release"].text),
        packages=_packages(sections["packages"].text),
        files=_files(sections["files"].text),
        units=_units(sections["units"].text),
        sysctls=_pairs(sections["sysctls"].text),
        keys=_keys(sections["keys"].text),
        sections={name: s for name, s in sections.items() if name not in _CORE and name != "end"},
    )


def _split(output: str) -> dict[str, Section]:
    sections: dict[str, Section] = {}
    name: str | None = None
    lines: list[str] = []
    rc = 0
    for line in output.split("\n"):
        if line.startswith("@@rc:") and name is not None:
            code = line[5:].strip()
            rc = int(code) if code.isdigit() else -1
        elif line.startswith(_MARK):
            if name is not None:
                sections[name] = Section("\n".join(lines), rc)
            name, lines, rc = line[len(_MARK) :].strip(), [], 0
        else:
            lines.append(line)
    if name is not None:
        sections[name] = Section("\n".join(lines), rc)
    return sections


def _pairs(text: str) -> dict[str, str]:
    pairs = {}
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if equals:
            pairs[key.strip()] = value.strip().strip('"')
    return pairs


def _packages(text: str) -> dict[str, ObservedPackage]:
    packages: dict[str, ObservedPackage] = {}
    for line in text.splitlines():
        parts = line.split("\t")
        if len(parts) != 3 or parts[0][1:2] in ("n", "c"):  # not installed, or only its configuration is left
            continue
        status, name, version = parts
        packages[name] = ObservedPackage(name, version, status)
    return packages


_KINDS = {
    "regular file": "file",
    "regular empty file": "file",
    "directory": "directory",
    "symbolic link": "link",
}


def _files(text: str) -> dict[str, ObservedFile]:
    files: dict[str, ObservedFile] = {}
    for line in text.splitlines():
        parts = line.split("\t")
        if len(parts) != 9:
            continue
        kind, mode, owner, group, mtime, size, sha256, target, path = parts
        files[path] = ObservedFile(
            path=path,
            kind=_KINDS.get(kind, "other"),
            mode=mode.rjust(4, "0"),
            owner=owner,
            group=group,
            mtime=_number(mtime),
            size=int(_number(size)),
            sha256=sha256,
            target=target,
        )
    return files


def _number(text: str) -> float:
    try:
        return float(text.replace(",", "."))
    except ValueError:
        return 0.0


_TIMESTAMP = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?)")


def _started(text: str) -> float | None:
    found = _TIMESTAMP.search(text)
    if not found:
        return None
    stamp = found.group(1)
    form = "%Y-%m-%d %H:%M:%S.%f" if "." in stamp else "%Y-%m-%d %H:%M:%S"
    return datetime.strptime(stamp, form).replace(tzinfo=UTC).timestamp()


def _units(text: str) -> dict[str, ObservedUnit]:
    units: dict[str, ObservedUnit] = {}
    for block in re.split(r"\n\s*\n", text):
        pairs = _pairs(block)
        name = pairs.get("Id")
        if not name:
            continue
        unit = ObservedUnit(
            name=name,
            load=pairs.get("LoadState", ""),
            active=pairs.get("ActiveState", ""),
            sub=pairs.get("SubState", ""),
            enabled=pairs.get("UnitFileState", ""),
            started=_started(pairs.get("ExecMainStartTimestamp", ""))
            or _started(pairs.get("ActiveEnterTimestamp", "")),
            needs_reload=pairs.get("NeedDaemonReload") == "yes",
            result=pairs.get("Result", ""),
            restarts=int(restarts) if (restarts := pairs.get("NRestarts", "")).isdigit() else None,
        )
        for alias in {name, *pairs.get("Names", "").split()}:
            units[alias] = unit
    return units


def _keys(text: str) -> dict[str, tuple[str, ...]]:
    keys: dict[str, list[str]] = {}
    path = ""
    primary = False
    for line in text.splitlines():
        if line.startswith("path="):
            path = line[5:]
            keys[path] = []
        elif line.startswith("pub:"):
            primary = True
        elif line.startswith("fpr:") and primary and path:
            keys[path] += [field.upper() for field in line.split(":")[9:10]]
            primary = False
    return {name: tuple(prints) for name, prints in keys.items()}
