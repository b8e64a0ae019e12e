"""Role topology: the host is what was bought, or it is not used. Changes nothing."""

from __future__ import annotations

from collections.abc import Sequence

from metalserve.desired.node import Node
from metalserve.pyinfra_seam.role import prove, record, role
from metalserve.verify.finding import Finding
from roles.topology import desired


@role("Topology", watch=desired.watch)
def topology() -> None:
    """GPUs, links, fabric, PCIe and drives as nvidia-smi tells them, against what the inventory says was bought."""
    prove("what was bought", _check)


def _check(node: Node) -> Sequence[Finding]:
    findings = desired.check(node)
    record("gpus", desired.in_words(node.hardware))
    return findings


__all__ = ["desired", "topology"]
