"""Who has the GPUs open, and whether the modules can go: text of the host in, values out."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

PROCESSES, CONTAINERS, MODULES = "gpu-holders", "gpu-containers", "module-references"

COMMANDS = {
    # An open descriptor or a mapping of a device node: both keep the module in use.
    PROCESSES: r"""{ find /proc/[0-9]*/fd -maxdepth 1 -lname '/dev/nvidia*' -printf '%h\n' 2>/dev/null
grep -ls /dev/nvidia /proc/[0-9]*/maps 2>/dev/null; } | cut -d/ -f3 | sort -un | while read -r p; do
group=$(sed 's/^[^:]*:[^:]*://' "/proc/$p/cgroup" 2>/dev/null | awk 'length > length(l) { l = $0 } END { print l }')
printf '%s\t%s\t%s\n' "$p" "$(cat "/proc/$p/comm" 2>/dev/null)" "$group"; done; :""",
    # No environment is read: it holds keys.
    CONTAINERS: "command -v docker >/dev/null 2>&1 || exit 0; timeout 20 docker ps -q --no-trunc | "
    "xargs -r timeout 20 docker inspect --format "
    "'{{.Id}} {{.Name}} {{.HostConfig.Runtime}} {{json .HostConfig.DeviceRequests}}'",
    MODULES: "lsmod 2>/dev/null || awk '{ print $1, $2, $3, $4 }' /proc/modules",
}
"""Section name -> command."""

OURS = "metalserve-vllm-"
"""What the names of the engines' containers and units begin with."""

_PASSING = ("nvidia-smi", "nvidia-modprobe")
"""Programs that look and are gone: an upgrade does not fail because somebody looked."""

_CONTAINER = re.compile(r"(?:docker[-/]|/)([0-9a-f]{64})")
_UNIT = re.compile(r"([^/]+\.(?:service|scope))(?:/|$)")


@dataclass(frozen=True, slots=True)
class Container:
    """A running container.

    Attributes:
        name: without the leading slash.
        gpus: it was given GPUs.
    """

    name: str
    gpus: bool


def parse_containers(text: str) -> dict[str, Container]:
    """Read the containers' section: id -> container."""
    found = {}
    for line in text.splitlines():
        words = line.split(" ", 3)
        if len(words) == 4 and re.fullmatch(r"[0-9a-f]{64}", words[0]):
            gpus = words[2] == "nvidia" or words[3].strip() not in ("null", "[]", "")
            found[words[0]] = Container(words[1].lstrip("/"), gpus)
    return found


def strangers(processes: str, containers: str, units: Collection[str]) -> tuple[str, ...]:
    """Return who uses the GPUs beside the engines and `units`, in words; nobody stops them but their owner.

    Args:
        processes: the section of processes.
        containers: the section of containers.
        units: units that the upgrade stops by itself.
    """
    known = parse_containers(containers)
    found = []
    for line in processes.splitlines():
        pid, _, rest = line.partition("\t")
        command, _, group = rest.partition("\t")
        if not pid.isdigit() or command in _PASSING:
            continue
        container = _CONTAINER.search(group)
        names = _UNIT.findall(group)
        unit = names[-1] if names else ""
        if container is not None:
            there = known.get(container[1])
            if there is None:
                found.append(f"container {container[1][:12]} (process {pid}, {command})")
            elif not there.name.startswith(OURS):
                found.append(f"container {there.name} (process {pid}, {command})")
        elif unit not in units and not unit.startswith(OURS):
            found.append(f"process {pid} ({command}{f', unit {unit}' if unit else ''})")
    told = {word for words in found for word in words.split()}
    found += [
        f"container {c.name}" for c in known.values() if c.gpus and not c.name.startswith(OURS) and c.name not in told
    ]
    return tuple(dict.fromkeys(found))


def in_use(text: str, unload: Sequence[str]) -> str:
    """Return why the modules `unload` cannot all be unloaded, "" when nothing but themselves refers to them.

    Args:
        text: the section of modules, as lsmod prints it.
        unload: modules that go together.
    """
    for line in text.splitlines():
        words = line.split()
        if not words or words[0] not in unload:
            continue
        if len(words) < 3 or not words[2].lstrip("-").isdigit():
            return f"the reference count of {words[0]} is not known"
        users = [u for u in (words[3].split(",") if len(words) > 3 else []) if u and u != "-"]
        others = [u for u in users if u not in unload]
        if others:
            return f"module {words[0]} is in use by {', '.join(others)}"
        held = int(words[2]) - len(users)
        if held > 0:
            return f"module {words[0]} is in use (reference count {held})"
    return ""
