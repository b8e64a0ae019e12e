"""One SSH session a host for one script, outside a deploy: read-only commands that watch or ask.

A host that hangs costs its own time alone, and what it says comes to the byte. Who asks the same hosts one thing after
the other keeps them connected instead: `connections`. gevent stands in for threads here (pyinfra_cli, which reads the
inventory, puts it there), so everything runs in one.
"""

from __future__ import annotations

import contextlib
import logging
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from metalserve.desired.render import RUN_FROM_STDIN
from metalserve.errors import MetalserveError
from metalserve.pyinfra_seam.inventory import checked_inventory, connecting_state
from metalserve.settings import HostSettings

_KEEPALIVE_S = 15
_CHUNK = 64 << 10


@dataclass(frozen=True)
class Chosen:
    """The hosts of an inventory that a command is about.

    Attributes:
        state: pyinfra's.
        hosts: pyinfra's hosts.
        settings: name -> settings, of all hosts of the inventory.
    """

    state: Any
    hosts: list[Any]
    settings: dict[str, HostSettings]


@dataclass(frozen=True)
class Answer:
    """What a host answered to one script.

    Attributes:
        data: standard output, whole only when `error` is empty.
        status: exit status, -1 when there is none.
        error: why there is no answer, in words; empty when there is one.
        seconds: from the beginning of the connection to the end of the answer.
    """

    data: bytes
    status: int
    error: str
    seconds: float


def choose(path: str, limits: Sequence[str] = ()) -> Chosen:
    """Read an inventory and choose hosts of it.

    Args:
        path: the inventory file.
        limits: names of hosts or groups; none means all.

    Raises:
        MetalserveError: the inventory cannot be read, or has no such host.
    """
    inventory, settings = checked_inventory(path)
    names = _limited(inventory, limits, path)
    logging.getLogger("pyinfra").setLevel(logging.CRITICAL)  # what a connection says is shown with its host
    logging.getLogger("paramiko").setLevel(logging.CRITICAL)
    hosts = [host for host in inventory if host.name in names]
    return Chosen(connecting_state(inventory, hosts), hosts, settings)


def _limited(inventory: Any, limits: Sequence[str], path: str) -> set[str]:
    every = {host.name for host in inventory}
    chosen: set[str] = set()
    for limit in limits:
        found = {limit} & every or {host.name for host in inventory.groups.get(limit, [])}
        if not found:
            raise MetalserveError(f"no host or group {limit}", where=path)
        chosen |= found
    return chosen or every


def connect(state: Any, host: Any) -> str:
    """Connect to a host, anew when it was connected; return the command that runs a script from standard input.

    Raises:
        Exception: whatever the connection says; `in_words` spells it.
    """
    from pyinfra.api.arguments import CONNECTOR_ARGUMENT_KEYS, pop_global_arguments
    from pyinfra.api.command import StringCommand
    from pyinfra.connectors.util import make_unix_command_for_host

    if host.connected:
        with contextlib.suppress(Exception):
            host.disconnect()
        host.connected = False
    host.connect(show_errors=False, raise_exceptions=True)
    found, _ = pop_global_arguments(state, host, {})
    wrapping = {
        key: value
        for key, value in found.items()
        if key in CONNECTOR_ARGUMENT_KEYS and key not in ("_stdin", "_timeout", "_get_pty", "_success_exit_codes")
    }
    command: str = make_unix_command_for_host(state, host, StringCommand(RUN_FROM_STDIN), **wrapping).get_raw_value()
    return command


def open_channel(client: Any, command: str, script: str, *, quiet_s: float, combine: bool) -> Any:
    """Send a script over an SSH connection and return the channel that its output comes by.

    Args:
        client: paramiko's.
        command: what `connect` returned.
        script: goes to standard input.
        quiet_s: seconds without a byte after which the host counts as gone, whatever TCP still believes.
        combine: standard error comes with standard output.
    """
    transport = client.get_transport()
    transport.set_keepalive(_KEEPALIVE_S)
    channel = transport.open_session(timeout=20)
    channel.set_combine_stderr(combine)
    channel.exec_command(command)
    channel.sendall(script.encode())
    channel.shutdown_write()
    channel.settimeout(quiet_s)
    return channel


def in_words(error: Exception) -> str:
    """Spell what a connection said in one line."""
    said = " ".join(str(error).split()) or ("no word in time" if isinstance(error, TimeoutError) else repr(error))
    return said if isinstance(error, MetalserveError) else f"no connection: {said[:160]}"


def ask(chosen: Chosen, script: str, *, timeout_s: float, at_once: int = 50) -> dict[str, Answer]:
    """Run a script on all chosen hosts, one session each, and return what each answered.

    Args:
        chosen: from `choose`.
        script: POSIX sh; goes to standard input, so that it is in no argv.
        timeout_s: seconds a host has, the connection included; a host that hangs costs nobody else anything.
        at_once: hosts asked at a time.
    """
    from gevent.pool import Pool

    answers: dict[str, Answer] = {}

    def one(host: Any) -> None:
        answers[host.name] = _asked(chosen.state, host, script, timeout_s)

    pool = Pool(at_once)
    for host in chosen.hosts:
        pool.spawn(one, host)
    pool.join()
    return answers


def _asked(state: Any, host: Any, script: str, timeout_s: float) -> Answer:
    import gevent

    began = time.monotonic()
    try:
        with gevent.Timeout(timeout_s):
            command = connect(state, host)
            if host.connector_cls.__name__ == "LocalConnector":
                done = subprocess.run(["sh", "-c", command], input=script.encode(), capture_output=True, check=False)
                return Answer(done.stdout, done.returncode, "", time.monotonic() - began)
            data, status = _over_ssh(host.connector.client, command, script, timeout_s)
            return Answer(data, status, "", time.monotonic() - began)
    except gevent.Timeout:
        return Answer(b"", -1, f"no answer within {timeout_s:.0f} s", time.monotonic() - began)
    except Exception as error:  # paramiko, sockets, a host key that changed: this host alone is down
        return Answer(b"", -1, in_words(error), time.monotonic() - began)


def _over_ssh(client: Any, command: str, script: str, timeout_s: float) -> tuple[bytes, int]:
    channel = None
    try:
        channel = open_channel(client, command, script, quiet_s=timeout_s, combine=False)
        parts = []
        while data := channel.recv(_CHUNK):
            parts.append(data)
        return b"".join(parts), channel.recv_exit_status()
    finally:
        if channel is not None:
            channel.close()
        client.close()
