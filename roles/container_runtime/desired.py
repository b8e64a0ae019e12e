"""What `container_runtime` wants of a host: pure."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from metalserve.desired.model import Action, Desired, File, NotYetKnown, Package, Unit, Watch
from metalserve.desired.node import Node
from metalserve.desired.observed import Observation
from metalserve.driver.gpu_access import GpuAccess, docker_version, gpu_access
from metalserve.driver.platform import Platform, platform_of
from metalserve.driver.repository import key_path, repository_wish, source_path
from metalserve.errors import MetalserveError
from metalserve.releases import Release, version_key
from metalserve.settings import HostSettings
from metalserve.verify.finding import Finding
from roles.base.desired import check_host
from roles.container_runtime.daemon import DAEMON_JSON, merge, parse, wanted
from roles.container_runtime.taking import RELOADED, take

MANAGED_BY = "# Written by metalserve (roles/container_runtime); changes here are undone by its next run.\n"
TOOLKIT_PACKAGES = (
    "nvidia-container-toolkit",
    "nvidia-container-toolkit-base",
    "libnvidia-container-tools",
    "libnvidia-container1",
)
"""Must all be of one version, since 1.18 strictly. Source: NVIDIA container toolkit installation guide."""

OLD_LISTS = tuple(
    f"/etc/apt/sources.list.d/{name}.list"
    for name in ("libnvidia-container", "nvidia-docker", "nvidia-container-runtime", "nvidia-container-toolkit")
)
"""Lists of earlier installations; they name the toolkit's repository with another key, and apt refuses both then."""

SOURCES = ("container-toolkit", "docker")
CDI_SPEC = "/var/run/cdi/nvidia.yaml"
REFRESH_PATH, REFRESH_SERVICE = "nvidia-cdi-refresh.path", "nvidia-cdi-refresh.service"

_CDI_WORDS = r'name: *"?[0-9]+"?|lib(cuda|nvidia-ml)\.so\.[0-9.]+[0-9]'
_SECTION_DAEMON, _SECTION_INFO, _SECTION_CDI = "docker-daemon-json", "docker-info", "cdi-spec"

_WRITE_CDI = f"""
mkdir -p {CDI_SPEC.rpartition("/")[0]}
ms_said=$(nvidia-ctk cdi generate --output={CDI_SPEC} 2>&1) || {{ printf '%s\\n' "$ms_said" | tail -n 10
  ms_fail 'nvidia-ctk could not write {CDI_SPEC} -> see what it says above'; }}
"""


def watch(settings: HostSettings, release: Release) -> Watch:
    """What an observation must look at for this role."""
    return Watch(
        paths=(DAEMON_JSON, RELOADED, *OLD_LISTS, *(f(n) for n in SOURCES for f in (source_path, key_path))),
        units=("docker.service", REFRESH_PATH, REFRESH_SERVICE),
        commands={
            _SECTION_DAEMON: f"cat {DAEMON_JSON}",
            _SECTION_INFO: "timeout 20 docker info --format '{{json .}}'",
            # Of the specification only what tells whether it is of this driver and these GPUs.
            _SECTION_CDI: f"grep -oE '{_CDI_WORDS}' {CDI_SPEC} | sort -u",
        },
    )


def repositories(node: Node) -> Desired:
    """Package sources beside NVIDIA's own, where settings name them; lists of earlier installations go."""
    here, given = _platform(node), node.settings.repositories
    wish = Desired(files=tuple(File(path, None) for path in OLD_LISTS))
    for name, repository in (("container-toolkit", given.container_toolkit), ("docker", given.docker)):
        if repository is not None:
            wish += repository_wish(name, repository, here, MANAGED_BY)
        else:
            wish += Desired(files=(File(source_path(name), None),))
    return wish


def _platform(node: Node) -> Platform:
    check_host(node)
    return platform_of(node.observed.os_id, node.observed.facts.get("arch", "x86_64"))


def install(node: Node) -> Desired:
    """Docker Engine and the four packages of the toolkit."""
    version = node.release.container_toolkit.version
    return Desired(packages=(*_docker(node), *(Package(name, version) for name in TOOLKIT_PACKAGES)))


def _docker(node: Node) -> tuple[Package, ...]:
    if node.settings.repositories.docker is not None:
        return tuple(Package(n) for n in ("docker-ce", "docker-ce-cli", "containerd.io"))
    if node.observed.version_of("docker-ce") is not None:
        return ()  # an engine that the operator installed from Docker's repository is not swapped for an older one
    # Debian 13 split the client off, as a recommendation only.
    split = ("docker-cli",) if node.observed.os_id == "debian-13" else ()
    return tuple(Package(n) for n in ("docker.io", *split))


def access(node: Node) -> GpuAccess:
    """Return how containers get GPUs on this host.

    Raises:
        NotYetKnown: Docker is not installed yet.
        MetalserveError: the installed Docker is too old for the release.
    """
    version = docker_version(node.observed)
    if version is None:
        raise NotYetKnown(
            "Docker's settings: known only after Docker is installed", remedy="run roles.container_runtime"
        )
    if version_key(version) < version_key(node.release.docker.minimum):
        raise MetalserveError(
            f"Docker {version} is older than {node.release.docker.minimum}, the oldest that release "
            f"{node.release.name} runs on",
            remedy="upgrade the distribution's docker.io, or set repositories.docker to Docker's own repository",
        )
    return gpu_access(node.settings.container, version, node.release)


def configure(node: Node) -> Desired:
    """daemon.json with our settings merged in, and the daemon running with it.

    Raises:
        MetalserveError: daemon.json is broken (it is left as it is), or live-restore is asked of a swarm's daemon.
    """
    current, info = _current(node), docker_info(node.observed)
    merged = merge(current, wanted(current, node.settings.container, access(node)))
    swarm = (info.get("Swarm") or {}).get("LocalNodeState") in ("active", "pending", "locked")
    if swarm and merged.get("live-restore"):
        raise MetalserveError(
            "this Docker is part of a swarm, and no daemon with live-restore starts in one",
            where=DAEMON_JSON,
            remedy="leave the swarm (`docker swarm leave`), or set container.live_restore to false",
        )
    file: File | None = None
    if merged != current or DAEMON_JSON not in node.observed.files:
        found = node.observed.files.get(DAEMON_JSON)
        # It may hold the operator's proxy password: keep its mode, show nothing of it.
        content = json.dumps(merged, indent=2, sort_keys=True) + "\n"
        file = File(DAEMON_JSON, content, mode=found.mode if found else "0644", secret=True)
    changed = frozenset(key for key in {*merged, *current} if merged.get(key) != current.get(key))
    return take(node, file, changed, info, live_restore=bool(merged.get("live-restore")))


def _current(node: Node) -> dict[str, Any]:
    return parse(node.observed.text(_SECTION_DAEMON)) if DAEMON_JSON in node.observed.files else {}


def devices(node: Node) -> Desired:
    """The CDI specification of the loaded driver and these GPUs, and the toolkit's units that renew it at boot."""
    if access(node) != "cdi":
        return Desired()
    node.need_driver("the CDI devices")
    return Desired(
        units=(Unit(REFRESH_SERVICE, running=None, optional=True), Unit(REFRESH_PATH, optional=True)),
        actions=(
            Action(
                "write the CDI specification of the GPUs",
                lambda observed: not cdi_problem(node.with_observation(observed)),
                _WRITE_CDI,
                why=cdi_problem(node),
                phase="late",
            ),
        ),
    )


def cdi_problem(node: Node) -> str:
    """Tell what is wrong with the CDI specification, "" when it fits driver and GPUs."""
    text = node.observed.text(_SECTION_CDI)
    listed = {int(n) for n in re.findall(r'name: *"?(\d+)"?', text)}
    if not listed:
        return "absent"
    missing = sorted({g.index for g in node.hardware.gpus} - listed)
    if missing:
        return f"lacks GPU {', '.join(map(str, missing))}"
    gone = sorted(listed - {g.index for g in node.hardware.gpus})
    if gone and node.hardware.gpus:
        return f"names GPU {', '.join(map(str, gone))}, which is not there"
    versions = set(re.findall(r"\.so\.(\d+\.\d[\d.]*)", text))
    driver = node.hardware.driver_version
    if driver is not None and versions and versions != {driver}:
        return f"of driver {', '.join(sorted(versions))}"
    return ""


def findings(node: Node) -> Sequence[Finding]:
    """Prove that Docker answers with our settings and knows how to hand out GPUs."""
    info = docker_info(node.observed)
    version = str(info.get("ServerVersion") or "")
    answer = _finding(
        node,
        "docker-answers",
        bool(version),
        "Docker Engine answers",
        f"version {version}" if version else _first(node.observed.text(_SECTION_INFO)),
        "`journalctl -u docker.service -n 50` tells why",
    )
    if not version:
        return (answer,)
    how = access(node)
    runtimes = info.get("Runtimes") or {}
    root = str(info.get("DockerRootDir") or "")
    found = [
        answer,
        _finding(
            node,
            "docker-nvidia-runtime",
            "nvidia" in runtimes,
            "runtime nvidia",
            ", ".join(sorted(runtimes)) or "none",
            "run roles.container_runtime; another tool rewrote daemon.json after it",
        ),
        _finding(
            node,
            "docker-data-root",
            root == node.settings.container.data_root,
            node.settings.container.data_root,
            root,
            "run roles.container_runtime",
        ),
    ]
    if how == "cdi":
        problem = cdi_problem(node)
        found.append(
            _finding(
                node,
                "cdi-devices",
                not problem,
                "a CDI specification of this driver and all GPUs",
                problem or "it fits",
                "run roles.container_runtime",
            )
        )
    return found


def docker_info(observed: Observation) -> dict[str, Any]:
    """Return what `docker info` told, {} when Docker did not answer."""
    text = observed.text(_SECTION_INFO)
    # Warnings of the daemon come before or after the object, on lines of their own.
    for line in text.splitlines():
        if line.startswith("{"):
            try:
                found = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(found, dict) and not found.get("ServerErrors"):
                return found
    return {}


def _first(text: str) -> str:
    for line in text.splitlines():
        if line.startswith("{"):
            errors = re.findall(r'"ServerErrors":\["([^"]*)"', line)
            return errors[0] if errors else "no answer"
        if line.strip():
            return line.strip()
    return "no answer"


def _finding(node: Node, check: str, good: bool, expected: str, observed: str, remedy: str) -> Finding:
    return Finding(
        check=check,
        status="ok" if good else "fail",
        subject=node.name,
        expected=expected,
        observed=observed,
        impact="no container gets a GPU",
        remedy=remedy,
        source="docker info, nvidia-ctk",
    )
