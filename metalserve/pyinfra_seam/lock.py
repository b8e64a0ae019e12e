"""One run at a time on a host: a lock that cannot be left behind.

The lock is `flock` on /run/metalserve/lock, held by a process on the host that lives exactly as long as our
connection: when the controller dies or the connection breaks, sshd closes its standard input and the lock is gone.
"""

from __future__ import annotations

import getpass
import os
import shlex
import socket
import subprocess
import time
from typing import Any, Protocol

from pyinfra.api.command import StringCommand
from pyinfra.connectors.util import make_unix_command_for_host

from metalserve.errors import MetalserveError

_ANSWER_TIMEOUT_S = 20.0


class HeldLock(Protocol):
    """A lock that we hold; `release` gives it back, also after the connection has gone."""

    def release(self) -> None:
        """Give the lock back."""


class LockHeldError(MetalserveError):
    """Another run is at work on this host."""


class _Channel:
    def __init__(self, channel: Any) -> None:
        self.channel = channel

    def release(self) -> None:
        self.channel.close()


class _Process:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def release(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait(timeout=10)


class _NoLock:
    def release(self) -> None:
        """Nothing is held: the connector has no process on the far side to hold it."""


def _command() -> str:
    who = f"{getpass.getuser()}@{socket.gethostname()} pid {os.getpid()} since {time.strftime('%Y-%m-%d %H:%M:%S %Z')}"
    script = (
        "mkdir -p /run/metalserve && exec 9>>/run/metalserve/lock || exit 1; "
        f"if flock -n 9; then printf '%s\\n' {shlex.quote(who)} >/run/metalserve/holder; echo metalserve-locked; "
        "cat >/dev/null; else echo metalserve-held by $(cat /run/metalserve/holder); fi"
    )
    return script


def acquire(state: Any, host: Any, arguments: dict[str, Any]) -> HeldLock:
    """Take the lock of `host` without waiting.

    Args:
        state: pyinfra's state.
        host: pyinfra's host, connected.
        arguments: connector arguments (sudo and the like).

    Raises:
        LockHeldError: another run holds it; says who, from where and since when.
        MetalserveError: the host did not answer in 20 s.
    """
    wrapping = {
        k: v for k, v in arguments.items() if k not in ("_stdin", "_timeout", "_get_pty", "_success_exit_codes")
    }
    command = make_unix_command_for_host(state, host, StringCommand(_command()), **wrapping).get_raw_value()
    connector = host.connector_cls.__name__
    if connector == "SSHConnector":
        transport = host.connector.client.get_transport()
        transport.set_keepalive(15)  # a silent link is noticed in about a minute, also while the host compiles a module
        channel = transport.open_session(timeout=_ANSWER_TIMEOUT_S)
        channel.settimeout(_ANSWER_TIMEOUT_S)
        channel.exec_command(command)
        answer = _read_line(channel.recv)
        held: HeldLock = _Channel(channel)
    elif connector == "LocalConnector":
        process = subprocess.Popen(["sh", "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout is not None
        answer = process.stdout.readline().decode(errors="replace").strip()
        held = _Process(process)
    else:
        return _NoLock()
    if answer == "metalserve-locked":
        return held
    held.release()
    if answer.startswith("metalserve-held"):
        raise LockHeldError(
            f"another run is at work on this host, held {answer.removeprefix('metalserve-held ')}",
            remedy="wait for it to end, then run again",
        )
    raise MetalserveError(
        f"could not take the host's lock: {answer or 'no answer'}",
        remedy="log in as root or set _sudo; /run/metalserve must be writable and `flock` present",
    )


def _read_line(receive: Any) -> str:
    data = b""
    try:
        while not data.endswith(b"\n"):
            piece = receive(256)
            if not piece:
                break
            data += piece
    except TimeoutError:
        pass
    return data.decode(errors="replace").strip()
