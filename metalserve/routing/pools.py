"""Which replicas a router has, one pool a model: pure, from the hosts of the inventory and what was seen of them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from metalserve.addresses import EVERYWHERE, LOOPBACK
from metalserve.errors import MetalserveError
from metalserve.settings import HostSettings, RouterSettings


@dataclass(frozen=True)
class Peer:
    """A host of the inventory as the router's role sees it.

    Attributes:
        name: its name in the inventory.
        address: where pyinfra reaches it.
        settings: its settings.
        replicas: numbers of the engines that it has units for; None when it was not seen in this run.
    """

    name: str
    address: str
    settings: HostSettings
    replicas: tuple[int, ...] | None


@dataclass(frozen=True)
class Replica:
    """One engine as the router reaches it."""

    host: str
    address: str
    port: int

    @property
    def name(self) -> str:
        """Its name in configuration, log, metrics and commands: HOST:PORT, as far as HAProxy takes the host's name."""
        return f"{re.sub(r'[^A-Za-z0-9_.-]', '-', self.host)}:{self.port}"

    @property
    def target(self) -> str:
        """Address and port as HAProxy reads them."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


@dataclass(frozen=True)
class Pool:
    """The replicas of one model.

    Attributes:
        model: name under which they serve it.
        also: further names that clients may ask these engines for (adapters).
        replicas: the engines, in order of host and port.
        hosts: hosts of the inventory they are on; they share one API key.
    """

    model: str
    replicas: tuple[Replica, ...]
    also: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Its name in HAProxy: the model's, with what HAProxy does not allow replaced; the same in every run."""
        plain = re.sub(r"[^A-Za-z0-9_.-]", "-", self.model)
        # Two models must not become one name, nor may one be called as a part of the configuration is.
        digest = hashlib.sha256(self.model.encode()).hexdigest()[:6]
        return f"model-{plain}" if plain == self.model else f"model-{plain}-{digest}"


def _answers(peer: Peer) -> bool:
    """Tell whether the host has an API: of hosts that run one engine together only the head does."""
    group = peer.settings.engine.group
    return peer.settings.model is not None and (group is None or group.head == peer.name)


def serving(router: RouterSettings, peers: Sequence[Peer]) -> tuple[Peer, ...]:
    """Return the hosts to route to.

    Raises:
        MetalserveError: `router.hosts` names one that is not in the inventory, or that serves nothing.
    """
    serves = {peer.name: peer for peer in peers if _answers(peer)}
    if router.hosts is None:
        return tuple(serves[name] for name in sorted(serves))
    for name in router.hosts:
        if name not in serves:
            known = any(peer.name == name for peer in peers)
            raise MetalserveError(
                f"{name} serves no model itself" if known else f"the inventory has no host {name}",
                where="router.hosts",
                remedy=f"serving hosts: {', '.join(sorted(serves)) or 'none'}",
            )
    return tuple(serves[name] for name in sorted(set(router.hosts)))


def pools(
    router: RouterSettings, peers: Sequence[Peer], *, own: str, before: Mapping[str, Sequence[int]]
) -> tuple[Pool, ...]:
    """Return the pools of a router, by name of their model.

    Args:
        router: its settings.
        peers: all hosts of the inventory.
        own: the name of the router's host.
        before: host -> ports that the router has already, kept for hosts that were not seen in this run.

    Raises:
        MetalserveError: a host's replicas are not known, or cannot be reached, or there is none at all.
    """
    found: dict[str, list[Replica]] = {}
    hosts: dict[str, list[str]] = {}
    for peer in serving(router, peers):
        assert peer.settings.model is not None
        model = peer.settings.model.served_as
        address = _address(peer, own)
        ports = _ports(peer, before)
        found.setdefault(model, []).extend(Replica(peer.name, address, port) for port in ports)
        hosts.setdefault(model, []).append(peer.name)
    for given in router.backends:
        found.setdefault(given.model, []).append(Replica(given.name, given.address, given.port))
    found = {model: replicas for model, replicas in found.items() if replicas}
    if not found:
        raise MetalserveError(
            "there is no replica to route to",
            where="router",
            remedy="bring hosts to serving first (deploys/gpu_node.py), or name router.backends",
        )
    for name, model in router.names.items():
        if model not in found or name in found:
            why = f"{model} is not served here" if model not in found else f"{name} is a served model itself"
            raise MetalserveError(why, where="router.names", remedy=f"served: {', '.join(sorted(found))}")
    _refuse_doubles(found)
    return tuple(
        Pool(
            model,
            tuple(sorted(found[model], key=lambda r: (r.host, r.port))),
            tuple(sorted(name for name, to in router.names.items() if to == model)),
            tuple(sorted(hosts.get(model, ()))),
        )
        for model in sorted(found)
    )


def _refuse_doubles(found: Mapping[str, Sequence[Replica]]) -> None:
    names: dict[str, str] = {}
    for replicas in found.values():
        for replica in replicas:
            for what in (replica.name, replica.target):
                if what in names:
                    raise MetalserveError(
                        f"{replica.name} and {names[what]} are the same replica ({what})",
                        where="router.backends",
                        remedy="name each replica once; those of the inventory's hosts are known already",
                    )
            names[replica.name] = names[replica.target] = replica.name


def _ports(peer: Peer, before: Mapping[str, Sequence[int]]) -> tuple[int, ...]:
    engine = peer.settings.engine
    if peer.replicas is not None:
        return tuple(engine.port + number for number in sorted(peer.replicas))
    if peer.name in before:
        # Not seen is not gone: its replicas stay, and the readiness checks say which of them answer.
        return tuple(sorted(before[peer.name]))
    if engine.replicas is not None:
        return tuple(range(engine.port, engine.port + engine.replicas))
    raise MetalserveError(
        f"how many engines {peer.name} has is not known",
        where="router",
        remedy=f"run deploys/router.py with {peer.name} in it, or leave it out by router.hosts",
    )


def _address(peer: Peer, own: str) -> str:
    listens = peer.settings.engine.host
    if peer.name == own:
        return listens if listens not in EVERYWHERE else "127.0.0.1" if listens == EVERYWHERE[0] else "::1"
    if listens in LOOPBACK:
        raise MetalserveError(
            f"{peer.name}: engine.host is {listens}, which this router cannot reach",
            where="router",
            remedy="give engine.host an address of the network between them, or leave the host out by router.hosts",
        )
    address = listens if listens not in EVERYWHERE else peer.address
    if not re.fullmatch(r"[0-9A-Za-z:.-]+", address):
        raise MetalserveError(
            f"{peer.name}: {address!r} is no address at which the router could reach it",
            where="router",
            remedy="give engine.host an address of the network between them, or the host an ssh_hostname",
        )
    return address


def recorded(text: str) -> dict[str, list[int]]:
    """Read what `record` wrote; what is no such record is as good as none."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    hosts = value.get("hosts") if isinstance(value, dict) else None
    if not isinstance(hosts, dict):
        return {}
    return {
        name: ports
        for name, ports in hosts.items()
        if isinstance(ports, list) and all(isinstance(port, int) and not isinstance(port, bool) for port in ports)
    }


def record(pools: Sequence[Pool]) -> str:
    """Return the replicas of the inventory's hosts as JSON, for runs in which a host is not seen."""
    hosts: dict[str, list[int]] = {}
    for pool in pools:
        for replica in pool.replicas:
            if replica.host in pool.hosts:
                hosts.setdefault(replica.host, []).append(replica.port)
    return json.dumps({"version": 1, "hosts": hosts}, indent=1, sort_keys=True) + "\n"


def shared_key(pool: Pool, keys: Mapping[str, str | None]) -> str | None:
    """Return the API key of a pool's engines, None when they ask for none.

    Args:
        pool: the pool.
        keys: host -> the key that its engines ask for.

    Raises:
        MetalserveError: they do not share one: a request that is tried again would be refused by the next.
    """
    values = {keys.get(replica.host) for replica in pool.replicas}
    if len(values) > 1:
        hosts = sorted({replica.host for replica in pool.replicas})
        raise MetalserveError(
            f"the replicas of {pool.model} do not ask for the same key: {', '.join(hosts)}",
            where="engine.api_key",
            remedy="give all of them one key; clients' own keys stand in router.keys",
        )
    return next(iter(values), None)
