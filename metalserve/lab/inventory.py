"""The lab's hosts as a pyinfra inventory knows them: what `inventories/lab.py` hands to pyinfra."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from metalserve.errors import MetalserveError
from metalserve.lab.bmc import service as bmcs
from metalserve.lab.fleet import RunningFleet, running_fleet
from metalserve.lab.layout import Layout
from metalserve.yaml_text import merged


def lab_hosts() -> list[tuple[str, dict[str, Any]]]:
    """Return (name, data) of every host of the lab that is up.

    `METALSERVE_LAB_OVERRIDES` names a YAML file, host -> settings (`all` for every host), merged over the data key
    by key; a null removes a key.

    Raises:
        MetalserveError: the lab is not up, or the file of overrides is not what it should be.
    """
    layout = Layout.current()
    fleet = running_fleet(layout)
    overrides = _overrides(fleet)
    pairs = []
    for host in fleet.hosts:
        data = {
            "ssh_hostname": host.address,
            "ssh_user": "root",
            "ssh_key": str(layout.ssh_key),
            "ssh_known_hosts_file": str(layout.known_hosts),
            "ssh_strict_host_key_checking": "yes",
            "ssh_look_for_keys": False,
            "ssh_allow_agent": False,
            **host_settings(fleet),
            "expect": dict(host.expect),
            **bmcs.settings(layout, host),
        }
        for name in ("all", host.name):
            data = merged(data, overrides.get(name, {}))
        pairs.append((host.name, data))
    return pairs


def host_settings(fleet: RunningFleet) -> dict[str, Any]:
    """Return what an inventory says of any host that the lab serves: release, repositories, engine, model."""
    settings: dict[str, Any] = {
        "release": fleet.release,
        "repositories": {
            "nvidia": {
                "url": f"{fleet.service_url}/nvidia/{{distro}}/{{arch}}/",
                "key": {"url": f"{fleet.service_url}/keys/lab.asc", "fingerprint": fleet.key_fingerprint},
            }
        },
        "storage": {"device": "auto"},
        "simulated": True,
    }
    if fleet.model is not None:
        settings["model"] = dict(fleet.model)
        settings["engine"] = {"image_archive": fleet.image, "image_archive_sha256": fleet.image_sha256}
    return settings


def _overrides(fleet: RunningFleet) -> dict[str, dict[str, Any]]:
    path = os.environ.get("METALSERVE_LAB_OVERRIDES")
    if not path:
        return {}
    try:
        value = yaml.safe_load(Path(path).read_text()) or {}
    except (OSError, yaml.YAMLError) as error:
        raise MetalserveError(f"cannot be read: {error}", where=f"METALSERVE_LAB_OVERRIDES={path}") from error
    known = {"all", *(host.name for host in fleet.hosts)}
    if not isinstance(value, dict) or not all(isinstance(each, dict) for each in value.values()):
        raise MetalserveError("must map host names to settings", where=path)
    unknown = sorted(set(value) - known)
    if unknown:
        raise MetalserveError(
            f"the lab has no host {', '.join(map(repr, unknown))}",
            where=path,
            remedy=f"hosts: {', '.join(sorted(known))}",
        )
    return value
