"""The difference between what a host should be and what it is: pure, printable, the base of every change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from metalserve.desired.model import (
    Action,
    Desired,
    Directory,
    File,
    Module,
    Package,
    Reboot,
    SigningKey,
    Sysctl,
    Unit,
)
from metalserve.desired.observed import Observation, ObservedUnit

Resource: TypeAlias = Package | SigningKey | Directory | File | Unit | Sysctl | Module | Action | Reboot


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that differs.

    Attributes:
        resource: what is wanted.
        summary: one line for people: what is, and what it becomes.
        verbs: for units, what to do in order ("mask", "enable", "restart" ...); else empty.
    """

    resource: Resource
    summary: str
    verbs: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """Lower-case name of the kind of resource ("package", "file", ...)."""
        return type(self.resource).__name__.lower()


def difference(desired: Desired, observed: Observation) -> tuple[Change, ...]:
    """List what differs, in the order in which it is to be mended.

    Kernel settings and modules are left alone where the host does not own its kernel (a container) or is not
    live (an image); units are then only enabled or masked, never started.
    """
    return tuple(_changes(desired, observed))


def _changes(desired: Desired, observed: Observation) -> Iterator[Change]:
    yield from _actions(desired, observed, "early")
    for directory in desired.directories:
        yield from _directory(directory, observed)
    for key in desired.keys:
        if key.fingerprint.upper() not in observed.keys.get(key.path, ()):
            yield Change(key, f"key {key.path}: not there with fingerprint {key.fingerprint[-16:].upper()}")
    written: set[str] = set()
    for file in desired.files:
        for change in _file(file, observed):
            written.add(file.path)
            yield change
    packages = [c for p in desired.packages for c in _package(p, observed)]
    yield from packages
    yield from _actions(desired, observed, "middle")
    if observed.live:
        for module in desired.modules:
            if module.name.replace("-", "_") not in loaded_modules(observed):
                yield Change(module, f"module {module.name}: not loaded -> loaded")
        if observed.kernel_settings_writable:
            for sysctl in desired.sysctls:
                live = observed.sysctls.get(sysctl.key)
                if live is not None and live.split() != sysctl.value.split():
                    yield Change(sysctl, f"sysctl {sysctl.key}: {live} -> {sysctl.value}")
    for unit in desired.units:
        yield from _unit(unit, observed, written)
    yield from _actions(desired, observed, "late")
    if desired.reboot is not None and observed.live:
        yield Change(desired.reboot, f"reboot: {desired.reboot.reason}")


def loaded_modules(observed: Observation) -> frozenset[str]:
    """Names of the loaded kernel modules the observation's `modules` section lists (as /proc/modules or lsmod do)."""
    return frozenset(line.split()[0] for line in observed.text("modules").splitlines() if line.strip())


def _actions(desired: Desired, observed: Observation, phase: str) -> Iterator[Change]:
    for action in desired.actions:
        if action.phase == phase and not action.done(observed):
            yield Change(action, f"{action.name}{f' ({action.why})' if action.why else ''}")


def _package(package: Package, observed: Observation) -> Iterator[Change]:
    found = observed.packages.get(package.name)
    if not package.present:
        if found is not None:
            yield Change(package, f"package {package.name}: {found.version} -> removed")
        return
    if found is not None and not found.installed:
        yield Change(package, f"package {package.name}: half-installed ({found.status.strip()}) -> repaired")
    elif not package.satisfied_by(observed.version_of(package.name)):
        before = found.version if found is not None else "absent"
        yield Change(package, f"package {package.name}: {before} -> {package.version or 'installed'}")


def _directory(directory: Directory, observed: Observation) -> Iterator[Change]:
    found = observed.files.get(directory.path)
    if found is None:
        yield Change(directory, f"directory {directory.path}: absent -> created")
    elif found.kind not in ("directory", "link"):
        yield Change(directory, f"directory {directory.path}: is a {found.kind} -> refused")
    elif found.kind == "directory" and (found.mode, found.owner, found.group) != (
        directory.mode.rjust(4, "0"),
        directory.owner,
        directory.group,
    ):
        yield Change(
            directory,
            f"directory {directory.path}: {found.mode} {found.owner}:{found.group} -> "
            f"{directory.mode} {directory.owner}:{directory.group}",
        )


def _file(file: File, observed: Observation) -> Iterator[Change]:
    found = observed.files.get(file.path)
    if file.content is None:
        if found is not None:
            yield Change(file, f"file {file.path}: -> removed")
        return
    if found is None:
        yield Change(file, f"file {file.path}: absent -> written")
        return
    differences = []
    if found.kind != "file" or found.sha256 != file.sha256:
        differences.append("content" if found.kind == "file" else found.kind)
    if found.mode != file.mode.rjust(4, "0"):
        differences.append(f"mode {found.mode} -> {file.mode}")
    if (found.owner, found.group) != (file.owner, file.group):
        differences.append(f"owner {found.owner}:{found.group} -> {file.owner}:{file.group}")
    if differences:
        yield Change(file, f"file {file.path}: {', '.join(differences)}")


def _unit(unit: Unit, observed: Observation, written: set[str]) -> Iterator[Change]:
    found = observed.units.get(unit.name)
    known = found is not None and found.load not in ("not-found", "")
    if unit.optional and observed.live and not known:
        return
    verbs: list[str] = []
    if unit.masked:
        if found is None or (found.load != "masked" and found.enabled != "masked"):
            verbs.append("mask")
        if observed.live and found is not None and found.active in ("active", "activating"):
            verbs.append("stop")
    else:
        if unit.enabled is not None:
            verbs += _enablement(unit, found)
        if observed.live and unit.running is not None:
            verbs += _activity(unit, found, observed, written)
        if observed.live and not verbs and found is not None and found.needs_reload:
            # A run that died between writing the unit file and the reload; any other verb brings the reload along.
            verbs.append("daemon-reload")
    if verbs:
        state = f"{found.enabled or '-'}/{found.active or '-'}" if found is not None else "absent"
        yield Change(unit, f"unit {unit.name}: {state} -> {', '.join(verbs)}", tuple(verbs))


def _enablement(unit: Unit, found: ObservedUnit | None) -> list[str]:
    enabled = found.enabled if found is not None else ""
    if unit.enabled and enabled not in (
        "enabled",
        "static",
        "alias",
        "indirect",
        "generated",
        "linked",
        "enabled-runtime",
    ):
        return ["enable"]
    if not unit.enabled and enabled in ("enabled", "enabled-runtime"):
        return ["disable"]
    return []


def _activity(unit: Unit, found: ObservedUnit | None, observed: Observation, written: set[str]) -> list[str]:
    active = found is not None and found.active in ("active", "reloading")
    if not unit.running:
        return ["stop"] if active or (found is not None and found.active == "activating") else []
    if not active:
        return ["start"]
    assert found is not None
    newer = written & set(unit.restart_on)
    if not newer and found.started is not None:
        newer = {p for p in unit.restart_on if p in observed.files and observed.files[p].mtime > found.started}
    if newer:
        return ["reload" if unit.reload else "restart"]
    return []
