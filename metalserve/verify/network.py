"""Checks of network cards: ports that are down or slow among their like, and their PCIe path."""

from __future__ import annotations

from collections.abc import Iterator

from metalserve.catalogue.loader import threshold
from metalserve.hardware.machine import Nic
from metalserve.hardware.node import NodeHardware
from metalserve.verify.finding import Finding
from metalserve.verify.paths import by_address, path
from metalserve.verify.pcie import SYSFS

_PEERS = "other cards of the same model in this host"


def check_network(hardware: NodeHardware) -> list[Finding]:
    """Check the network cards of a host; cards without a port that says its state (management, unused) are left out."""
    ports = [nic for nic in hardware.nics_detail if nic.state is not None]
    if not ports:
        return []
    findings = list(_all_down(ports))
    models: dict[tuple[str, str | None], list[Nic]] = {}
    for nic in ports:
        models.setdefault((nic.model, nic.link_layer), []).append(nic)
    for nics in models.values():
        findings += _peers(nics)
    findings += _paths(hardware, ports)
    return findings


def _all_down(ports: list[Nic]) -> Iterator[Finding]:
    if any(nic.state == "up" for nic in ports):
        return
    yield Finding(
        "nic-link",
        "warn",
        "host",
        "a network port that is up",
        f"all {len(ports)} port(s) of PCI network cards are down",
        "nodes cannot reach each other over these cards",
        "look at cables, transceivers and the switch's ports",
        "operstate and port state in sysfs",
        "; ".join(f"{nic.name}: {nic.state}" for nic in ports[:8]),
    )


def _peers(nics: list[Nic]) -> Iterator[Finding]:
    up = [nic for nic in nics if nic.state == "up"]
    down = [nic for nic in nics if nic.state != "up"]
    share = threshold("nic-peers-up")
    wanted = "up, as the other ports of this model are"
    if down and up and len(up) >= len(nics) * share.value:
        for nic in down:
            yield Finding(
                "nic-link",
                "warn",
                _subject(nic),
                wanted,
                f"{nic.state}; {len(up)} of {len(nics)} ports are up",
                "traffic of the GPU beside it takes a longer way, or stops",
                "look at cable, transceiver and the switch's port",
                _PEERS,
                f"{nic.name}: {nic.state}",
                share,
            )
    elif up:
        words = f"{len(up)} of {len(nics)} port(s) up"
        yield Finding("nic-link", "ok", f"{nics[0].model} cards", wanted, words, source=_PEERS)
    best = max((nic.speed_gbit or 0 for nic in up), default=0)
    slow = [nic for nic in up if nic.speed_gbit is not None and nic.speed_gbit < best]
    for nic in slow:
        yield Finding(
            "nic-speed",
            "warn",
            _subject(nic),
            f"{best:g} Gbit/s, as its peers",
            f"{nic.speed_gbit:g} Gbit/s",
            "the slowest port sets the pace of transfers between nodes",
            "look at cable, transceiver and the speed setting of the switch's port",
            _PEERS,
            f"{nic.name}: {nic.speed_gbit:g} Gbit/s",
        )
    if best and not slow:
        yield Finding("nic-speed", "ok", f"{nics[0].model} cards", "one speed", f"{best:g} Gbit/s", source=_PEERS)


def _paths(hardware: NodeHardware, ports: list[Nic]) -> Iterator[Finding]:
    nodes = by_address(hardware.pcie_tree)
    # Links that a card shares with a GPU are judged there, once.
    shared = {link.below.address for n in hardware.pcie_tree if n.kind == "gpu" for link in path(nodes, n.address)}
    for nic in (nic for nic in ports if nic.state == "up"):  # a port without cable may put its link to sleep
        links = [link for link in path(nodes, nic.address) if link.below.address not in shared]
        bad = [link for link in links if link.narrow or link.slow]
        if not links:
            continue
        told = "; ".join(map(str, bad or links))
        yield Finding(
            "nic-pcie",
            "warn" if bad else "ok",
            _subject(nic),
            "every PCIe link up to the root as wide and fast as its two ends can do",
            told,
            "the card cannot reach its network speed" if bad else "",
            "reseat the card; check the firmware's PCIe settings" if bad else "",
            SYSFS,
            told,
        )


def _subject(nic: Nic) -> str:
    return f"{nic.name} ({nic.address})" if nic.name != nic.address else nic.name
