"""What the exporters of a host are told: drop-ins of their units, DCGM's counters, the collector's configuration."""

from __future__ import annotations

import json
from collections.abc import Sequence

from metalserve.addresses import joined
from metalserve.catalogue.dcgm_metrics import load_dcgm_metrics
from metalserve.driver.packages import fabric_packages
from metalserve.monitoring import paths
from metalserve.releases import Release
from metalserve.settings import HostSettings
from metalserve.weights.store import place_of

HEAD = "# Written by metalserve (roles/node_metrics); changes here are undone by its next run.\n"

UNITS = "(metalserve-.*|nvidia-.*|docker|containerd|haproxy|prometheus.*|ssh|chrony|chronyd)[.](service|timer)"
"""Units whose state node_exporter tells: what serving depends on. All of a host's would be hundreds of series."""

_OWN_MOUNTS = "^/(dev|proc|run|sys|var/lib/docker/.+|var/lib/containers/storage/.+)($$|/)"


def node_drop_in(address: str, port: int) -> str:
    """Return the drop-in of prometheus-node-exporter.service."""
    words = [
        "/usr/bin/prometheus-node-exporter",
        f"--web.listen-address={joined(address, port)}",
        "--collector.systemd",
        f"--collector.systemd.unit-include={UNITS}",
        f"--collector.textfile.directory={paths.TEXTFILES}",
        # `$$` is systemd's way to write one `$`.
        f"--collector.filesystem.mount-points-exclude={_OWN_MOUNTS}",
    ]
    return f"{HEAD}[Service]\nExecStart=\nExecStart={' '.join(words)}\nRestart=always\nRestartSec=5\n"


def gpu_drop_in(address: str, port: int) -> str:
    """Return the drop-in of nvidia-dcgm-exporter.service, which alone gives up after a failure."""
    return (
        f"{HEAD}[Service]\nExecStart=\n"
        f"ExecStart=/usr/bin/dcgm-exporter -a {joined(address, port)} -f {paths.COUNTERS}\n"
        "StandardOutput=journal\nStandardError=journal\nRestart=always\nRestartSec=10\n"
    )


def counters_text() -> str:
    """Return the DCGM exporter's list of fields, in the spelling that all its versions take."""
    rows = [f"{field.name}, {field.kind}, {field.help}" for field in load_dcgm_metrics().fields]
    return HEAD + "\n".join(rows) + "\n"


def collect_service() -> str:
    """Return the unit that runs the collector once."""
    return (
        f"{HEAD}[Unit]\nDescription=metalserve: metrics that exporters lack\n\n"
        f"[Service]\nType=oneshot\nExecStart={paths.COLLECTOR}\nTimeoutStartSec=120\nNice=10\n"
        "ProtectSystem=full\nProtectHome=yes\n"
    )


def collect_timer(interval_s: int) -> str:
    """Return the timer of the collector."""
    return (
        f"{HEAD}[Unit]\nDescription=metalserve: metrics that exporters lack, every {interval_s} s\n\n"
        f"[Timer]\nOnActiveSec=1\nOnUnitActiveSec={interval_s}\nAccuracySec=1\n\n[Install]\nWantedBy=timers.target\n"
    )


def collector_config(settings: HostSettings, release: Release, gpus: int) -> str:
    """Return the collector's configuration: what the host should be, in the few words that it compares with.

    Args:
        settings: the host's settings.
        release: its release.
        gpus: GPUs that it has or should have.
    """
    models = [] if settings.model is None else [settings.model]
    value = {
        "output": paths.TEXTFILE,
        "gpus": gpus,
        "release": release.name,
        "simulated": settings.simulated,
        "components": _components(release) if gpus else [],
        "weights": [
            {
                "model": model.name,
                "revision": model.revision[:12],
                "marker": place_of(settings.storage.mount, model).marker,
            }
            for model in models
        ],
    }
    return json.dumps(value, indent=1, sort_keys=True) + "\n"


def _components(release: Release) -> Sequence[dict[str, str]]:
    manager = fabric_packages(release.driver.branch, release.fabric_manager.version, nvlsm=False)[0]
    packages = {
        "fabric manager": (manager.name, release.fabric_manager.version),
        "container toolkit": ("nvidia-container-toolkit", release.container_toolkit.version),
        "DCGM": ("datacenter-gpu-manager-4-core", release.dcgm.version),
    }
    return [
        {"name": "driver", "version": release.driver.version},
        *({"name": name, "package": package, "version": version} for name, (package, version) in packages.items()),
    ]


__all__ = [
    "collect_service",
    "collect_timer",
    "collector_config",
    "counters_text",
    "gpu_drop_in",
    "node_drop_in",
]
