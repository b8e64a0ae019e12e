"""Role node_metrics: a host tells of itself, to the private network and to nobody else."""

from __future__ import annotations

from collections.abc import Sequence

from metalserve.desired.node import Node
from metalserve.pyinfra_seam.peers import own_address
from metalserve.pyinfra_seam.role import prove, record, role, stage
from metalserve.verify.finding import Finding
from roles.node_metrics import desired


@role("Node metrics", watch=desired.watch)
def node_metrics() -> None:
    """node_exporter, the DCGM exporter and metalserve's collector; nothing on hosts without `monitoring`."""
    stage("install", lambda node: desired.install(node, own_address()))
    stage("GPU exporter", lambda node: desired.install_gpu(node, own_address()))
    stage("configure", desired.configure)
    stage("activate", desired.activate, live_only=True)
    prove("metrics", _check, within_s=30)


def _check(node: Node) -> Sequence[Finding]:
    findings = desired.check(node)
    if findings and all(not finding.failing for finding in findings):
        record("metrics", desired.in_words(node))
    return findings


__all__ = ["desired", "node_metrics"]
