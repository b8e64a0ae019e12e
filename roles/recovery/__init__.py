"""Role recovery: the ladder's steps that run on the host, one after the other, each judged by what is seen then."""

from __future__ import annotations

from pyinfra import local

from metalserve.paths import ROOT
from metalserve.pyinfra_seam.hostrun import current
from metalserve.pyinfra_seam.role import role
from metalserve.pyinfra_seam.stepping import Walk, walk
from roles.recovery import desired
from roles.recovery.decide import next_move


@role("Recovery", watch=desired.watch)
def recovery() -> None:
    """Judge the host, make the step that the verdict names, prove it, and fall through to the next when that is bad."""
    walk(Walk(outline=desired.outline, goal=desired.goal, watch=desired.watch, next_move=next_move))


def wants_main_job() -> bool:
    """Tell whether the step that the host needs is the main job; asked before anything is executed."""
    run = current()
    if run.failed or run.node is None or not run.node.observed.live:
        return False
    with run.in_role("recovery"):
        return desired.first_rung(run.node) == "converge"
    return False


def main_job() -> None:
    """Run the main job in this very run, in place of a step."""
    local.include(str(ROOT / "deploys" / "gpu_node.py"))


__all__ = ["desired", "main_job", "recovery", "wants_main_job"]
