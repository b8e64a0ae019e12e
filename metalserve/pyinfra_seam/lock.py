"""One run at a time on a host: a lock that cannot be left behind.

The lock is `flock` on /run/metalserve/lock, held by a process on the host that lives exactly as long as our
connection: when the controller dies or the connection breaks, sshd closes its standard input and the lock is gone.
A controller that falls silent (power, sleep, another network) closes nothing: so it also has to send a sign of life.
A script that such a run has left on the host holds /run/metalserve/apply until it ends (desired/prelude.sh): whoever
gets the lock waits for that too, so that what is observed next stays true.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shlex
import socket
import subprocess
import time
from collections.abc import Callable
from typing import Any, Protocol

import gevent
from pyinfra import logger
from pyinfra.api.command import StringCommand
from pyinfra.connectors.util import make_unix_command_for_host

from metalserve.errors import MetalserveError

_ANSWER_TIMEOUT_S = 20.0
_LEFTOVER_TIMEOUT_S = 900
"""How long to wait for the script of a run that was cut off: as long as one apt-get of a driver takes (guessed)."""

_BEAT_S = 30
_SILENCE_S = 300
"""After how long without a sign of life the host gives the lock back; ten beats, so that a busy controller keeps it."""

_KEEPALIVE_S = 15
_LINK_TIMEOUT_MS = 90_000
"""How long sent data may stay unacknowledged before the link counts as dead; Linux' own limit is about 15 minutes."""


class HeldLock(Protocol):
    """A lock that we hold; `release` gives it back, also after the connection has gone."""

    def held(self) -> bool:
        """Tell whether it is still ours, as far as this side knows."""

    def release(self) -> None:
        """Give the lock back."""


class LockHeldError(MetalserveError):
    """Another run is at work on this host."""


class _Beating:
    """Sends a sign of life from now on until it is released."""

    def begin(self) -> None:
        self._beating = gevent.spawn(self._beat)

    def _beat(self) -> None:
        with contextlib.suppress(Exception):  # the link is gone, and the lock with it: whoever uses the link says so
            while True:
                gevent.sleep(_BEAT_S)
                self.send(b".")

    def send(self, data: bytes) -> None:
        raise NotImplementedError

    def end(self) -> None:
        beating = getattr(self, "_beating", None)
        if beating is not None:
            beating.kill(block=False)


class _Channel(_Beating):
    def __init__(self, channel: Any) -> None:
        self.channel = channel

    def send(self, data: bytes) -> None:
        self.channel.sendall(data)

    def held(self) -> bool:
        return not (self.channel.closed or self.channel.exit_status_ready())

    def read(self) -> bytes:
        data: bytes = self.channel.recv(1)
        return data

    def release(self) -> None:
        self.end()
        self.channel.close()


class _Process(_Beating):
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def send(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def held(self) -> bool:
        return self.process.poll() is None

    def read(self) -> bytes:
        assert self.process.stdout is not None
        return self.process.stdout.read(1)

    def release(self) -> None:
        self.end()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
        self.process.wait(timeout=10)


class _NoLock:
    def held(self) -> bool:
        return True

    def release(self) -> None:
        """Nothing is held: the connector has no process on the far side to hold it."""


def lock_script(who: str, directory: str = "/run/metalserve", silence_s: float = _SILENCE_S) -> str:
    """Return the POSIX shell that takes the lock, says so in one line and holds it until its standard input ends.

    It also gives it back when no "." came for `silence_s` seconds.

    It prints `metalserve-locked`, `metalserve-held by WHO`, or `metalserve-waiting PROCESS` followed by
    `metalserve-locked` or `metalserve-busy`.
    """
    # One line: `sudo -i` quotes a newline in such a way that the login shell drops it.
    return (
        f"cd / && mkdir -p {directory} && cd {directory} && exec 9>>lock || exit 1; "
        'if ! flock -n 9; then echo "metalserve-held by $(cat holder)"; exit 0; fi; '
        f"printf '%s, process %s here\\n' {shlex.quote(who)} \"$$\" >holder; "
        'if ! flock -n apply true; then echo "metalserve-waiting $(cat applying)"; '
        f"flock -w {_LEFTOVER_TIMEOUT_S} apply true || {{ echo metalserve-busy; exit 0; }}; fi; "
        f'echo metalserve-locked; while [ "$(timeout {silence_s} head -c 1)" = . ]; do :; done'
    )


def acquire(state: Any, host: Any, arguments: dict[str, Any]) -> HeldLock:
    """Take the lock of `host` without waiting for another run, but for a script that a dead run has left.

    Args:
        state: pyinfra's state.
        host: pyinfra's host, connected.
        arguments: connector arguments (sudo and the like).

    Raises:
        LockHeldError: another run holds it; says who, from where and since when.
        MetalserveError: the host did not answer in 20 s, or the leftover script did not end in 15 minutes.
    """
    wrapping = {
        k: v for k, v in arguments.items() if k not in ("_stdin", "_timeout", "_get_pty", "_success_exit_codes")
    }
    who = f"{getpass.getuser()}@{socket.gethostname()} pid {os.getpid()} since {time.strftime('%Y-%m-%d %H:%M:%S %Z')}"
    command = make_unix_command_for_host(state, host, StringCommand(lock_script(who)), **wrapping).get_raw_value()
    connector = host.connector_cls.__name__
    held: _Channel | _Process
    if connector == "SSHConnector":
        transport = host.connector.client.get_transport()
        _notice_a_dead_link(transport)
        channel = transport.open_session(timeout=_ANSWER_TIMEOUT_S)
        channel.exec_command(command)
        held = _Channel(channel)
    elif connector == "LocalConnector":
        held = _Process(subprocess.Popen(["sh", "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE))
    else:
        return _NoLock()
    answer = _read_line(held.read, _ANSWER_TIMEOUT_S)
    if answer.startswith("metalserve-waiting"):
        leftover = answer.removeprefix("metalserve-waiting").strip() or "unknown process"
        host.log(f"waiting for a script that an earlier run left on this host ({leftover})", logger.warning)
        answer = _read_line(held.read, _LEFTOVER_TIMEOUT_S + _ANSWER_TIMEOUT_S)
        if answer == "metalserve-busy":
            held.release()
            raise MetalserveError(
                f"a script that an earlier run left is still at work after {_LEFTOVER_TIMEOUT_S} s ({leftover})",
                remedy="look what it waits for on the host, end it, then run again",
            )
    if answer == "metalserve-locked":
        held.begin()
        return held
    held.release()
    if answer.startswith("metalserve-held"):
        raise LockHeldError(
            f"another run is at work on this host, held {answer.removeprefix('metalserve-held ')}",
            remedy="wait for it to end, then run again; if its controller is dead, end that process on this host",
        )
    raise MetalserveError(
        f"could not take the host's lock: {answer or 'no answer'}",
        remedy="log in as root or set _sudo; /run/metalserve must be writable and `flock` present",
    )


def _notice_a_dead_link(transport: Any) -> None:
    # Without traffic a link that went silent is never noticed, and a driver's module compiles for minutes in silence.
    transport.set_keepalive(_KEEPALIVE_S)
    # A jump host's or a proxy command's "socket" has no such option.
    with contextlib.suppress(AttributeError, OSError):
        transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _LINK_TIMEOUT_MS)


def _read_line(read: Callable[[], bytes], timeout_s: float) -> str:
    # One byte at a time: nothing after the line may be taken, and the line is short.
    data = b""
    with gevent.Timeout(timeout_s, False):
        while not data.endswith(b"\n"):
            piece = read()
            if not piece:
                break
            data += piece
    return data.decode(errors="replace").strip()
