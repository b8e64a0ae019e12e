"""One host in one run: observed, locked, changed and failed here, and nowhere else."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pyinfra import context, logger
from pyinfra.api.arguments import CONNECTOR_ARGUMENT_KEYS, pop_global_arguments
from pyinfra.api.command import StringCommand
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.state import StateStage

from metalserve.desired.diff import Change
from metalserve.desired.model import Watch
from metalserve.desired.node import Node
from metalserve.desired.observe_script import observation_script
from metalserve.desired.observed import Observation, parse_observation
from metalserve.desired.render import RUN_FROM_STDIN, render
from metalserve.errors import MetalserveError
from metalserve.hardware.commands import COMMANDS
from metalserve.pyinfra_seam import lock as lock_module
from metalserve.pyinfra_seam.report import Failure, HostReport, RunReport
from metalserve.releases import load_release
from metalserve.settings import HostSettings
from metalserve.verify.finding import Finding


class HostRun:
    """Everything that a run knows of one host.

    Attributes:
        node: settings, release and the newest observation.
        pending: what the stages so far would change (found before execution).
        fresh: whether nothing was changed since `node` was observed.
        proofs_only: whether this run only notes what the checks say (deploys/verify.py).
        measuring: whether the host is to be measured during execution, after which it is judged.
        hardware: whether an observation asks the tools of the hardware; on a host whose driver hangs each of them would
            take its whole minute.
    """

    def __init__(self, state: Any, host: Any, report: HostReport, run: RunReport) -> None:
        self.state = state
        self.host = host
        self.report = report
        self.run = run
        self.watch = Watch()
        self.node: Node | None = None
        self.fresh = False
        self.pending: list[Change] = []
        self.lock: lock_module.HeldLock | None = None
        self.role_name = "run"
        self.proofs_only = False
        self.noted: list[Finding] = []
        self.measuring = False
        self.hardware = True
        self._connector_arguments: dict[str, Any] | None = None

    @property
    def failed(self) -> bool:
        """Whether this host has failed; nothing more is done to it then."""
        return self.report.failure is not None

    @property
    def executing(self) -> bool:
        """Whether pyinfra is in its execute phase."""
        return bool(self.state.current_stage == StateStage.Execute)

    # -- talking to the host

    def shell(self, script: str, *, timeout_s: int | None = None) -> tuple[bool, list[str]]:
        """Run `script` (POSIX shell, by standard input) on the host in one session.

        Returns:
            Whether it exited with 0, and its lines of output and errors as they came.

        Raises:
            MetalserveError: the connection broke or the time was up.
        """
        # A terminal would never end the script's input.
        given = {"_stdin": [script], "_timeout": timeout_s, "_get_pty": False}
        arguments = {**self.connector_arguments(), **given}
        self.report.sessions += 1
        try:
            ok, output = self.host.run_shell_command(StringCommand(RUN_FROM_STDIN), **arguments)
        except TimeoutError as error:
            raise MetalserveError(
                f"no answer within {timeout_s} s", remedy="look at the host's console or BMC"
            ) from error
        except Exception as error:  # paramiko, sockets, EOF: whatever breaks the link fails this host alone
            raise MetalserveError(
                f"the connection broke: {type(error).__name__}: {error}",
                remedy="see whether the host is up, then run again: the run goes on where it stopped",
            ) from error
        if not ok and self._link_is_dead():
            raise MetalserveError(
                "the connection broke while a command ran",
                remedy="see whether the host is up, then run again: the run goes on where it stopped",
            )
        return ok, [line.line for line in output]

    def connector_arguments(self) -> dict[str, Any]:
        """Return pyinfra's connector arguments of this host (`_sudo` and the like)."""
        if self._connector_arguments is None:
            found, _ = pop_global_arguments(self.state, self.host, {})
            self._connector_arguments = {k: v for k, v in found.items() if k in CONNECTOR_ARGUMENT_KEYS}
        return self._connector_arguments

    def _link_is_dead(self) -> bool:
        client = getattr(self.host.connector, "client", None)
        transport = client.get_transport() if client is not None and hasattr(client, "get_transport") else None
        return transport is not None and not transport.is_active()

    def observe(self) -> Node:
        """Observe the host now (one session) and return it with its settings.

        Raises:
            MetalserveError: the host did not answer, or not in words that can be understood.
        """
        script = observation_script(self.watch, COMMANDS if self.hardware else {})
        _, lines = self.shell(script, timeout_s=300)
        observed = parse_observation("\n".join(lines))
        if observed.facts.get("uid") != "0":
            raise MetalserveError(
                f"commands run as uid {observed.facts.get('uid')}, not as root",
                remedy="set ssh_user to root or _sudo to True for this host",
            )
        assert self.node is not None
        self.node = self.node.with_observation(observed)
        self.fresh = True
        return self.node

    def now(self) -> Node:
        """Return the host as it is now: the last observation when nothing changed since, else a new one."""
        if self.fresh and self.node is not None:
            return self.node
        return self.observe()

    def known(self) -> Node:
        """Return settings and release with the newest observation; reads the settings on the first call."""
        if self.node is None:
            settings = HostSettings.from_data(self.host.data.dict(), host=self.host.name, source="inventory")
            self.report.simulated = settings.simulated
            self.report.release = settings.release
            self.report.warnings += settings.warnings()
            self.node = Node(self.host.name, settings, load_release(settings.release), Observation())
        return self.node

    def prepare(self, watch: Watch) -> None:
        """Have an observation that answers for `watch`."""
        self.known()
        if not (self.fresh and self.watch.covers(watch)):
            self.watch = self.watch | watch
            self.observe()

    # -- changing the host

    def hold_lock(self) -> None:
        """Take the host's lock if it is not held yet; what was observed before may be stale then."""
        if self.lock is not None and not self.lock.held():
            self.release_lock()  # the host took it back: we were silent for too long (asleep?)
        if self.lock is None:
            self.report.sessions += 1
            self.lock = lock_module.acquire(self.state, self.host, self.connector_arguments())
            self.fresh = False

    def release_lock(self) -> None:
        """Give the host's lock back."""
        if self.lock is not None:
            try:
                self.lock.release()
            except Exception as error:  # the link may be gone, and the lock with it
                logger.debug("lock of %s: %s", self.host.name, error)
            self.lock = None

    def apply(self, stage: str, changes: tuple[Change, ...]) -> None:
        """Carry out `changes` on the host in one session, then forget the observation.

        Raises:
            StepFailed: one of them failed; carries the step and the last lines.
        """
        self.fresh = False
        ok, lines = self.shell(render(changes))
        steps = [line.removeprefix("@@ms:step ") for line in lines if line.startswith("@@ms:step ")]
        if not ok or steps[-1:] != ["done"]:
            said = [line for line in lines if not line.startswith("@@ms:step ") and line.strip()]
            raise StepFailed(steps[-1] if steps else "start", said)
        for change in changes:
            self.report.changes.append((self.role_name, stage, change.summary))

    # -- failing, alone

    def fail(self, stage: str, error: BaseException) -> None:
        """Record why this host stops here. Before execution pyinfra is told too; others go on."""
        if self.report.failure is None:
            self.report.failure = _failure(self.role_name, stage, error)
            what = f"{self.role_name} / {stage}: {self.report.failure.what}"
            self.host.log_styled(what, fg="red", log_func=logger.error)
            if not isinstance(error, MetalserveError):
                logging.getLogger("metalserve").debug("%s", "".join(traceback.format_exception(error)))
        self.release_lock()
        if not self.executing:
            self.state.fail_hosts({self.host})

    @contextmanager
    def in_role(self, name: str) -> Iterator[None]:
        """Name the role for reports; whatever goes wrong inside fails this host alone."""
        before, self.role_name = self.role_name, name
        try:
            yield
        except PyinfraError:
            raise  # pyinfra's own word, such as "No hosts remaining!"
        except Exception as error:
            self.fail("decide", error)
        finally:
            self.role_name = before


class StepFailed(MetalserveError):
    """A change did not succeed; `lines` is what the host said."""

    def __init__(self, step: str, lines: list[str]) -> None:
        said = lines[-1].strip() if lines else "no output"
        what, _, remedy = said.partition(" -> ")
        super().__init__(f"{step}: {what}", remedy=remedy or None)
        self.lines = lines


def _failure(role: str, stage: str, error: BaseException) -> Failure:
    if isinstance(error, StepFailed):
        remedy = error.remedy or "mend what the lines above say, then run again"
        return Failure(role, stage, error.what, "\n".join(error.lines[-30:]), remedy)
    if isinstance(error, MetalserveError):
        what = f"{error.where}: {error.what}" if error.where else error.what
        return Failure(role, stage, what, getattr(error, "evidence", ""), error.remedy or "")
    last = traceback.extract_tb(error.__traceback__)[-1] if error.__traceback__ else None
    place = f"{last.filename}:{last.lineno}" if last else ""
    return Failure(
        role,
        stage,
        f"internal error: {type(error).__name__}: {error}",
        place,
        "this is a fault of metalserve: please report it with the host's report",
    )


_RUNS: dict[int, dict[str, HostRun]] = {}
RUN_REPORT = RunReport()


def known_runs(state: Any) -> Mapping[str, HostRun]:
    """Return the runs of the hosts that were worked on so far, by name."""
    return _RUNS.get(id(state), {})


def current() -> HostRun:
    """Return the run of the host that pyinfra is working on now."""
    state, host = context.state, context.host
    real_state = getattr(state, "_get_module", lambda: state)() or state
    real_host = getattr(host, "_get_module", lambda: host)() or host
    runs = _RUNS.setdefault(id(real_state), {})
    if real_host.name not in runs:
        if not runs:
            RUN_REPORT.started = time.time()
        runs[real_host.name] = HostRun(real_state, real_host, RUN_REPORT.host(real_host.name), RUN_REPORT)
    return runs[real_host.name]
