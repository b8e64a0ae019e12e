"""Where monitoring lies on hosts."""

from __future__ import annotations

DIRECTORY = "/etc/metalserve/monitoring"
COLLECTOR = "/usr/local/lib/metalserve/collect-metrics"
COLLECTOR_CONFIG = f"{DIRECTORY}/collector.json"
COUNTERS = f"{DIRECTORY}/dcgm-counters.csv"
TEXTFILES = "/var/lib/prometheus/node-exporter"
"""Where Debian's node_exporter looks for text files; others may put theirs there too."""

TEXTFILE = f"{TEXTFILES}/metalserve.prom"

NODE_UNIT = "prometheus-node-exporter.service"
GPU_UNIT = "nvidia-dcgm-exporter.service"
COLLECT_SERVICE = "metalserve-metrics.service"
COLLECT_TIMER = "metalserve-metrics.timer"
PROMETHEUS_UNIT = "prometheus.service"
ALERTMANAGER_UNIT = "prometheus-alertmanager.service"
UNIT_DIRECTORY = "/etc/systemd/system"

CONFIGURATION = f"{DIRECTORY}/prometheus.yml"
RULES = f"{DIRECTORY}/rules.yml"
TARGETS = f"{DIRECTORY}/targets"
ALERTMANAGER = f"{DIRECTORY}/alertmanager.yml"
DASHBOARDS = f"{DIRECTORY}/dashboards"


def drop_in(unit: str) -> str:
    """Return the path of metalserve's drop-in for a package's unit."""
    return f"{UNIT_DIRECTORY}/{unit}.d/metalserve.conf"


def targets(job: str) -> str:
    """Return the path of a job's targets."""
    return f"{TARGETS}/{job}.json"
