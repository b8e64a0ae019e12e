"""Role measure: what the hardware gives, measured. Only for `deploys/verify.py`; changes nothing that stays."""

from __future__ import annotations

from metalserve.pyinfra_seam.measuring import Probe, measured
from metalserve.pyinfra_seam.role import role
from roles.measure import desired


@role("Measure", watch=desired.watch)
def measure() -> None:
    """Bandwidth, storage and a soak, as a unit of the host's own that outlives the connection; judged when it ended."""
    measured(
        Probe(
            obstacle=desired.obstacle,
            excuse=desired.excused,
            attach=lambda node: desired.script(node, "attach"),
            start=lambda node: desired.script(node, "start"),
            follow=desired.follow,
            result=desired.RESULT,
            assemble=lambda node, lines, started: desired.assembled(node, desired.sections(lines), started),
            judge=desired.judged,
            kind=desired.kind_of,
            gpus=desired.gpu_uuids,
        )
    )


__all__ = ["desired", "measure"]
