"""Names and places of the engines on a host, shared by the role's parts."""

from __future__ import annotations

LIBRARY = "/usr/local/lib/metalserve"
GATE = f"{LIBRARY}/engine-gate"
PROBE = f"{LIBRARY}/engine-probe"
RECORD = f"{LIBRARY}/engine-record"
WARM = f"{LIBRARY}/engine-warm"
REPLACE = f"{LIBRARY}/engine-replace"
WATCH = f"{LIBRARY}/engine-watch"
GROUP = f"{LIBRARY}/engine-group"
BEACON = f"{LIBRARY}/engine-beacon"

ENVIRONMENT = "/etc/metalserve/engine.env"
"""Environment of the containers; holds the API key, so root only."""

AUTHORISATION = "/etc/metalserve/engine-auth"
"""The header with the API key that probes send (`curl -H @FILE`): no key ever stands in a command line."""

CACHE = "/var/cache/metalserve/vllm"
ARCHIVES = "/var/cache/metalserve/images"
IMAGE_MARKER = "/var/lib/metalserve/engine-image"
"""SHA-256 of the archive that the image was loaded from."""

PROVEN = "/var/lib/metalserve/engines"
"""Units (and their environment) that gave a token when they were last started: what a failed replacement goes back to.
Root's alone, since the environment holds the API key."""

LAUNCHES = "/var/lib/metalserve/launch"
"""What each engine's log said of its last start, a JSON file a replica."""

LOADS = "/var/lib/metalserve/loads.jsonl"
"""The last 200 starts of the host's engines, a line of JSON each (`metalserve.weights.loads`)."""

UNVERIFIED = "/var/lib/metalserve/unverified"
"""A node that was just made from a template has it (metalserve/templates/firstboot.py), and the gate starts nothing."""

UNIT_DIRECTORY = "/etc/systemd/system"
QUADLET_DIRECTORY = "/etc/containers/systemd"
UNIT_GLOB = f"{UNIT_DIRECTORY}/metalserve-vllm-*.service"
QUADLET_GLOB = f"{QUADLET_DIRECTORY}/metalserve-vllm-*.container"
WATCH_UNIT = "metalserve-vllm-watch.service"
WATCH_UNIT_PATH = f"{UNIT_DIRECTORY}/{WATCH_UNIT}"
BEACON_SOCKET = "metalserve-vllm-beacon.socket"
BEACON_SOCKET_PATH = f"{UNIT_DIRECTORY}/{BEACON_SOCKET}"
BEACON_SERVICE_PATH = f"{UNIT_DIRECTORY}/metalserve-vllm-beacon@.service"
REFUSED = "/var/lib/metalserve/engines-refused"
"""Why the last replacement did not answer, until one does."""

SCRIPTS = {
    GATE: ("gate.sh", "0755"),
    PROBE: ("probe.sh", "0755"),
    RECORD: ("record.sh", "0755"),
    WARM: ("warm.sh", "0755"),
    REPLACE: ("replace.sh", "0755"),
    WATCH: ("watch.sh", "0755"),
    GROUP: ("group.sh", "0644"),
    BEACON: ("beacon.sh", "0755"),
}
"""Path on the host -> name below files/vllm, mode."""


def container_name(replica: int) -> str:
    """Return the container's name, and its unit's without suffix."""
    return f"metalserve-vllm-{replica}"


def unit_name(replica: int) -> str:
    """Return the name of a replica's unit."""
    return f"{container_name(replica)}.service"


def unit_path(replica: int, runtime: str = "docker") -> str:
    """Return the path of the file that a replica's unit is made of."""
    if runtime == "podman":
        return f"{QUADLET_DIRECTORY}/{container_name(replica)}.container"
    return f"{UNIT_DIRECTORY}/{unit_name(replica)}"


def replica_of(path: str) -> int | None:
    """Return the replica that a unit file's path or a unit's name is of, or None."""
    name = path.rpartition("/")[2].removeprefix("metalserve-vllm-")
    number = name.removesuffix(".service").removesuffix(".container")
    return int(number) if number.isdigit() and name != number else None
