"""Watches hosts: one long SSH session each, whose frames go into a queue; broken ones are tried again."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from metalserve.errors import MetalserveError
from metalserve.pyinfra_seam.sessions import choose, connect, in_words, open_channel
from metalserve.watching.frames import FrameReader, sampling_script
from metalserve.watching.node import NodeWatch

_AGAIN_S = (2, 5, 10, 30)
"""Seconds before a broken connection is tried again; the last one from then on."""
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
    chosen = choose(path, limits)
    import gevent
    from gevent.lock import BoundedSemaphore

    state, settings = chosen.state, chosen.settings
    hosts = [host for host in chosen.hosts if not _router_only(settings[host.name])]
    if not hosts:
        raise MetalserveError("no GPU node is left to watch", where=path, remedy="routers are not watched")
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


def _follow(state: Any, host: Any, node: NodeWatch, script: str, gate: Any) -> None:
    """Read the frames of a host for ever; whatever goes wrong is noted with its node and tried again."""
    failures = 0
    while True:
        before = node.heard_at
        try:
            _stream(state, host, node, script, gate)
            node.lost("the session ended")
        except Exception as error:  # paramiko, sockets, a host key that changed: this host alone is down
            node.lost(in_words(error))
        failures = 0 if node.heard_at != before else failures + 1
        time.sleep(_AGAIN_S[min(failures, len(_AGAIN_S) - 1)])


def _stream(state: Any, host: Any, node: NodeWatch, script: str, gate: Any) -> None:
    with gate:
        node.began = node.began or time.monotonic()
        command = connect(state, host)
    connector = host.connector_cls.__name__
    if connector == "SSHConnector":
        _over_ssh(host.connector.client, command, script, node)
    elif connector == "LocalConnector":
        _here(command, script, node)
    else:
        raise MetalserveError(f"{connector} hosts cannot be watched: only SSH and @local")


def _over_ssh(client: Any, command: str, script: str, node: NodeWatch) -> None:
    channel = open_channel(client, command, script, quiet_s=max(30.0, 5 * node.interval_s), combine=True)
    try:
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
