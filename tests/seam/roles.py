"""Harmless roles for the tests of the seam: they write below the directory that SEAM_ROOT names."""

from __future__ import annotations

import os
import time
from pathlib import Path

from metalserve.desired.model import Action, Desired, File, NotYetKnown, Watch
from metalserve.desired.node import Node
from metalserve.desired.observed import Observation
from metalserve.errors import MetalserveError
from metalserve.pyinfra_seam.role import prove, role, stage
from metalserve.releases import Release
from metalserve.settings import HostSettings
from metalserve.verify.finding import Finding

# The machine that runs the tests may have no systemd. These roles only write files, so it may count as a live host.
Observation.live = property(lambda self: True)  # type: ignore[assignment,method-assign]

ROOT = Path(os.environ["SEAM_ROOT"])
PLAIN = str(ROOT / "plain.conf")
SECRET = str(ROOT / "secret.env")
MARK = str(ROOT / "mark")


def watch(settings: HostSettings, release: Release) -> Watch:
    return Watch(paths=(PLAIN, SECRET, MARK))


def plain_files(node: Node) -> Desired:
    if os.environ.get("SEAM_BUG") == node.name:
        raise ZeroDivisionError("a bug in a role")
    if os.environ.get("SEAM_REFUSE") == node.name:
        raise MetalserveError("this host cannot be mended", where="seam", remedy="buy another")
    secret = os.environ.get("SEAM_SECRET", "hunter2")
    return Desired(
        files=(
            File(PLAIN, f"release = {node.release.name}\n"),
            File(SECRET, f"TOKEN={secret}\n", mode="0600", secret=True),
        )
    )


def after_plain(node: Node) -> Desired:
    if PLAIN not in node.observed.files:
        raise NotYetKnown("the mark: known only after plain.conf is there")
    script = os.environ.get("SEAM_SCRIPT", f": >{MARK}")
    return Desired(actions=(Action("make the mark", lambda o: MARK in o.files, script),))


def findings(node: Node) -> list[Finding]:
    status = os.environ.get("SEAM_FINDING", "ok")
    if status == "none":
        return []
    return [
        Finding("seam-mark", status, node.name, "a mark", "what it is", "nothing works", "make it", "test")  # type: ignore[arg-type]
    ]


def marked(node: Node) -> list[Finding]:
    there = MARK in node.observed.files
    return [Finding("seam-late", "ok" if there else "fail", node.name, "a mark", "one" if there else "none")]


@role("Seam", watch=watch)
def seam() -> None:
    stage("configure", plain_files)
    stage("activate", after_plain)
    prove("mark", findings)


@role("Late", watch=watch)
def late() -> None:
    """Nothing to change, but right only after a while."""
    prove("late", marked, within_s=float(os.environ.get("SEAM_WITHIN", "0")))


def slowly(node: Node) -> Desired:
    time.sleep(float(os.environ.get("SEAM_SLEEP", "0")))
    return Desired()


@role("Slow", watch=watch)
def slow() -> None:
    stage("decide slowly", slowly)
