"""Walks a host through steps that are decided one by one: look, decide, act, look again, in one pyinfra operation.

The stages of a role cannot do that: they are fixed before execution, and the first that fails is the host's last.
Here a step that fails is a reason to decide anew, which is how a host gets back to where it was.
"""

from __future__ import annotations

import getpass
import os
import socket
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import gevent
from pyinfra import logger
from pyinfra.api.command import FunctionCommand
from pyinfra.api.operation import operation

from metalserve.desired.model import Watch
from metalserve.desired.node import Node
from metalserve.errors import MetalserveError
from metalserve.pyinfra_seam.hostrun import HostRun, StepFailed, current
from metalserve.pyinfra_seam.reboot import reboot_and_wait
from metalserve.releases import Release
from metalserve.settings import HostSettings
from metalserve.upgrade.moves import Act, End, Move, Pause, Trace

MOST = 200
"""Moves after which a walk is given up as one that leads nowhere; the longest takes about sixty."""


@dataclass(frozen=True)
class Walk:
    """What the role decides, for the seam to carry out.

    Attributes:
        outline: (step, words) of what would be done, from the first observation; empty when nothing is.
        goal: the host as one that is to have the release that the walk leads to now.
        watch: what must be observed for a release.
        next_move: (host, trace, why the last move failed) -> the next move.
    """

    outline: Callable[[Node], Sequence[tuple[str, str]]]
    goal: Callable[[Node], Node]
    watch: Callable[[HostSettings, Release], Watch]
    next_move: Callable[[Node, Trace, str], Move]


def walk(steps: Walk) -> None:
    """Walk the host; nothing is executed where there is nothing to do."""
    run = current()
    if run.failed or run.node is None or not run.node.observed.live:
        return
    outline = steps.outline(run.node)
    if not outline:
        end = steps.next_move(run.node, Trace(_controller()), "")
        if isinstance(end, End):
            run.report.proofs.update(end.proofs)
        return
    for step, words in outline:
        run.report.planned.append((run.role_name, step, words))
        _say(run, f"{step}: {words}")
    _walk(name="walk", role_name=run.role_name, steps=steps)


def _controller() -> str:
    return f"{getpass.getuser()}@{socket.gethostname()} pid {os.getpid()}"


def _say(run: HostRun, line: str) -> None:
    run.host.log(f"{run.role_name} / {line}", logger.info)


@operation(is_idempotent=True)
def _walk(role_name: str, steps: Walk) -> Generator[FunctionCommand, None, None]:
    run = current()
    if not run.executing:
        yield FunctionCommand(_succeed, (), {})
        return
    run.run.executed = True
    run.role_name = role_name
    # An exception here would end the run for every host, so everything is caught and fails this host alone.
    try:
        _carry_out(run, steps)
    except Exception as error:
        run.fail("walk", error)
        yield FunctionCommand(_refuse, (), {})
        return
    yield FunctionCommand(_succeed, (), {})


def _carry_out(run: HostRun, steps: Walk) -> None:
    run.hold_lock()
    trace = Trace(_controller())
    failure = ""
    for _ in range(MOST):
        move = steps.next_move(_look(run, steps), trace, failure)
        failure = ""
        if isinstance(move, End):
            run.report.proofs.update(move.proofs)
            run.report.warnings += move.warnings
            if move.failed:
                raise MetalserveError(move.failed, remedy=move.remedy)
            return
        if isinstance(move, Pause):
            _pause(run, trace, move)
            continue
        failure = _act(run, trace, move)
    raise MetalserveError(
        f"{MOST} moves, and still not at an end",
        remedy="this is a fault of metalserve: report it with the host's report",
    )


def _look(run: HostRun, steps: Walk) -> Node:
    """Observe the host with everything that its present goal needs."""
    node = run.now()
    goal = steps.goal(node)
    wanted = run.watch | steps.watch(goal.settings, goal.release)
    if wanted != run.watch:
        run.watch = wanted
        node = run.observe()
    return node


def _pause(run: HostRun, trace: Trace, move: Pause) -> None:
    if trace.paused_s == 0:
        _say(run, f"waiting: {move.words}")
    before = time.monotonic()
    gevent.sleep(move.seconds)
    run.observe()
    trace.paused_s += time.monotonic() - before


def _act(run: HostRun, trace: Trace, move: Act) -> str:
    """Carry out one move; returns why it failed, "" when it did not.

    Raises:
        MetalserveError: the host can no longer be reached: nothing is known of it, so nothing is decided.
    """
    run.hold_lock()
    for change in move.changes:
        _say(run, f"{move.step}: {change.summary}")
    trace.paused_s = 0.0
    trace.acted[move.key] += 1
    try:
        run.apply(move.step, move.changes)
    except StepFailed as error:
        if run.lock is not None and not run.lock.held():
            raise
        last = " | ".join(line.strip() for line in error.lines[-3:] if line.strip())
        _say(run, f"{move.step}: failed: {error.what}")
        return f"{error.what} ({last})" if last and last not in error.what else error.what
    if move.reboot is not None:
        reboot_and_wait(run, move.reboot)
        trace.reboots += 1
    if move.anew:
        trace.acted.clear()
    return ""


def _succeed(state: object, host: object) -> bool:
    return True


def _refuse(state: object, host: object) -> bool:
    return False
