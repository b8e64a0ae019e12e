"""Role router: one address for the fleet; requests go to replicas that give tokens, never to one that is drained."""

from __future__ import annotations

from collections.abc import Sequence

from metalserve.desired.node import Node
from metalserve.pyinfra_seam.peers import others
from metalserve.pyinfra_seam.role import prove, record, role, stage
from metalserve.routing.pools import Peer
from metalserve.verify.finding import Finding
from roles.router import desired


@role("Router", watch=desired.watch)
def router() -> None:
    """HAProxy in front of the replicas that the serving hosts have; nothing on hosts that are no router."""
    stage("install", desired.install)
    stage("configure", lambda node: desired.configure(node, _peers(node)))
    stage("route", lambda node: desired.route(node, _peers(node)), live_only=True)
    prove("replicas", _check, within_s=30)


def _peers(node: Node) -> tuple[Peer, ...]:
    if node.settings.router is None:
        return ()
    return tuple(desired.peer(seen.name, seen.address, seen.settings, seen.observed) for seen in others())


def _check(node: Node) -> Sequence[Finding]:
    findings = desired.check(node)
    if findings and all(not finding.failing for finding in findings):
        record("routes", desired.in_words(node))
    return findings


__all__ = ["desired", "router"]
