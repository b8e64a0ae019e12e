"""A deploy that walks: two steps below SEAM_ROOT, and the way back when the second fails."""

from __future__ import annotations

import os

from metalserve.desired.diff import Change, difference
from metalserve.desired.model import Action, Desired, File
from metalserve.desired.node import Node
from metalserve.errors import MetalserveError
from metalserve.pyinfra_seam.role import begin, role
from metalserve.pyinfra_seam.stepping import Walk, walk
from metalserve.upgrade.moves import Act, End, Move, Pause, Trace
from tests.seam import roles
from tests.seam.roles import MARK, PLAIN


def outline(node: Node) -> list[tuple[str, str]]:
    if os.environ.get("SEAM_REFUSE") == node.name:
        raise MetalserveError("strangers are on it", remedy="wait")
    return [] if MARK in node.observed.files else [("one", "write plain.conf"), ("two", "make the mark")]


def next_move(node: Node, trace: Trace, failure: str = "") -> Move:
    if os.environ.get("SEAM_BUG") == node.name:
        raise ZeroDivisionError("a bug in a walk")
    if failure:
        gone = Change(File(PLAIN, None), f"file {PLAIN}: -> removed")
        return Act("back", (gone,), "back")
    if trace.acted["back"]:
        return End({"walk": "back"}, failed="it went back", remedy="mend it")
    if MARK in node.observed.files:
        if trace.paused_s < float(os.environ.get("SEAM_PAUSE", "0")):
            return Pause(0.2, "not good yet")
        return End({"walk": "there"})
    wish = Desired(files=(File(PLAIN, "one\n"),))
    if difference(wish, node.observed):
        return Act("one", difference(wish, node.observed), "one")
    script = os.environ.get("SEAM_SCRIPT", f": >{MARK}")
    record = Change(File(PLAIN, "one, and two begun\n"), "record: two")
    act = Action("make the mark", lambda o: MARK in o.files, script)
    return Act("two", (record, *difference(Desired(actions=(act,)), node.observed)), "two")


@role("Steps", watch=roles.watch)
def steps() -> None:
    walk(Walk(outline=outline, goal=lambda node: node, watch=roles.watch, next_move=next_move))


begin(roles.watch)
steps()
