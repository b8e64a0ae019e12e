"""What one host's role may know of the inventory's other hosts: their settings, and what was seen of them.

A router's configuration is made of hosts that serve, so its role looks beyond its own host. It only looks: it never
changes another host, and one that is not part of the run, or failed in it, is known by its settings alone.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import gevent

from metalserve.desired.observed import Observation
from metalserve.pyinfra_seam.hostrun import HostRun, current, known_runs
from metalserve.settings import HostSettings

PATIENCE_S = 120.0
"""Seconds that one host's decision waits for the others' observation: they are observed side by side."""


@dataclass(frozen=True)
class Seen:
    """One host of the inventory.

    Attributes:
        name: its name.
        address: where pyinfra reaches it.
        settings: its settings.
        observed: the newest observation of this run, None when it was not observed.
        groups: groups of the inventory that it is in, less those that all hosts are in.
    """

    name: str
    address: str
    settings: HostSettings
    observed: Observation | None
    groups: tuple[str, ...] = ()


def own_address() -> str:
    """Return where pyinfra reaches the current host: an address, or a name."""
    return _address(current().host)


def others() -> tuple[Seen, ...]:
    """Return every host of the inventory, the current one included, observed as far as this run observes it.

    Raises:
        SettingsError: a host's settings are refused.
    """
    return _every(wait=True)


def fleet() -> tuple[Seen, ...]:
    """Return every host of the inventory, the current one included, by its settings alone; waits for nobody.

    Raises:
        SettingsError: a host's settings are refused.
    """
    return tuple(replace(each, observed=None) for each in _every(wait=False))


def _every(*, wait: bool) -> tuple[Seen, ...]:
    run = current()
    runs = known_runs(run.state)
    found = []
    for host in run.state.inventory:
        own = runs.get(host.name)
        if wait and run.state.is_host_in_limit(host) and host is not run.host:
            own = _observed(run, host)
        known = own.node if own is not None else None
        settings = known.settings if known is not None else _settings(host)
        seen = known.observed if known is not None and known.observed.facts else None
        found.append(Seen(host.name, _address(host), settings, seen, _groups(run.state.inventory, host)))
    return tuple(found)


def _groups(inventory: Any, host: Any) -> tuple[str, ...]:
    """Groups that tell hosts apart: pyinfra's `all`, and the one named after the inventory's file, tell nothing."""
    everything = len(inventory)
    return tuple(group for group in host.groups if len(inventory.groups.get(group, ())) < everything)


def _address(host: Any) -> str:
    return str(host.data.dict().get("ssh_hostname") or host.name)


def _settings(host: Any) -> HostSettings:
    return HostSettings.from_data(host.data.dict(), host=host.name, source="inventory")


def _observed(run: HostRun, host: Any) -> HostRun | None:
    """Wait for another host of this run to be observed or to fail; pyinfra decides for all of them at once."""
    deadline = time.monotonic() + (0.0 if run.executing else PATIENCE_S)
    while True:
        found = known_runs(run.state).get(host.name)
        if found is not None and (found.failed or _complete(found)):
            return None if found.failed and not _complete(found) else found
        if not host.connected or time.monotonic() >= deadline:
            return None
        gevent.sleep(0.05)


def _complete(run: HostRun) -> bool:
    return run.node is not None and bool(run.node.observed.facts)
