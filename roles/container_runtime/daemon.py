"""Docker's daemon.json: what we want is merged into what the operator wrote. Pure."""

from __future__ import annotations

import json
from typing import Any

from metalserve.driver.gpu_access import GpuAccess
from metalserve.errors import MetalserveError
from metalserve.settings import ContainerSettings

DAEMON_JSON = "/etc/docker/daemon.json"
DEFAULT_DATA_ROOT = "/var/lib/docker"
ROTATING_DRIVERS = ("json-file", "local")
"""Log drivers that know max-size and max-file; dockerd does not start when another one is given them."""


def parse(text: str) -> dict[str, Any]:
    """Return the settings in `text` of daemon.json; an empty file has none.

    Raises:
        MetalserveError: it is not a JSON object. The file is then left as it is.
    """
    if not text.strip():
        return {}
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise MetalserveError(
            f"no valid JSON: line {error.lineno}, column {error.colno}: {error.msg}",
            where=DAEMON_JSON,
            remedy="mend the file by hand (`dockerd --validate`); metalserve does not overwrite it",
        ) from error
    if not isinstance(found, dict):
        raise MetalserveError("not a JSON object", where=DAEMON_JSON, remedy="mend the file by hand")
    return found


def wanted(current: dict[str, Any], settings: ContainerSettings, access: GpuAccess) -> dict[str, Any]:
    """Return the settings that this role answers for, given what the operator has.

    Args:
        current: the settings there are.
        settings: the host's section `container`.
        access: how containers get GPUs.
    """
    ours: dict[str, Any] = {
        "live-restore": settings.live_restore,  # containers outlive a restart of the daemon
        "runtimes": {"nvidia": {"args": [], "path": "nvidia-container-runtime"}},
    }
    if settings.data_root != DEFAULT_DATA_ROOT or "data-root" in current:
        ours["data-root"] = settings.data_root
    if current.get("log-driver", "json-file") in ROTATING_DRIVERS:
        ours["log-driver"] = current.get("log-driver", "json-file")
        ours["log-opts"] = {"max-size": settings.log_max_size, "max-file": str(settings.log_max_files)}
    if access == "cdi":
        ours["features"] = {"cdi": True}
    elif not any(str(o).startswith("native.cgroupdriver") for o in _list(current.get("exec-opts", []))):
        # With systemd as cgroup driver every `systemctl daemon-reload` takes the GPUs from running containers.
        # Source: NVIDIA container toolkit, known issues.
        ours["exec-opts"] = [*_list(current.get("exec-opts", [])), "native.cgroupdriver=cgroupfs"]
    return ours


def merge(current: dict[str, Any], ours: dict[str, Any], *, at: str = "") -> dict[str, Any]:
    """Return `current` with `ours` laid over it, object by object; what we do not name stays.

    Raises:
        MetalserveError: a key holds something else than an object where one is needed.
    """
    merged = dict(current)
    for key, value in ours.items():
        if isinstance(value, dict):
            before = current.get(key)
            if before is None:  # dockerd reads null as not set
                before = {}
            if not isinstance(before, dict):
                raise MetalserveError(
                    f"{at}{key} is not an object", where=DAEMON_JSON, remedy="mend the file by hand, then run again"
                )
            merged[key] = merge(before, value, at=f"{at}{key}.")
        else:
            merged[key] = value
    return merged


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise MetalserveError("exec-opts is not a list", where=DAEMON_JSON, remedy="mend the file by hand")
    return value
