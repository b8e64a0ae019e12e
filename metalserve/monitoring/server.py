"""What Prometheus and Alertmanager are told: their configuration files as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from metalserve.addresses import joined
from metalserve.monitoring import paths
from metalserve.monitoring.model import Options
from metalserve.monitoring.targets import JOBS
from metalserve.secrets import resolve
from metalserve.settings.monitoring import MonitoringServerSettings, ReceiverSettings

HEAD = "# Written by metalserve (roles/monitoring); changes here are undone by its next run.\n"


def options_of(server: MonitoringServerSettings, collect_interval_s: int) -> Options:
    """Return what the rules depend on, from the settings of the monitoring host."""
    return Options(
        patience=server.patience,
        scrape_interval_s=server.scrape_interval_s,
        ttft_objective_s=server.ttft_objective_s,
        queue_limit=server.queue_limit,
        weights_verified_days=server.weights_verified_days,
        collect_interval_s=collect_interval_s,
    )


def prometheus_text(server: MonitoringServerSettings, address: str, host: str) -> str:
    """Return prometheus.yml: jobs whose targets stand in files that are read again whenever they change.

    Args:
        server: settings of the monitoring host.
        address: where Prometheus and Alertmanager listen.
        host: name of the monitoring host, label of what it tells of itself.
    """
    every = f"{server.scrape_interval_s}s"
    own = {"prometheus": server.port, "alertmanager": server.alertmanager_port}
    jobs: list[dict[str, Any]] = [
        {"job_name": job, "file_sd_configs": [{"files": [paths.targets(job)], "refresh_interval": "1m"}]}
        for job in JOBS
    ]
    jobs += [
        {"job_name": job, "static_configs": [{"targets": [joined(address, port)], "labels": {"host": host}}]}
        for job, port in own.items()
    ]
    value = {
        "global": {
            "scrape_interval": every,
            "evaluation_interval": every,
            "scrape_timeout": f"{min(10, server.scrape_interval_s)}s",
        },
        "rule_files": [paths.RULES],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [joined(address, server.alertmanager_port)]}]}]},
        "scrape_configs": jobs,
    }
    return HEAD + yaml.safe_dump(value, sort_keys=False)


def prometheus_drop_in(server: MonitoringServerSettings, address: str) -> str:
    """Return the drop-in of prometheus.service: its configuration, its address, how long it keeps what it measured."""
    words = [
        "/usr/bin/prometheus",
        f"--config.file={paths.CONFIGURATION}",
        "--storage.tsdb.path=/var/lib/prometheus/metrics2",
        f"--storage.tsdb.retention.time={server.retention_days}d",
        *([f"--storage.tsdb.retention.size={server.retention_gib}GB"] if server.retention_gib is not None else []),
        f"--web.listen-address={joined(address, server.port)}",
    ]
    return _drop_in(words, paths.CONFIGURATION)


def alertmanager_drop_in(server: MonitoringServerSettings, address: str) -> str:
    """Return the drop-in of prometheus-alertmanager.service; one Alertmanager, so it looks for no others."""
    words = [
        "/usr/bin/prometheus-alertmanager",
        f"--config.file={paths.ALERTMANAGER}",
        "--storage.path=/var/lib/prometheus/alertmanager",
        f"--web.listen-address={joined(address, server.alertmanager_port)}",
        "--cluster.listen-address=",
    ]
    return _drop_in(words, paths.ALERTMANAGER)


def _drop_in(words: Sequence[str], configuration: str) -> str:
    # Without its configuration the package's first start is passed over, instead of listening to everyone.
    return (
        f"{HEAD}[Unit]\nConditionPathExists={configuration}\n\n"
        f"[Service]\nExecStart=\nExecStart={' '.join(words)}\nRestart=always\nRestartSec=5\n"
    )


def alertmanager_text(server: MonitoringServerSettings) -> str:
    """Return alertmanager.yml; it holds the receivers' secrets.

    Raises:
        MetalserveError: a secret cannot be read.
    """
    scale = server.patience
    value: dict[str, Any] = {
        "route": {
            "receiver": "nobody",
            "group_by": ["host", "alertname"],
            "group_wait": _seconds(30 * scale),
            "group_interval": _seconds(300 * scale),
            "repeat_interval": "4h",
            "routes": [
                {
                    "receiver": receiver.name,
                    "matchers": [f'severity=~"{"|".join(receiver.severities)}"'],
                    "continue": True,
                }
                for receiver in server.receivers
            ],
        },
        "inhibit_rules": [
            # A host that is down is one piece of news, not thirty.
            {
                "source_matchers": ['alertname="NodeDown"'],
                "target_matchers": ['alertname!="NodeDown"'],
                "equal": ["host"],
            },
            {
                "source_matchers": ['alertname="EngineDown"'],
                "target_matchers": ['alertname=~"Engine.*"', 'alertname!="EngineDown"'],
                "equal": ["host", "instance"],
            },
            {
                "source_matchers": ['alertname="EngineGateRefuses"'],
                "target_matchers": ['alertname="EngineNotReady"'],
                "equal": ["host", "replica"],
            },
            {
                "source_matchers": ['alertname="GpuHardwareThermalSlowdown"'],
                "target_matchers": ['alertname=~"GpuSoftwareThermalSlowdown|GpuThermalMarginLow"'],
                "equal": ["host", "gpu"],
            },
        ],
        "receivers": [{"name": "nobody"}, *(_receiver(receiver) for receiver in server.receivers)],
    }
    return HEAD + yaml.safe_dump(value, sort_keys=False)


def _seconds(value: float) -> str:
    return f"{max(1, round(value))}s"


def _receiver(receiver: ReceiverSettings) -> dict[str, Any]:
    text = "{{ range .Alerts }}{{ .Annotations.summary }}\n{{ .Annotations.description }}\n{{ end }}"
    if receiver.kind == "email":
        given: dict[str, Any] = {"to": receiver.to, "from": receiver.sender, "smarthost": receiver.smarthost}
        if receiver.username is not None and receiver.password is not None:
            given |= {"auth_username": receiver.username, "auth_password": resolve(receiver.password).reveal()}
        return {"name": receiver.name, "email_configs": [{**given, "send_resolved": True}]}
    assert receiver.url is not None
    url = resolve(receiver.url).reveal()
    if receiver.kind == "slack":
        slack = {"api_url": url, "send_resolved": True, "text": text}
        return {
            "name": receiver.name,
            "slack_configs": [slack if receiver.channel is None else {**slack, "channel": receiver.channel}],
        }
    return {"name": receiver.name, "webhook_configs": [{"url": url, "send_resolved": True}]}


__all__ = ["alertmanager_drop_in", "alertmanager_text", "options_of", "prometheus_drop_in", "prometheus_text"]
