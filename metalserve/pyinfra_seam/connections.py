"""Hosts of an inventory that stay connected while a command asks them one thing after the other, outside of any run.

Every kind of host that pyinfra knows can be asked, and each has a script of its own. `sessions` is the other way: one
SSH session for one script and one answer to the byte, within a time that no hanging host exceeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from metalserve.errors import MetalserveError
from metalserve.pyinfra_seam.inventory import checked_inventory, connecting_state
from metalserve.settings import HostSettings


@dataclass(frozen=True, slots=True)
class Told:
    """What one host answered.

    Attributes:
        host: its name.
        ok: whether the script ended with 0.
        lines: what it printed.
        error: why there is no answer, "" when there is one.
    """

    host: str
    ok: bool = False
    lines: tuple[str, ...] = ()
    error: str = ""


class Asked:
    """Hosts that are connected.

    Attributes:
        settings: name -> settings, of the hosts that are asked.
    """

    def __init__(self, state: Any, hosts: Sequence[Any], settings: Mapping[str, HostSettings]) -> None:
        self._state, self._hosts, self.settings = state, hosts, settings

    def ask(self, script: Callable[[str], str], timeout_s: int, among: Sequence[str] | None = None) -> list[Told]:
        """Run a script on each host, side by side.

        Args:
            script: host's name -> POSIX shell.
            timeout_s: seconds that one host may take.
            among: names of the hosts to ask; None asks all.
        """
        from metalserve.pyinfra_seam.hostrun import HostRun
        from metalserve.pyinfra_seam.report import HostReport, RunReport

        def ask(host: Any) -> Told:
            if not host.connected:
                return Told(host.name, error="no connection")
            try:
                run = HostRun(self._state, host, HostReport(host.name), RunReport())
                ok, lines = run.shell(script(host.name), timeout_s=timeout_s)
            except MetalserveError as error:
                return Told(host.name, error=str(error))
            return Told(host.name, ok, tuple(lines))

        chosen = [host for host in self._hosts if among is None or host.name in among]
        jobs = [self._state.pool.spawn(ask, host) for host in chosen]
        return [job.get() for job in jobs]


@contextmanager
def connected(path: str, wanted: Callable[[str, HostSettings], bool]) -> Iterator[Asked]:
    """Connect to the hosts of an inventory that are wanted; those that cannot be reached answer that they cannot.

    Args:
        path: the inventory file.
        wanted: (name, settings) -> whether to ask it.

    Raises:
        MetalserveError: the inventory cannot be read, or settings are wrong.
    """
    inventory, settings = checked_inventory(path)
    hosts = [host for host in inventory if wanted(host.name, settings[host.name])]
    known = {host.name: settings[host.name] for host in hosts}
    if not hosts:
        yield Asked(None, (), known)
        return
    # Imported here: pyinfra_cli, which read the inventory, has put gevent in place of threads and sockets.
    from pyinfra.api.connect import connect_all, disconnect_all
    from pyinfra.api.exceptions import PyinfraError

    from metalserve.pyinfra_seam import output

    output.install()
    state = connecting_state(inventory, hosts)
    try:
        try:
            connect_all(state)
        except PyinfraError as error:  # "No hosts remaining!": each is told below
            if any(host.connected for host in hosts):
                raise MetalserveError(str(error), where=path) from error
        yield Asked(state, hosts, known)
    finally:
        disconnect_all(state)
