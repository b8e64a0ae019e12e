"""Runs pyinfra's command line as a child: its gevent and its state stay out of ours, its output is shown as it is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from metalserve.errors import MetalserveError
from metalserve.paths import ROOT
from metalserve.pyinfra_seam.report import RunReport


@dataclass(frozen=True)
class Outcome:
    """How one run of pyinfra ended.

    Attributes:
        rc: its exit status.
        interrupted: whether Ctrl-C (or a request to end) came while it ran.
        report: its report; None when it ended before any host was known.
        output: what it said, when it was asked to be quiet.
    """

    rc: int
    interrupted: bool
    report: RunReport | None
    output: str = ""


def run_pyinfra(
    inventory: str,
    deploy: str,
    hosts: Sequence[str] | None,
    *,
    dry: bool = False,
    parallel: int | None = None,
    verbose: int = 0,
    quiet: bool = False,
    data: Mapping[str, str] | None = None,
    alone: bool = True,
) -> Outcome:
    """Run `deploy` on `hosts` and wait for it; Ctrl-C is passed on, and its end awaited.

    Args:
        inventory: the inventory file.
        deploy: a deploy file, or a deploy function's dotted name.
        hosts: names of the hosts to take; None for all.
        dry: change nothing.
        parallel: how many hosts at once.
        verbose: pyinfra's own -v, -vv, -vvv.
        quiet: keep the output instead of showing it.
        data: host data that goes before the inventory's, for all hosts.
        alone: this process waits for nothing else; False where several runs go on side by side in it (greenlets), which
            then leaves signals to the caller.
    """
    if hosts is not None and not hosts:
        raise MetalserveError("no hosts to run on")
    # pyinfra finds config.py, deploys and roles in the directory it is run from.
    command = [sys.executable, "-m", "pyinfra", str(Path(inventory).absolute()), _deploy(deploy)]
    command += ["--dry"] if dry else ["-y"]
    for host in hosts or ():
        command += ["--limit", host]
    for key, value in (data or {}).items():
        command += ["--data", f"{key}={value}"]
    command += ["--parallel", str(parallel)] if parallel else []
    command += ["-" + "v" * verbose] if verbose else []
    with tempfile.TemporaryDirectory(prefix="metalserve-run-") as directory:
        path = Path(directory) / "report.json"
        environment = {**os.environ, "METALSERVE_REPORT": str(path), "METALSERVE_QUIET_SUMMARY": "1"}
        rc, interrupted, output = _wait(command, environment, quiet, alone)
        report = RunReport.from_dict(json.loads(path.read_text())) if path.exists() else None
    return Outcome(rc, interrupted, report, output)


def _deploy(deploy: str) -> str:
    """Return the deploy as pyinfra must be given it from the checkout.

    Raises:
        MetalserveError: no such file.
    """
    if not deploy.endswith(".py"):
        return deploy
    for path in (Path(deploy).absolute(), ROOT / deploy):
        if path.is_file():
            return os.path.relpath(path, ROOT)
    raise MetalserveError("no such deploy file", where=deploy, remedy="deploys/ has those that come with metalserve")


def _wait(command: list[str], environment: dict[str, str], quiet: bool, alone: bool) -> tuple[int, bool, str]:
    interrupted = False
    output = subprocess.PIPE if quiet else None
    child = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT if quiet else None
    )

    def pass_on(number: int, frame: FrameType | None) -> None:
        # A terminal sends Ctrl-C to the child too, which takes only the first; `kill` sends it to us alone.
        nonlocal interrupted
        interrupted = True
        child.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM) if alone}
    try:
        said, _ = child.communicate()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    text = said.decode(errors="replace") if said else ""
    return child.returncode, interrupted or child.returncode in (130, 143, -signal.SIGINT, -signal.SIGTERM), text
