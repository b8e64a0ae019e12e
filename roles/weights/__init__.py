"""Role weights: the model's files on the host, every byte proved."""

from __future__ import annotations

from collections.abc import Sequence

from metalserve.desired.model import Watch
from metalserve.desired.node import Node
from metalserve.pyinfra_seam.role import prove, record, role, stage
from metalserve.releases import Release
from metalserve.settings import HostSettings
from metalserve.verify.finding import Finding
from roles.storage.desired import watch as watch_storage
from roles.weights import desired


def watch(settings: HostSettings, release: Release) -> Watch:
    """What the role looks at: the store, and the file system that it is on."""
    return watch_storage(settings, release) | desired.watch(settings, release)


@role("Weights", watch=watch)
def weights() -> None:
    """The pinned revision, fetched by a unit of the host's own, hashed while it comes, published by one rename."""
    stage("configure", desired.configure)
    stage("reference", desired.refer, live_only=True)
    stage("stage", desired.stage_model, live_only=True, follow=desired.following)
    stage("schedule", desired.schedule, live_only=True)
    prove("published", _check)


@role("Old weights", watch=watch)
def collect() -> None:
    """Models that nothing refers to any more are removed; a deploy's line after the engines have answered."""
    stage("forget", desired.forget, live_only=True)
    stage("collect", desired.collect, live_only=True)


def _check(node: Node) -> Sequence[Finding]:
    findings = desired.check(node)
    if node.settings.model is not None:
        record("weights", desired.in_words(node))
    return findings


__all__ = ["collect", "desired", "weights"]
