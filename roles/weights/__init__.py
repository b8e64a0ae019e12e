"""Role weights: the model's files on the host, every byte proved."""

from __future__ import annotations

from collections.abc import Sequence

from metalserve.desired.model import Desired, Watch
from metalserve.desired.node import Node
from metalserve.pyinfra_seam.peers import fleet, others
from metalserve.pyinfra_seam.role import prove, record, role, stage
from metalserve.releases import Release
from metalserve.settings import HostSettings
from metalserve.verify.finding import Finding
from metalserve.weights.sharing import Member
from roles.storage.desired import watch as watch_storage
from roles.weights import desired, sharing


def watch(settings: HostSettings, release: Release) -> Watch:
    """What the role looks at: the store, and the file system that it is on."""
    return watch_storage(settings, release) | desired.watch(settings, release)


@role("Weights", watch=watch)
def weights() -> None:
    """The pinned revision, fetched by a unit of the host's own, hashed while it comes, published by one rename."""
    stage("configure", lambda node: desired.configure(node, sharing.config_of(node, _members(node))))
    stage("give", _give, live_only=True)
    stage("reference", desired.refer, live_only=True)
    stage("stage", desired.stage_model, live_only=True, follow=desired.following)
    stage("schedule", desired.schedule, live_only=True)
    prove("published", _check)


@role("Old weights", watch=watch)
def collect() -> None:
    """Models that nothing refers to any more are removed; a deploy's line after the engines have answered."""
    stage("forget", desired.forget, live_only=True)
    stage("collect", desired.collect, live_only=True)


def _members(node: Node) -> tuple[Member, ...]:
    if not sharing.shares(node.settings):
        return ()
    return tuple(Member(seen.name, seen.address, seen.settings) for seen in fleet())


def _give(node: Node) -> Desired:
    model = node.settings.model
    if model is None or not sharing.shares(node.settings):
        return Desired()
    manifest = desired.manifest_of(model)
    seen = [(Member(each.name, each.address, each.settings), each.observed) for each in others()]
    return sharing.give(node, seen, lambda observed: desired.published(observed, manifest)) + sharing.renew(node)


def _check(node: Node) -> Sequence[Finding]:
    findings = [*desired.check(node), *sharing.check(node)]
    if node.settings.model is not None:
        record("weights", desired.in_words(node))
    return findings


__all__ = ["collect", "desired", "weights"]
