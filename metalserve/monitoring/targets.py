"""Which endpoints are scraped: pure, from the hosts of the inventory and what was seen of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from metalserve.addresses import EVERYWHERE, LOOPBACK, joined
from metalserve.errors import MetalserveError
from metalserve.settings import HostSettings

JOBS = ("node", "gpu", "engine", "router")


@dataclass(frozen=True)
class Watched:
    """A host of the inventory as the monitoring host sees it.

    Attributes:
        name: its name in the inventory.
        address: where pyinfra reaches it.
        groups: groups of the inventory that it is in.
        settings: its settings; only hosts with `monitoring` are watched.
        replicas: numbers of the engines that it has units for; None when it was not seen in this run.
        has_gpus: whether it has GPUs; None when it was not seen in this run.
    """

    name: str
    address: str
    groups: tuple[str, ...]
    settings: HostSettings
    replicas: tuple[int, ...] | None = None
    has_gpus: bool | None = None


def listen_address(name: str, settings: HostSettings, reached_at: str) -> str:
    """Return the address that a host's exporters listen on.

    Args:
        name: the host's name, for the message.
        settings: its settings, with `monitoring`.
        reached_at: where pyinfra reaches it.

    Raises:
        MetalserveError: none is given, and the one at which it is reached is a name or is public.
    """
    given = settings.monitoring.address if settings.monitoring is not None else None
    if given is not None:
        return given
    try:
        address = ip_address(reached_at)
    except ValueError:
        what = f"{reached_at!r} is a name"
    else:
        # The metrics ask for no key: nothing is put on a public address unless the inventory says so.
        if not address.is_global and not address.is_unspecified:
            return str(address)
        what = f"{reached_at} is a public address"
    raise MetalserveError(
        f"{name}: {what}, and exporters must not listen on just any address",
        where="monitoring.address",
        remedy="give the private address of this host",
    )


def scrape_targets(
    hosts: Sequence[Watched], *, own: str, before: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, list[dict[str, Any]]]:
    """Return job -> Prometheus' target groups, one a host.

    A host that was not seen in this run keeps the engines that it had: not seen is not gone.

    Args:
        hosts: all hosts of the inventory.
        own: name of the monitoring host.
        before: what its files of targets say now.

    Raises:
        MetalserveError: a host has no address for its exporters.
    """
    found: dict[str, list[dict[str, Any]]] = {job: [] for job in JOBS}
    for host in sorted(hosts, key=lambda each: each.name):
        if host.settings.monitoring is None:
            continue
        labels = _labels(host)
        for job, endpoints in _endpoints(host, own, before).items():
            if endpoints:
                found[job].append({"targets": endpoints, "labels": labels})
    return found


def out_of_reach(hosts: Sequence[Watched], *, own: str) -> list[str]:
    """Return, in words, what is watched and cannot be: engines and routers that listen on loopback only."""
    found = []
    for host in sorted(hosts, key=lambda each: each.name):
        if host.settings.monitoring is None or host.name == own:
            continue
        if host.settings.model is not None and host.settings.engine.host in LOOPBACK:
            found.append(f"{host.name}: engine.host is {host.settings.engine.host}")
        router = host.settings.router
        if router is not None and router.metrics_address in LOOPBACK:
            found.append(f"{host.name}: router.metrics_address is {router.metrics_address}")
    return found


def _labels(host: Watched) -> dict[str, str]:
    settings = host.settings
    labels = {"host": host.name, "group": ",".join(host.groups), "release": settings.release}
    if settings.monitoring is not None and settings.monitoring.rack is not None:
        labels["rack"] = settings.monitoring.rack
    if settings.model is not None:
        labels["model"] = settings.model.served_name or settings.model.name
    return {name: value for name, value in labels.items() if value}


def _endpoints(host: Watched, own: str, before: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, list[str]]:
    monitoring, router = host.settings.monitoring, host.settings.router
    assert monitoring is not None
    address = listen_address(host.name, host.settings, host.address)
    found = {"node": [joined(address, monitoring.node_port)], "engine": _engines(host, own, before)}
    if monitoring.gpu_exporter and _has_gpus(host, before):
        found["gpu"] = [joined(address, monitoring.gpu_port)]
    if router is not None and (host.name == own or router.metrics_address not in LOOPBACK):
        where = address if router.metrics_address in EVERYWHERE else router.metrics_address
        found["router"] = [joined(where, router.metrics_port)]
    return found


def _has_gpus(host: Watched, before: Mapping[str, Sequence[Mapping[str, Any]]]) -> bool:
    if host.settings.expect.count is not None:
        return host.settings.expect.count > 0
    return host.has_gpus if host.has_gpus is not None else bool(_had(host.name, "gpu", before))


def _engines(host: Watched, own: str, before: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    engine = host.settings.engine
    if host.settings.model is None or (host.name != own and engine.host in LOOPBACK):
        return []
    if host.replicas is None and engine.replicas is None:
        return _had(host.name, "engine", before)
    numbers = host.replicas if host.replicas is not None else range(engine.replicas or 0)
    listens = engine.host
    if listens in EVERYWHERE:
        listens = host.address if host.name != own else "127.0.0.1"
    return [joined(listens, engine.port + number) for number in numbers]


def _had(name: str, job: str, before: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    for group in before.get(job, ()):
        if group.get("labels", {}).get("host") == name:
            return [str(target) for target in group.get("targets", ())]
    return []


def targets_text(groups: Sequence[Mapping[str, Any]]) -> str:
    """Return a file of targets."""
    return json.dumps(list(groups), indent=1, sort_keys=True) + "\n"


def read_targets(text: str) -> list[dict[str, Any]]:
    """Read a file of targets; what is none is as good as empty."""
    try:
        value = json.loads(text)
    except ValueError:
        return []
    if not isinstance(value, list):
        return []
    return [each for each in value if isinstance(each, dict) and isinstance(each.get("labels", {}), dict)]


__all__ = [
    "JOBS",
    "Watched",
    "joined",
    "listen_address",
    "out_of_reach",
    "read_targets",
    "scrape_targets",
    "targets_text",
]
