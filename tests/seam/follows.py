"""A deploy whose stage only begins something, which then goes on by itself: made up by SEAM_* variables."""

from __future__ import annotations

import os
from collections.abc import Sequence

from metalserve.desired.follow import Follow, Look
from metalserve.desired.model import Action, Desired
from metalserve.desired.node import Node
from metalserve.errors import MetalserveError
from metalserve.pyinfra_seam.role import begin, role, stage
from tests.seam import roles
from tests.seam.roles import MARK


def wish(node: Node) -> Desired:
    return Desired(actions=(Action("begin it", lambda o: MARK in o.files, os.environ.get("SEAM_BEGINS", ":")),))


def read(lines: Sequence[str]) -> Look:
    words = lines[-1].split(" ", 1) if lines else [""]
    if words[0] == "failed":
        return Look(running=False, failed=words[1], remedy="look there")
    if words[0] not in ("running", "ended"):
        raise MetalserveError("it says nothing")
    return Look(running=words[0] == "running", words=words[1], data={"phase": words[0]})


@role("Follow", watch=roles.watch)
def follow() -> None:
    script = os.environ.get("SEAM_FOLLOW", f": >{MARK}; echo ended well")
    stage("begin", wish, follow=lambda node: Follow(script=lambda seconds: script, read=read))


begin(roles.watch)
follow()
