"""Names and places of the engines on a host, shared by the role's parts."""

from __future__ import annotations

LIBRARY = "/usr/local/lib/metalserve"
GATE = f"{LIBRARY}/engine-gate"
PROBE = f"{LIBRARY}/engine-probe"

ENVIRONMENT = "/etc/metalserve/engine.env"
"""Environment of the containers; holds the API key, so root only."""

AUTHORISATION = "/etc/metalserve/engine-auth"
"""The header with the API key that probes send (`curl -H @FILE`): no key ever stands in a command line."""

CACHE = "/var/cache/metalserve/vllm"
ARCHIVES = "/var/cache/metalserve/images"
IMAGE_MARKER = "/var/lib/metalserve/engine-image"
"""SHA-256 of the archive that the image was loaded from."""

UNIT_DIRECTORY = "/etc/systemd/system"
UNIT_GLOB = f"{UNIT_DIRECTORY}/metalserve-vllm-*.service"


def container_name(replica: int) -> str:
    """Return the container's name, and its unit's without suffix."""
    return f"metalserve-vllm-{replica}"


def unit_name(replica: int) -> str:
    """Return the name of a replica's unit."""
    return f"{container_name(replica)}.service"


def unit_path(replica: int) -> str:
    """Return the path of a replica's unit file."""
    return f"{UNIT_DIRECTORY}/{unit_name(replica)}"


def replica_of(path: str) -> int | None:
    """Return the replica that a unit file's path or a unit's name is of, or None."""
    number = path.rpartition("/")[2].removeprefix("metalserve-vllm-").removesuffix(".service")
    return int(number) if number.isdigit() else None
