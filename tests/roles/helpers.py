"""Hosts made by hand for the tests of roles: no SSH, no pyinfra, only values.

`make_node` builds a host from settings and what an observation would have told of it. `after` applies what a stage
wants to that host's observation, so that a test can ask the stage again: a second run must want nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from metalserve.desired.diff import Change, difference
from metalserve.desired.model import Action, Desired, Directory, File, Module, Package, SigningKey, Sysctl, Unit
from metalserve.desired.node import Node
from metalserve.desired.observed import Observation, ObservedFile, ObservedPackage, ObservedUnit
from metalserve.hardware.node import NodeHardware
from metalserve.hardware.section import Section
from metalserve.releases import Release, load_release
from metalserve.settings import HostSettings

RELEASE = "2026.11-lts"
BOOTED = 1_700_000_000.0
"""When the hosts of these tests booted, seconds since the epoch; files are older, units start then."""

OS_NAMES = {
    "debian-12": ("debian", "12", "bookworm"),
    "debian-13": ("debian", "13", "trixie"),
    "ubuntu-22.04": ("ubuntu", "22.04", "jammy"),
    "ubuntu-24.04": ("ubuntu", "24.04", "noble"),
}


def os_release(os_id: str) -> dict[str, str]:
    """Return /etc/os-release of `os_id` ("debian-12") as a mapping."""
    name, version, codename = OS_NAMES.get(os_id, (*os_id.split("-", 1), "unknown"))
    return {
        "ID": name,
        "VERSION_ID": version,
        "VERSION_CODENAME": codename,
        "PRETTY_NAME": f"{name.capitalize()} {version} ({codename})",
    }


def lspci(gpus: Iterable[str], *, switches: int = 0, switch_id: str = "22a3", bridges: int = 0) -> str:
    """Return `lspci -Dnn` of a host with GPUs of these PCI device ids, NVSwitches and NVLink5 bridge functions."""
    lines = ["0000:00:00.0 Host bridge [0600]: Intel Corporation Device [8086:09a2] (rev 20)"]
    lines += [
        f"0000:{bus:02x}:00.0 3D controller [0302]: NVIDIA Corporation Device [10de:{device}] (rev a1)"
        for bus, device in enumerate(gpus, start=0x19)
    ]
    lines += [
        f"0000:{0xC0 + i:02x}:00.0 Bridge [0680]: NVIDIA Corporation Device [10de:{switch_id}] (rev a1)"
        for i in range(switches)
    ]
    lines += [
        f"0000:{0xD0 + i:02x}:00.0 Infiniband controller [0207]: Mellanox Technologies MT2910 [15b3:1021]"
        for i in range(bridges)
    ]
    return "\n".join(lines) + "\n"


def make_node(
    *,
    os_id: str = "debian-12",
    release: str | Release = RELEASE,
    settings: Mapping[str, Any] | None = None,
    gpus: Iterable[str] = ("2330",) * 8,
    switches: int = 0,
    packages: Mapping[str, str] | None = None,
    files: Mapping[str, str | ObservedFile] | None = None,
    units: Mapping[str, ObservedUnit] | None = None,
    modules: Iterable[str] = (),
    sections: Mapping[str, str | Section] | None = None,
    sysctls: Mapping[str, str] | None = None,
    facts: Mapping[str, str] | None = None,
    hardware: Callable[[NodeHardware], NodeHardware] | None = None,
) -> Node:
    """Return a host.

    Args:
        os_id: operating system.
        release: name of a release, or one made by the test.
        settings: host data beside the release's name, as in an inventory.
        gpus: PCI device ids of its GPUs, in `lspci`.
        switches: number of NVSwitches in `lspci`.
        packages: installed packages and their full versions.
        files: path -> content, or a whole `ObservedFile`.
        units: unit name -> state (see `unit`).
        modules: loaded kernel modules.
        sections: further outputs of commands; a `str` means exit status 0.
        sysctls: live kernel settings.
        facts: facts that differ from those of a bare-metal host.
        hardware: changes the hardware that was read, for what is tedious to say as tool output.
    """
    base_facts = {
        "kernel": "6.1.0-44-amd64",
        "arch": "x86_64",
        "hostname": "node",
        "uid": "0",
        "now": str(BOOTED + 1000),
        "boot_id": "b0",
        "live": "1",
        "reboot_marker": "0",
        "proc_sys_rw": "1",
        "virt": "none",
        "memory_kib": str(1024 * 1024 * 1024),
        "secure_boot": "0",
    }
    told = {"lspci": lspci(gpus, switches=switches), "modules": "".join(f"{m}\n" for m in modules), **(sections or {})}
    observed = Observation(
        facts={**base_facts, **(facts or {})},
        os_release=os_release(os_id),
        packages={n: ObservedPackage(n, v, "ii ") for n, v in (packages or {}).items()},
        files={p: f if isinstance(f, ObservedFile) else a_file(p, f) for p, f in (files or {}).items()},
        units=dict(units or {}),
        sysctls=dict(sysctls or {}),
        sections={k: s if isinstance(s, Section) else Section(s) for k, s in told.items()},
    )
    data = {"release": release if isinstance(release, str) else release.name, **(settings or {})}
    node = Node(
        name="node",
        settings=HostSettings.from_data(data, host="node", source="test"),
        release=load_release(release) if isinstance(release, str) else release,
        observed=observed,
    )
    return with_hardware(node, hardware) if hardware is not None else node


def with_hardware(node: Node, change: Callable[[NodeHardware], NodeHardware]) -> Node:
    """Return `node` with other hardware; it stays so only for this very value, not for a newer observation."""
    changed = replace(node)
    changed.__dict__["hardware"] = change(node.hardware)  # fills the cache of the cached property
    return changed


def a_file(path: str, content: str = "", *, mode: str = "0644", mtime: float = BOOTED - 1000) -> ObservedFile:
    """Return a regular file of root as an observation tells it."""
    digest = hashlib.sha256(content.encode()).hexdigest()
    return ObservedFile(path, "file", mode, "root", "root", mtime, len(content), digest)


def unit(
    name: str, *, active: str = "active", enabled: str = "enabled", started: float | None = BOOTED, load: str = "loaded"
) -> ObservedUnit:
    """Return the state of a systemd unit; running and enabled unless told otherwise."""
    return ObservedUnit(name, load, active, "running" if active == "active" else "dead", enabled, started)


def no_unit(name: str) -> ObservedUnit:
    """Return what systemd says of a unit that the host does not have."""
    return ObservedUnit(name, "not-found", "inactive", "dead", "", None)


def changes(desired: Desired, node: Node) -> list[str]:
    """Return the summaries of what `desired` would change on `node`."""
    return [c.summary for c in difference(desired, node.observed)]


def full_version(package: Package) -> str:
    """Return the version that apt would install for `package`."""
    return f"{package.version}-1" if package.version else "1.0-1"


def after(node: Node, *wishes: Desired, sections: Mapping[str, str | Section] | None = None) -> Node:
    """Return `node` as it is observed once `wishes` have come true, at a later time than any earlier file or start.

    Actions and reboots say nothing of what they leave behind: give their traces in `sections` or make them by hand.
    """
    seen = node.observed
    now = float(seen.facts.get("now", BOOTED)) + 10
    packages, files, units = dict(seen.packages), dict(seen.files), dict(seen.units)
    sysctls, keys = dict(seen.sysctls), dict(seen.keys)
    modules = seen.text("modules").split()
    for wish in wishes:
        written: set[str] = set()
        for change in difference(wish, replace(seen, packages=packages, files=files, units=units, keys=keys)):
            written |= _apply(change, now, packages, files, units, sysctls, keys, modules)
    told = {k: s if isinstance(s, Section) else Section(s) for k, s in (sections or {}).items()}
    observed = replace(
        seen,
        facts={**seen.facts, "now": str(now + 20)},
        packages=packages,
        files=files,
        units=units,
        sysctls=sysctls,
        keys=keys,
        sections={**seen.sections, "modules": Section("".join(f"{m}\n" for m in modules)), **told},
    )
    return node.with_observation(observed)


def _apply(
    change: Change,
    now: float,
    packages: dict[str, ObservedPackage],
    files: dict[str, ObservedFile],
    units: dict[str, ObservedUnit],
    sysctls: dict[str, str],
    keys: dict[str, tuple[str, ...]],
    modules: list[str],
) -> set[str]:
    match change.resource:
        case Package(name=name, present=False):
            packages.pop(name, None)
        case Package() as package:
            packages[package.name] = ObservedPackage(package.name, full_version(package), "ii ")
        case File(path=path, content=None):
            files.pop(path, None)
        case File(path=path, content=str(content), mode=mode, owner=owner, group=group):
            new = a_file(path, content, mode=mode.rjust(4, "0"), mtime=now)
            files[path] = replace(new, owner=owner, group=group)
            return {path}
        case Directory(path=path, mode=mode, owner=owner, group=group):
            files[path] = ObservedFile(path, "directory", mode.rjust(4, "0"), owner, group, now)
        case SigningKey(path=path, fingerprint=fingerprint):
            files[path] = a_file(path, "key", mtime=now)
            keys[path] = (fingerprint.upper(),)
        case Sysctl(key=key, value=value):
            sysctls[key] = value
        case Module(name=name):
            modules.append(name.replace("-", "_"))
        case Unit() as wanted:
            before = units.get(wanted.name)
            enabled = "enabled" if wanted.enabled else (before.enabled if before is not None else "disabled")
            running = wanted.running is True or (
                wanted.running is None and before is not None and before.active == "active"
            )
            units[wanted.name] = unit(
                wanted.name,
                active="active" if running else "inactive",
                enabled="masked" if wanted.masked else enabled if wanted.enabled is not False else "disabled",
                started=now + 5 if running else None,
                load="masked" if wanted.masked else "loaded",
            )
        case Action():
            pass
    return set()
