"""Role weights: the model's files on the host, every byte proved."""

from __future__ import annotations

from collections.abc import Sequence

from metalserve.desired.node import Node
from metalserve.pyinfra_seam.role import prove, record, role, stage
from metalserve.verify.finding import Finding
from roles.storage.desired import watch as watch_storage
from roles.weights import desired


@role("Weights", watch=lambda settings, release: watch_storage(settings, release) | desired.watch(settings, release))
def weights() -> None:
    """The pinned revision, fetched by the host itself, hashed while it comes, published by one rename."""
    stage("configure", desired.configure)
    stage("stage", desired.stage_model, live_only=True)
    prove("published", _check)


def _check(node: Node) -> Sequence[Finding]:
    findings = desired.check(node)
    if node.settings.model is not None:
        record("weights", desired.in_words(node))
    return findings


__all__ = ["desired", "weights"]
