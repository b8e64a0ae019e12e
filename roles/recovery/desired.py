"""What role recovery looks at, and what it tells before it begins. Pure."""

from __future__ import annotations

from metalserve.catalogue.causes import load_causes
from metalserve.catalogue.ladder import load_ladder
from metalserve.desired.model import Watch
from metalserve.desired.node import Node
from metalserve.errors import MetalserveError
from metalserve.recovery.record import RECORD
from metalserve.recovery.values import Step
from metalserve.releases import Release
from metalserve.settings import HostSettings
from roles.recovery.decide import decided, last_end
from roles.recovery.seen import BUNDLE, RECORD_SECTION, bundle_command, look_of, record_of


def watch(settings: HostSettings, release: Release) -> Watch:
    """What an observation must look at: a whole bundle of evidence, in the same session."""
    return Watch(paths=(RECORD,), commands={BUNDLE: bundle_command(), RECORD_SECTION: f"cat {RECORD}"})


def goal(node: Node) -> Node:
    """Return the host as it is: a recovery leads to no other release."""
    return node


def outline(node: Node) -> list[tuple[str, str]]:
    """Return (step, words) of what a run would do; empty when there is nothing to do.

    Raises:
        MetalserveError: the host tells nothing, or an upgrade of it is unfinished.
    """
    record = record_of(node)
    if record is not None and not record.result:
        last = record.steps[-1] if record.steps else None
        words = f"{last.rung}: {last.reason}" if last is not None else "just begun"
        return [("resume", f"a recovery is unfinished ({words}); it is judged by what is seen, and gone on with")]
    seen, look = look_of(node, last_end(node))
    if seen.upgrading:
        raise MetalserveError(f"an upgrade is unfinished: {seen.upgrading}", remedy="run deploys/upgrade.py first")
    move = decided(node, seen, look, [])
    if not isinstance(move, Step):
        return []
    lines = [("verdict", look.words)]
    if load_ladder().rung(move.rung).destroys_evidence:
        lines.append(("evidence", "a bundle is kept on the host"))
    lost = load_causes().rung(move.rung).destroys
    return [*lines, (move.rung, f"{move.reason} (lost by it: {lost}); a higher step if that does not help")]


def first_rung(node: Node) -> str:
    """Return the rung that the host needs first; "" when none, or a recovery is under way."""
    record = record_of(node)
    if record is not None and not record.result:
        return ""
    seen, look = look_of(node, last_end(node))
    move = decided(node, seen, look, [])
    return move.rung if isinstance(move, Step) else ""
