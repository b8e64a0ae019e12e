"""Settings of monitoring: what a host tells of itself, and the host that watches the others."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from metalserve.addresses import EVERYWHERE
from metalserve.settings.common import AbsolutePath, Positive, Section, problem
from metalserve.settings.repositories import RepositorySettings
from metalserve.settings.secret import SecretRef

if TYPE_CHECKING:
    from metalserve.settings.host import HostSettings

Severity = Literal["critical", "warning", "info"]
Port = Annotated[int, Field(ge=1, le=65535)]


def _plain(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}", value):
        raise problem("must be letters, digits and _ . - (at most 63)")
    return value


def _ip(value: str) -> str:
    try:
        return str(ip_address(value))
    except ValueError:
        raise problem("must be an IP address of the host") from None


_Name = Annotated[str, AfterValidator(_plain)]
_Ip = Annotated[str, AfterValidator(_ip)]


class ReceiverSettings(Section):
    """Where alerts are sent to."""

    name: _Name = Field(description="name of the receiver")
    kind: Literal["webhook", "slack", "email"] = Field(description="how it is told")
    url: SecretRef | None = Field(
        None, description="webhook, slack: the URL, which is a secret where it alone lets one post"
    )
    channel: str | None = Field(None, description="slack: the channel; None takes the hook's own")
    to: str | None = Field(None, description="email: address to send to")
    sender: str | None = Field(None, description="email: address it comes from")
    smarthost: str | None = Field(
        None, pattern=r"^[A-Za-z0-9.-]+:\d+$", description="email: mail server, HOST:PORT; TLS is asked for"
    )
    username: str | None = Field(None, description="email: user at the mail server")
    password: SecretRef | None = Field(None, description="email: that user's password")
    severities: tuple[Severity, ...] = Field(
        ("critical", "warning"), min_length=1, strict=False, description="alerts of these it is told of"
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.kind == "email":
            if self.to is None or self.sender is None or self.smarthost is None:
                raise problem("an email receiver needs to, sender and smarthost")
            if (self.username is None) != (self.password is None):
                raise problem("username and password belong together")
        elif self.url is None:
            raise problem(f"a {self.kind} receiver needs url")
        return self


class GrafanaSettings(Section):
    """The Grafana of the site: Debian and Ubuntu have none."""

    provisioning: AbsolutePath = Field(
        "/etc/grafana/provisioning", description="Grafana's directory of data sources and dashboards to load"
    )
    repository: RepositorySettings | None = Field(
        None, description="apt repository that has the package grafana; None: Grafana is there, or somewhere else"
    )


class MonitoringServerSettings(Section):
    """Prometheus and Alertmanager on this host."""

    port: Port = Field(9090, description="port of Prometheus")
    alertmanager_port: Port = Field(9093, description="port of Alertmanager")
    scrape_interval_s: int = Field(15, ge=1, le=300, description="seconds between two looks at each host")
    retention_days: Positive = Field(30, description="days that measurements are kept")
    retention_gib: Positive | None = Field(None, description="GiB of measurements kept at most; None: no limit")
    receivers: list[ReceiverSettings] = Field(default_factory=list, description="who is told of alerts")
    patience: float = Field(
        1.0,
        gt=0,
        le=10,
        description="multiplies how long a condition must hold before it is an alert, and the spans that rates look at",
    )
    ttft_objective_s: float = Field(2.0, gt=0, description="time to first token that 95 % of the requests must keep")
    queue_limit: Positive = Field(20, description="requests waiting on one engine, above which a growing queue is told")
    weights_verified_days: Positive = Field(8, description="days after which weights must have been verified again")
    grafana: GrafanaSettings | None = Field(None, description="provision a Grafana; None: leave it alone")

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [receiver.name for receiver in self.receivers]
        if len(set(names)) != len(names):
            raise problem("receivers: two have the same name")
        if self.port == self.alertmanager_port:
            raise problem("port and alertmanager_port are the same")
        return self


class MonitoringSettings(Section):
    """What a host tells of itself."""

    address: _Ip | None = Field(
        None,
        description="private address that exporters, Prometheus and Alertmanager listen on; None takes ssh_hostname, "
        "if that is a private address",
    )
    node_port: Port = Field(9100, description="port of node_exporter")
    gpu_port: Port = Field(9400, description="port of the DCGM exporter, on hosts with GPUs")
    gpu_exporter: bool = Field(True, description="install NVIDIA's DCGM exporter on hosts with GPUs")
    collect_interval_s: int = Field(
        30, ge=5, le=3600, description="seconds between two runs of metalserve's own collector"
    )
    rack: _Name | None = Field(None, description="label `rack` of this host's metrics")
    server: MonitoringServerSettings | None = Field(
        None, description="this host watches all that have `monitoring`; None: it is only watched"
    )


def monitoring_contradictions(settings: HostSettings) -> list[tuple[str, str]]:
    """Return, as (key, what), settings of monitoring that cannot be together."""
    monitoring = settings.monitoring
    if monitoring is None:
        return []
    ports = {"monitoring.node_port": monitoring.node_port, "monitoring.gpu_port": monitoring.gpu_port}
    if monitoring.server is not None:
        ports["monitoring.server.port"] = monitoring.server.port
        ports["monitoring.server.alertmanager_port"] = monitoring.server.alertmanager_port
    found: list[tuple[str, str]] = []
    seen: dict[int, str] = {}
    for key, port in ports.items():
        if port in seen:
            found.append((key, f"is {port}, as {seen[port]} is"))
        seen.setdefault(port, key)
    if settings.model is not None:
        engine = settings.engine
        taken = range(engine.port, engine.port + (engine.replicas or settings.expect.count or 1))
        found += [(key, f"is {port}, which an engine of this host has") for key, port in ports.items() if port in taken]
    return found


def monitoring_warnings(settings: HostSettings) -> list[str]:
    """Return what is allowed of monitoring but should be known, each `key: what`."""
    monitoring = settings.monitoring
    if monitoring is None:
        return []
    found: list[str] = []
    if monitoring.address in EVERYWHERE or (monitoring.address and ip_address(monitoring.address).is_global):
        found.append(
            "monitoring.address: metrics and Prometheus ask for no key, and anyone who reaches this address reads them"
        )
    if monitoring.server is not None and not monitoring.server.receivers:
        found.append("monitoring.server.receivers: none is set, so nobody is told of alerts")
    return found


def monitoring_secrets(settings: HostSettings) -> dict[str, SecretRef]:
    """Return the secrets that a host's monitoring refers to, by dotted key."""
    server = settings.monitoring.server if settings.monitoring is not None else None
    if server is None:
        return {}
    found: dict[str, SecretRef] = {}
    for receiver in server.receivers:
        for key, ref in (("url", receiver.url), ("password", receiver.password)):
            if ref is not None:
                found[f"monitoring.server.receivers.{receiver.name}.{key}"] = ref
    return found


__all__ = [
    "GrafanaSettings",
    "MonitoringServerSettings",
    "MonitoringSettings",
    "ReceiverSettings",
    "monitoring_contradictions",
    "monitoring_secrets",
    "monitoring_warnings",
]
