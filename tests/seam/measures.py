"""A deploy that measures: the host's side is made up by SEAM_* variables."""

from __future__ import annotations

import os
from collections.abc import Sequence

from metalserve.desired.node import Node
from metalserve.errors import MetalserveError
from metalserve.pyinfra_seam.measuring import Probe, measured
from metalserve.pyinfra_seam.role import begin, judge, role
from metalserve.verify.finding import Finding
from metalserve.verify.measurement import Measurement
from metalserve.verify.measurement_rules import inconclusive
from tests.seam import roles


def _obstacle(node: Node) -> Finding | None:
    refused = os.environ.get("SEAM_OBSTACLE") == node.name
    return inconclusive("measurement", "host", "a measurement", "engines run", "stop them") if refused else None


def _assemble(node: Node, lines: Sequence[str], started: str) -> Measurement:
    if os.environ.get("SEAM_BROKEN") == node.name:
        raise MetalserveError("the answer broke off")
    storage = {"read_gb_s": float(os.environ.get("SEAM_DRIVE", "6.5")), "device": lines[-1]}
    return Measurement.from_dict({"schema": 1, "depth": "standard", "started": started, "storage": storage})


def _judge(node: Node, measurement: Measurement) -> list[Finding]:
    status = os.environ.get("SEAM_MEASURED", "ok")
    return [Finding("drive-read", status, "nvme0n1", "fast", "slow", "models load late", "replace it")]  # type: ignore[arg-type]


@role("Measure", watch=roles.watch)
def measure() -> None:
    begins = os.environ.get("SEAM_BEGINS", "echo @@measure started")
    measured(
        Probe(
            obstacle=_obstacle,
            excuse=lambda node, finding: finding,
            attach=lambda node: os.environ.get("SEAM_ATTACH", "echo inactive"),
            start=lambda node: begins,
            follow=lambda seconds: os.environ.get("SEAM_FOLLOW", "echo @@measure ended"),
            result="echo nvme0n1",
            assemble=_assemble,
            judge=_judge,
            kind=lambda node: "1 x drive",
            gpus=lambda node: (),
        )
    )


begin(roles.watch, proofs_only=True)
roles.seam()
measure()
judge()
