"""Watches hosts: one long SSH session each, whose frames go into a queue; broken ones are tried again.

gevent stands in for threads here (pyinfra_cli, which reads the inventory, puts it there), so everything runs in one.
"""

from __future__ import annotations

import contextlib
import logging
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from metalserve.desired.render import RUN_FROM_STDIN
from metalserve.errors import MetalserveError
from metalserve.inventory import check_hosts
from metalserve.pyinfra_seam.inventory import read_inventory
from metalserve.watching.frames import FrameReader, sampling_script
from metalserve.watching.node import NodeWatch

_AGAIN_S = (2, 5, 10, 30)
"""Seconds before a broken connection is tried again; the last one from then on."""
_KEEPALIVE_S = 15
_AT_ONCE = 20
"""Connections that are made at the same time: hundreds of handshakes at once would all be late (guessed)."""


@dataclass
class Watching:
    """The watches of an inventory's hosts, kept up to date while `sleep` or `wait` runs."""

    nodes: list[NodeWatch]
    _hosts: list[Any]
    _jobs: list[Any]

    def sleep(self, seconds: float) -> None:
        """Let the hosts talk for a while."""
        import gevent

        gevent.sleep(max(0.0, seconds))

    def until(self, done: Callable[[], bool], timeout_s: float) -> bool:
        """Let them talk until `done`; returns whether it came to that within the time."""
        limit = time.monotonic() + timeout_s
        while not done():
            if time.monotonic() > limit:
                return False
            self.sleep(0.1)
        return True

    def close(self) -> None:
        """End all sessions; the scripts on the hosts end when their output is closed."""
        import gevent

        gevent.killall(self._jobs, block=False)
        for host in self._hosts:
            client = getattr(host.connector, "client", None)
            if client is not None:
                with contextlib.suppress(Exception):
                    client.close()


def watch(path: str, limits: Sequence[str] = (), *, interval_s: float = 2.0) -> Watching:
    """Begin to watch the hosts of an inventory that have or may have GPUs; routers alone are left out.

    Args:
        path: the inventory file.
        limits: names of hosts or groups; none means all.
        interval_s: seconds between samples.

    Raises:
        MetalserveError: the inventory cannot be read, or has no such host.
    """
    inventory = read_inventory(path)
    settings = check_hosts([(host.name, host.data.dict()) for host in inventory], path)
    names = _limited(inventory, limits, path)
    # Imported here: pyinfra_cli has put gevent in place of sockets by now.
    import gevent
    from gevent.lock import BoundedSemaphore
    from pyinfra.api.config import Config
    from pyinfra.api.state import State, StateStage

    logging.getLogger("pyinfra").setLevel(logging.CRITICAL)  # what a connection says is shown in its host's line
    logging.getLogger("paramiko").setLevel(logging.CRITICAL)
    config = Config()  # type: ignore[no-untyped-call]  # pyinfra leaves it untyped
    hosts = [host for host in inventory if host.name in names and not _router_only(settings[host.name])]
    if not hosts:
        raise MetalserveError("no GPU node is left to watch", where=path, remedy="routers are not watched")
    state = State(inventory, config, initial_limit=hosts)
    state.set_stage(StateStage.Connect)
    nodes, jobs, gate = [], [], BoundedSemaphore(_AT_ONCE)
    for host in hosts:
        own = settings[host.name]
        script = sampling_script(address=own.engine.host, port=own.engine.port, interval_s=interval_s)
        node = NodeWatch(host.name, interval_s, own.simulated)
        nodes.append(node)
        jobs.append(gevent.spawn(_follow, state, host, node, script, gate))
    return Watching(nodes, hosts, jobs)


def _router_only(settings: Any) -> bool:
    return settings.router is not None and settings.model is None


def _limited(inventory: Any, limits: Sequence[str], path: str) -> set[str]:
    every = {host.name for host in inventory}
    chosen: set[str] = set()
    for limit in limits:
        found = {limit} & every or {host.name for host in inventory.groups.get(limit, [])}
        if not found:
            raise MetalserveError(f"no host or group {limit}", where=path)
        chosen |= found
    return chosen or every


def _follow(state: Any, host: Any, node: NodeWatch, script: str, gate: Any) -> None:
    """Read the frames of a host for ever; whatever goes wrong is noted with its node and tried again."""
    failures = 0
    while True:
        before = node.heard_at
        try:
            _stream(state, host, node, script, gate)
            node.lost("the session ended")
        except Exception as error:  # paramiko, sockets, a host key that changed: this host alone is down
            node.lost(_in_words(error))
        failures = 0 if node.heard_at != before else failures + 1
        time.sleep(_AGAIN_S[min(failures, len(_AGAIN_S) - 1)])


def _in_words(error: Exception) -> str:
    said = " ".join(str(error).split()) or ("no word in time" if isinstance(error, TimeoutError) else repr(error))
    return said if isinstance(error, MetalserveError) else f"no connection: {said[:160]}"


def _stream(state: Any, host: Any, node: NodeWatch, script: str, gate: Any) -> None:
    from pyinfra.api.arguments import CONNECTOR_ARGUMENT_KEYS, pop_global_arguments
    from pyinfra.api.command import StringCommand
    from pyinfra.connectors.util import make_unix_command_for_host

    if host.connected:
        with contextlib.suppress(Exception):
            host.disconnect()
        host.connected = False
    with gate:
        node.began = node.began or time.monotonic()
        host.connect(show_errors=False, raise_exceptions=True)
    found, _ = pop_global_arguments(state, host, {})
    wrapping = {
        key: value
        for key, value in found.items()
        if key in CONNECTOR_ARGUMENT_KEYS and key not in ("_stdin", "_timeout", "_get_pty", "_success_exit_codes")
    }
    command = make_unix_command_for_host(state, host, StringCommand(RUN_FROM_STDIN), **wrapping).get_raw_value()
    connector = host.connector_cls.__name__
    if connector == "SSHConnector":
        _over_ssh(host.connector.client, command, script, node)
    elif connector == "LocalConnector":
        _here(command, script, node)
    else:
        raise MetalserveError(f"{connector} hosts cannot be watched: only SSH and @local")


def _over_ssh(client: Any, command: str, script: str, node: NodeWatch) -> None:
    transport = client.get_transport()
    transport.set_keepalive(_KEEPALIVE_S)
    channel = transport.open_session(timeout=20)
    try:
        channel.set_combine_stderr(True)
        channel.exec_command(command)
        channel.sendall(script.encode())
        channel.shutdown_write()
        # A host that says nothing for this long is gone, whatever TCP still believes.
        channel.settimeout(max(30.0, 5 * node.interval_s))
        _read(lambda: channel.recv(65536), node)
    finally:
        channel.close()
        client.close()


def _here(command: str, script: str, node: NodeWatch) -> None:
    process = subprocess.Popen(
        ["sh", "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(script.encode())
        process.stdin.close()
        _read(process.stdout.readline, node)  # gevent has made the pipe one that never blocks: no os.read
    finally:
        process.stdout.close()
        process.terminate()


def _read(receive: Callable[[], bytes], node: NodeWatch) -> None:
    reader, rest = FrameReader(), b""
    heard = False
    while True:
        data = receive()
        if not data:
            break
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            frame = reader.feed(line.decode("utf-8", errors="replace"))
            if frame is not None:
                node.take(frame, time.monotonic())
                heard = True
    if not heard:
        said = reader.said[-1] if reader.said else "it said nothing"
        raise MetalserveError(f"cannot be watched: {said}")
