"""Role monitoring: one host watches the others, and tells somebody what is wrong and what to do."""

from __future__ import annotations

from collections.abc import Sequence

from metalserve.desired.node import Node
from metalserve.monitoring.targets import Watched
from metalserve.pyinfra_seam.peers import others, own_address
from metalserve.pyinfra_seam.role import prove, record, role, stage
from metalserve.verify.finding import Finding
from roles.monitoring import desired, proof


@role("Monitoring", watch=desired.watch)
def monitoring() -> None:
    """Prometheus, Alertmanager and dashboards over all hosts with `monitoring`; nothing without `monitoring.server`."""
    stage("install", lambda node: desired.install(node, own_address()))
    stage("configure", lambda node: desired.configure(node, own_address(), _hosts(node)))
    stage("activate", desired.activate, live_only=True)
    prove("targets", _check, within_s=_patience)


def _hosts(node: Node) -> tuple[Watched, ...]:
    if not _is_server(node):
        return ()
    return tuple(
        desired.watched(seen.name, seen.address, seen.groups, seen.settings, seen.observed) for seen in others()
    )


def _is_server(node: Node) -> bool:
    return node.settings.monitoring is not None and node.settings.monitoring.server is not None


def _patience(node: Node) -> float:
    """Seconds until a new target has been looked at more than once."""
    given = node.settings.monitoring.server if node.settings.monitoring is not None else None
    return 30.0 + 3 * given.scrape_interval_s if given is not None else 0.0


def _check(node: Node) -> Sequence[Finding]:
    findings = desired.check(node, _hosts(node))
    if findings and all(not finding.failing for finding in findings):
        record("targets", proof.in_words(node))
    return findings


__all__ = ["desired", "monitoring"]
