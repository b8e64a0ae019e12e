"""What pyinfra's command line lacks, put in before a host is contacted. Called from `config.py`.

pyinfra runs `config.py` first of all; from there its own functions are wrapped: the whole inventory is validated
between loading and connecting, a `--limit` that matches nothing is an error, and Ctrl-C does not look like success.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import click
from pyinfra.api.state import BaseStateCallback, StateStage
from rich.console import Console

from metalserve.errors import MetalserveError
from metalserve.inventory import check_hosts, check_secrets
from metalserve.pyinfra_seam import output
from metalserve.pyinfra_seam.hostrun import RUN_REPORT
from metalserve.pyinfra_seam.learning import keep_learned
from metalserve.pyinfra_seam.report import Failure
from metalserve.report.history import keep

_installed = False
_UNCHECKED = {"exec", "fact", "debug-inventory", "server.shell"}


def install() -> None:
    """Wrap pyinfra's command line; safe to call twice, without effect outside of it."""
    global _installed
    module = sys.modules.get("pyinfra_cli.cli")
    if _installed or module is None:
        return
    _installed = True
    for name in ("connect_all", "_apply_inventory_limit", "_exit"):
        if not hasattr(module, name):
            raise MetalserveError(
                f"this pyinfra has no pyinfra_cli.cli.{name}", remedy="install the pyinfra of requirements.lock"
            )
    _wrap_connect(module)
    _wrap_limit(module)
    _wrap_exit(module)
    output.install()
    signal.signal(signal.SIGINT, _interrupted)
    signal.signal(signal.SIGTERM, _interrupted)
    atexit.register(_summary)


class _ConnectErrors(BaseStateCallback):
    """Keeps the reason why a host could not be reached, which pyinfra only prints."""

    @staticmethod
    def host_connect_error(state: Any, host: Any, error: Any) -> None:
        if state.current_stage == StateStage.Execute:
            return  # a host that reboots is asked again and again: who asks says when it has been too long
        RUN_REPORT.host(host.name).failure = Failure(
            "connect", "ssh", str(error), remedy="see that the host is up, its address, its key and your key"
        )


def _wrap_connect(module: Any) -> None:
    original = module.connect_all

    def connect_all(state: Any) -> None:
        # Nothing is connected yet, so "active" hosts there are none: these are the ones that --limit leaves.
        hosts = [h for h in state.inventory if state.is_host_in_limit(h)]
        if not _UNCHECKED & set(sys.argv):
            source = next((a for a in sys.argv[1:] if a.endswith(".py")), "inventory")
            pairs = [(h.name, h.data.dict()) for h in hosts]
            try:
                settings = check_hosts(pairs, source)
                if "--dry" not in sys.argv:  # a look needs no secret
                    check_secrets(settings, source)
            except MetalserveError as error:
                _stop(error)
        if "--dry" in sys.argv or not sys.stdin.isatty():
            # pyinfra asks "continue?" when a host fails; with nobody there that question is an EOFError for all hosts.
            state.should_raise_failed_hosts = _never
        state.add_callback_handler(_ConnectErrors())
        try:
            original(state)
        finally:
            for host in hosts:
                RUN_REPORT.host(host.name).connected = host.connected

    module.connect_all = connect_all


def _never(state: Any) -> bool:
    return False


def _wrap_limit(module: Any) -> None:
    original = module._apply_inventory_limit

    def limited(inventory: Any, limit: Any) -> Any:
        if not limit:
            return original(inventory, limit)
        chosen: dict[str, Any] = {}
        for pattern in limit:
            # A host's own name is looked up: pyinfra would hold each of a thousand names against a thousand hosts.
            host = inventory.hosts.get(pattern) if pattern not in inventory.groups else None
            matched = [host] if host is not None else original(inventory, [pattern])
            if not matched:
                _stop(
                    MetalserveError(
                        f"--limit {pattern}: no such host or group",
                        remedy=f"hosts: {', '.join(sorted(h.name for h in inventory))[:300]}",
                    )
                )
            chosen.update({h.name: h for h in matched})
        return list(chosen.values())

    module._apply_inventory_limit = limited


def _stop(error: MetalserveError) -> None:
    for line in error.args[0].splitlines() if "\n" in error.args[0] else [str(error)]:
        click.echo(f"metalserve: {line}", err=True)
    sys.exit(1)


def _wrap_exit(module: Any) -> None:
    original = module._exit

    def end() -> None:
        # Only reached when everything was gone through: not after an exception, not after Ctrl-C.
        RUN_REPORT.complete = True
        for host in getattr(module.state, "failed_hosts", ()):
            report = RUN_REPORT.host(host.name)
            if report.failure is None:  # an operation of pyinfra's own, in a deploy of the user's
                report.failure = Failure("pyinfra", "operation", "an operation failed: pyinfra's lines above say which")
        original()

    module._exit = end


def _interrupted(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an impatient second one would cut off the report
    # Nothing that could switch to another greenlet may be done here, and nothing may be waited for: pyinfra's own way
    # out queues behind the very commands that are to be left. Connections end with the process, and with them the
    # locks; what still runs on a host stops at its next step, and the next run waits for it.
    click.echo("\nmetalserve: interrupted; files are whole, run the same command again to go on", err=True)
    _summary(interrupted=True)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(128 + number)


def _summary(*, interrupted: bool = False) -> None:
    if not RUN_REPORT.hosts:
        return
    if not interrupted and all(host.failure is not None for host in RUN_REPORT.hosts.values()):
        # pyinfra leaves by an exception when no host remains: nothing was left out by that.
        RUN_REPORT.complete = True
    given = os.environ.get("METALSERVE_REPORT")
    path = Path(given or "reports/last-run.json")
    try:
        RUN_REPORT.write(path)
        if RUN_REPORT.verifies and RUN_REPORT.complete and not given:  # whoever names a path keeps the whole fleet's
            keep(RUN_REPORT.as_dict(), path.parent / "verify")
        keep_learned(RUN_REPORT, path.parent / "calibration.json")
    except OSError as error:
        click.echo(f"metalserve: {path}: the report could not be written: {error.strerror}", err=True)
    except MetalserveError as error:
        click.echo(f"metalserve: {error}", err=True)
    if os.environ.get("METALSERVE_QUIET_SUMMARY") != "1":
        RUN_REPORT.print(Console(stderr=True))
