"""Role storage: the NVMe file system that holds the models."""

from __future__ import annotations

from collections.abc import Sequence

from metalserve.desired.node import Node
from metalserve.pyinfra_seam.role import prove, record, role, stage
from metalserve.verify.finding import Finding
from roles.storage import desired


@role("Storage", watch=desired.watch)
def storage() -> None:
    """One empty NVMe drive or an array of them (or metalserve's own) formatted once, mounted by UUID at every boot."""
    stage("install", desired.install)
    stage("format", desired.format_drive, live_only=True)
    stage("mount", desired.mount, live_only=True)
    prove("models' file system", _check)


def _check(node: Node) -> Sequence[Finding]:
    findings = desired.check(node)
    record("storage", desired.in_words(node))
    return findings


__all__ = ["desired", "storage"]
