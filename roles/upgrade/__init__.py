"""Role upgrade: from the release that the host is on to the one that the inventory names, and back if that fails."""

from __future__ import annotations

from metalserve.pyinfra_seam.role import role, stage
from metalserve.pyinfra_seam.stepping import Walk, walk
from roles.upgrade import desired
from roles.upgrade.decide import next_move


@role("Upgrade", watch=desired.watch)
def upgrade() -> None:
    """Drain, free the GPUs, install, exchange the modules, start and prove; each step recorded before it is done."""
    walk(Walk(outline=desired.outline, goal=desired.goal, watch=desired.watch, next_move=next_move))


@role("Upgrade", watch=desired.watch_record)
def settled() -> None:
    """Refuse a host whose upgrade is unfinished; the first role of a deploy that changes hosts."""
    stage("unfinished upgrade", desired.refuse_unfinished)


@role("Release", watch=desired.watch_record)
def remember() -> None:
    """Write down which release was proved; the last role of a deploy that brings hosts up."""
    stage("record", desired.remember, live_only=True)


__all__ = ["desired", "remember", "settled", "upgrade"]
