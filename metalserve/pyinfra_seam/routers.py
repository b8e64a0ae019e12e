"""Asks the running routers of an inventory: for `metalserve router`, and for whoever drains an engine to stop it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from metalserve.errors import MetalserveError
from metalserve.inventory import check_hosts
from metalserve.pyinfra_seam.inventory import read_inventory
from metalserve.routing.control import Answer, drain_script, enable_script, read_answer, status_script

_MARGIN_S = 60
"""Seconds that a session may take beyond the wait that was asked for."""


def drain(inventory: str, targets: Sequence[str], *, wait_s: int = 300, force: bool = False) -> list[Answer]:
    """Take replicas out of every router of an inventory, and wait until no request runs on them.

    Args:
        inventory: the inventory file.
        targets: HOST or HOST:PORT each.
        wait_s: seconds to wait at most.
        force: also when nothing else serves their model.

    Returns:
        What each router answered; none when the inventory has no router.

    Raises:
        MetalserveError: the inventory cannot be read, or a target is not written as one.
    """
    return _ask(inventory, drain_script(targets, wait_s=wait_s, force=force), wait_s + _MARGIN_S)


def enable(inventory: str, targets: Sequence[str]) -> list[Answer]:
    """Give replicas requests again, on every router of an inventory; see `drain`."""
    return _ask(inventory, enable_script(targets), _MARGIN_S)


def status(inventory: str) -> list[Answer]:
    """Return the state of every router of an inventory; see `drain`."""
    return _ask(inventory, status_script(), _MARGIN_S)


def _ask(path: str, script: str, timeout_s: int) -> list[Answer]:
    inventory = read_inventory(path)
    settings = check_hosts([(host.name, host.data.dict()) for host in inventory], path)
    routers = [host for host in inventory if settings[host.name].router is not None]
    return _run(inventory, routers, script, timeout_s) if routers else []


def _run(inventory: Any, hosts: list[Any], script: str, timeout_s: int) -> list[Answer]:
    # Imported here: pyinfra_cli, which read the inventory, has put gevent in place of threads and sockets.
    from pyinfra.api.config import Config
    from pyinfra.api.connect import connect_all, disconnect_all
    from pyinfra.api.exceptions import PyinfraError
    from pyinfra.api.state import State, StateStage

    from metalserve.pyinfra_seam import output
    from metalserve.pyinfra_seam.hostrun import HostRun
    from metalserve.pyinfra_seam.report import HostReport, RunReport

    output.install()
    config = Config()  # type: ignore[no-untyped-call]  # pyinfra leaves it untyped
    state = State(inventory, config, initial_limit=hosts)
    state.set_stage(StateStage.Connect)

    def ask(host: Any) -> Answer:
        if not host.connected:
            return Answer(host.name, "failed", "no connection")
        try:
            run = HostRun(state, host, HostReport(host.name), RunReport())
            return read_answer(host.name, run.shell(script, timeout_s=timeout_s)[1])
        except MetalserveError as error:
            return Answer(host.name, "failed", str(error))

    try:
        try:
            connect_all(state)
        except PyinfraError as error:  # "No hosts remaining!": each is told below
            if any(host.connected for host in hosts):
                raise MetalserveError(str(error), where="router") from error
        # Side by side: a replica drained on one router still gets requests from the other.
        jobs = [state.pool.spawn(ask, host) for host in hosts]
        return [job.get() for job in jobs]
    finally:
        disconnect_all(state)
