"""Role vllm: the model is served, by as many engines as the plan says, and each of them answers."""

from __future__ import annotations

from collections.abc import Sequence

from metalserve.desired.model import Watch
from metalserve.desired.node import Node
from metalserve.pyinfra_seam.remembering import keep_loads, learn
from metalserve.pyinfra_seam.role import prove, record, role, stage
from metalserve.releases import Release
from metalserve.settings import HostSettings, ModelSettings
from metalserve.verify.finding import Finding
from roles.container_runtime.desired import watch as watch_container_runtime
from roles.storage.desired import watch as watch_storage
from roles.vllm import desired, loading, records
from roles.vllm.launch import planned
from roles.weights.desired import watch as watch_weights


def watch(settings: HostSettings, release: Release) -> Watch:
    """What the launch depends on: storage, weights, Docker, and the engines themselves."""
    joined = desired.watch(settings, release)
    for other in (watch_storage, watch_weights, watch_container_runtime):
        joined = joined | other(settings, release)
    return joined


@role("vLLM", watch=watch)
def vllm() -> None:
    """Plan the launch from the hardware, start one supervised container a replica, and prove a completion."""
    stage("install", desired.prepare)
    prove("links of tensor parallel", desired.preflight)
    stage("serve", desired.serve, live_only=True)
    prove("a completion", _check, within_s=desired.ready_within_s)
    stage("release", desired.release, live_only=True)


def _check(node: Node) -> Sequence[Finding]:
    findings = desired.check(node)
    if node.settings.model is not None and all(not finding.failing for finding in findings):
        record("answers", desired.in_words(node))
        if words := records.in_words(node.observed):
            record("launch", words)
        _loads(node, node.settings.model)
        if not node.settings.simulated:  # a stand-in's log tells what it was made to tell
            _calibrate(node, node.settings.model)
    return findings


def _loads(node: Node, model: ModelSettings) -> None:
    if words := loading.in_words(node, planned(node, model)):
        record("load", words)
    keep_loads([load.as_dict() for load in loading.loads(node)])


def _calibrate(node: Node, model: ModelSettings) -> None:
    plan = planned(node, model)
    words, learned = records.against_plan(node.observed, plan, host=node.name, model=model.name)
    if words:
        record("plan", words)
    if learned is not None:
        learn(learned)


__all__ = ["desired", "vllm"]
