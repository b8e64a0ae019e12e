"""How roles speak to pyinfra: `@role`, `stage`, `prove`, `begin`.

Before execution a stage is decided from what was observed, so that `--dry` can tell it. During execution it is
decided again from what the host is *then*, under the host's lock. A stage that changes nothing costs no session.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any

import gevent
from pyinfra import logger
from pyinfra.api.command import FunctionCommand
from pyinfra.api.deploy import deploy
from pyinfra.api.operation import operation

from metalserve.desired.diff import Change, difference
from metalserve.desired.follow import FollowOf
from metalserve.desired.model import Desired, NotYetKnown, Reboot, Watch
from metalserve.desired.node import Node
from metalserve.errors import MetalserveError
from metalserve.pyinfra_seam.following import followed
from metalserve.pyinfra_seam.hostrun import HostRun, current
from metalserve.pyinfra_seam.judging import Check, ProofFailed, conclude, note_check
from metalserve.pyinfra_seam.reboot import reboot_and_wait
from metalserve.releases import Release
from metalserve.settings import HostSettings
from metalserve.verify.finding import Finding

WatchOf = Callable[[HostSettings, Release], Watch]
Decide = Callable[[Node], Desired]


def begin(*watches: WatchOf, proofs_only: bool = False, hardware: bool = True) -> None:
    """Observe the host once for all the given roles; a deploy's first line.

    Args:
        watches: what the roles need to see.
        proofs_only: change nothing; `prove` only notes what its checks say, and `judge` at the deploy's end fails
            the host if one of them is bad.
        hardware: ask the tools of the hardware too.
    """
    run = current()
    run.fresh = run.fresh and run.hardware == hardware
    run.hardware = hardware
    run.proofs_only = proofs_only
    run.run.verifies |= proofs_only
    if run.failed:
        return
    with run.in_role("observe"):
        run.prepare(_joined(run, watches))


def _joined(run: HostRun, watches: Sequence[WatchOf]) -> Watch:
    node = run.known()
    joined = Watch()
    for watch in watches:
        joined = joined | watch(node.settings, node.release)
    return joined


def role(title: str, watch: WatchOf) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Make a function of stages into a pyinfra deploy that fails only the host it fails on.

    Args:
        title: shown by pyinfra before each of its operations.
        watch: what the role needs to see, known from settings alone.
    """

    def wrap(function: Callable[[], None]) -> Callable[[], None]:
        @functools.wraps(function)
        def guarded() -> None:
            run = current()
            if run.failed:
                return
            with run.in_role(function.__name__):
                run.prepare(_joined(run, (watch,)))
                function()

        decorated: Any = deploy(title)(guarded)
        wrapped: Callable[[], None] = decorated
        return wrapped

    return wrap


def stage(name: str, decide: Decide, *, live_only: bool = False, follow: FollowOf | None = None) -> None:
    """One stage of a role: what it wants, and the operation that brings it about where it differs.

    Args:
        name: shown to people ("install", "configure", "activate").
        decide: pure; may raise `NotYetKnown` for what this very run will bring, or any other
            `MetalserveError` for what no run can mend (the host fails before it is touched).
        live_only: skip it in an image, where nothing is started or loaded.
        follow: what the stage only begins on the host; it counts as done when that has ended.
    """
    run = current()
    if run.failed or run.proofs_only or run.node is None or (live_only and not run.node.observed.live):
        return
    foreseen = True
    try:
        wish = decide(run.node)
        changes = difference(wish, run.node.observed)
    except NotYetKnown as reason:
        if not run.pending:
            raise
        run.report.unknown.append((run.role_name, reason.what))
        _say(run, f"{run.role_name} / {name}: {reason.what}")
    else:
        if not changes and not run.pending:
            return
        for change in changes:
            run.report.planned.append((run.role_name, name, change.summary))
            _say(run, f"{run.role_name} / {name}: {change.summary}")
        for note in wish.notes if changes else ():
            _say(run, f"{run.role_name} / {name}: because: {note}")
        run.pending += changes
        # Nothing to do as the host is now; decided again in its turn, after what comes before it.
        foreseen = bool(changes)
    _stage(name=name, role_name=run.role_name, stage_name=name, decide=decide, foreseen=foreseen, follow=follow)


def _say(run: HostRun, line: str) -> None:
    run.host.log(line, logger.info)


@operation(is_idempotent=True)
def _stage(
    role_name: str, stage_name: str, decide: Decide, foreseen: bool, follow: FollowOf | None
) -> Generator[FunctionCommand, None, None]:
    run = current()
    if not run.executing:
        if foreseen:  # only counted: the decision was made and shown already
            yield FunctionCommand(_succeed, (), {})
        return
    run.run.executed = True
    run.role_name = role_name
    # An exception here would end the run for every host, so everything is caught and fails this host alone.
    try:
        changed = _execute(run, stage_name, decide, follow)
    except Exception as error:
        run.fail(stage_name, error)
        yield FunctionCommand(_refuse, (), {})
        return
    if changed:
        yield FunctionCommand(_succeed, (), {})


def _execute(run: HostRun, stage_name: str, decide: Decide, follow: FollowOf | None) -> bool:
    run.hold_lock()
    node = run.now()
    changes = difference(decide(node), node.observed)
    if not changes:
        return False
    run.apply(stage_name, changes)
    if follow is not None:
        followed(run, stage_name, follow(node))
    reboots = [c.resource for c in changes if isinstance(c.resource, Reboot)]
    if reboots:
        reboot_and_wait(run, reboots[0])
    _converged(run, decide)
    return True


def _converged(run: HostRun, decide: Decide) -> None:
    # Proof that the change took: what is still different afterwards was not mended, whatever the exit status said.
    node = run.observe()
    try:
        left = difference(decide(node), node.observed)
    except NotYetKnown:
        return
    if left:
        raise MetalserveError(
            f"still not as wanted after the change: {'; '.join(c.summary for c in left[:3])}",
            remedy="something else on the host changes it back, or the change has no effect: look at the host",
        )


def prove(name: str, check: Check, *, within_s: float | Callable[[Node], float] = 0.0) -> None:
    """The last stage of a role: check the host and fail it loudly if it is not as decided.

    Args:
        name: shown to people.
        check: pure; any finding of status "fail" or "unknown" fails the host, "warn" is reported.
        within_s: how long the host may take to become right, in seconds; observed again every few seconds. A function
            of the host where that depends on its settings.
    """
    run = current()
    # A run that only proves is asked about a machine that runs, whatever its PID 1 is; nothing is proved in an image.
    if run.failed or run.node is None or not (run.node.observed.live or run.proofs_only):
        return
    if run.proofs_only:
        note_check(run, name, check)
        return
    if callable(within_s):
        within_s = within_s(run.node)
    if not run.pending:
        try:
            _judge(run, check(run.node))
            return
        except (ProofFailed, NotYetKnown) as error:
            if within_s <= 0:
                run.fail(f"prove {name}", error)
                return
            # It may only be starting, after a reboot of its own for instance: the execute phase waits for it.
            run.report.unknown.append((run.role_name, f"{name}: not yet right: {error.what}"))
            _say(run, f"{run.role_name} / prove {name}: not yet right: {error.what}")
        except Exception as error:
            run.fail(f"prove {name}", error)
            return
    _prove(name=f"prove {name}", role_name=run.role_name, proof_name=name, check=check, within_s=within_s)


def judge() -> None:
    """Fail the host if a noted finding is bad; the last line of a deploy that began with `proofs_only`.

    Where something is still to be measured, that is decided after it, during execution.
    """
    run = current()
    if run.failed:
        return
    if run.measuring and "--dry" not in sys.argv:
        _conclude(name="judge")
    else:
        conclude(run)


@operation(is_idempotent=True)
def _conclude() -> Generator[FunctionCommand, None, None]:
    run = current()
    if run.executing and not run.failed:
        conclude(run)
        if run.failed:
            yield FunctionCommand(_refuse, (), {})


@operation(is_idempotent=True)
def _prove(role_name: str, proof_name: str, check: Check, within_s: float) -> Generator[FunctionCommand, None, None]:
    run = current()
    if not run.executing:
        return
    run.run.executed = True
    run.role_name = role_name
    try:
        deadline = time.monotonic() + within_s
        node = run.now()
        while True:
            try:
                _judge(run, check(node))
                return
            except (ProofFailed, NotYetKnown):
                if time.monotonic() >= deadline:
                    raise
            gevent.sleep(2)
            node = run.observe()
    except Exception as error:
        run.fail(f"prove {proof_name}", error)
    yield FunctionCommand(_refuse, (), {})


def _judge(run: HostRun, findings: Sequence[Finding]) -> None:
    for finding in findings:
        if finding.status in ("fail", "unknown"):
            raise ProofFailed(finding)
    for finding in findings:
        if finding.warning:
            words = f"{finding.subject}: {finding.check}: expected {finding.expected}, found {finding.observed}"
            if words not in run.report.warnings:
                run.report.warnings.append(words)


def tell(name: str, say: Callable[[Node], str]) -> None:
    """Put what `say` makes of the host, as it was observed, into its report; nothing is changed."""
    run = current()
    if not run.failed and run.node is not None:
        record(name, say(run.node))


def record(name: str, words: str) -> None:
    """Put one proved line into the host's report (such as the text that the engine answered)."""
    current().report.proofs[name] = words


def _succeed(state: object, host: object) -> bool:
    return True


def _refuse(state: object, host: object) -> bool:
    return False


__all__ = ["Change", "begin", "judge", "prove", "record", "role", "stage", "tell"]
