"""The lab's BMCs as one process: started with the lab, in the machine's own network, known by pid and start time.

`python -m metalserve.lab.bmc.service ROOT NUMBER` serves every host that `ROOT/bmc/hosts.json` names.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metalserve.errors import MetalserveError
from metalserve.lab import recorded
from metalserve.lab.bmc.machine import serial_of
from metalserve.lab.fleet import RunningHost
from metalserve.lab.layout import FIRST_BMC_PORT, Layout
from metalserve.lab.system import ProcessId, read_json, write_json, write_text

USER = "admin"
WAIT_S = 20.0


def process(layout: Layout) -> ProcessId | None:
    """Return the running process."""
    return recorded.running(layout.root / "bmc.json")


def start(layout: Layout, hosts: Sequence[RunningHost]) -> None:
    """Start it for these hosts, unless it runs; returns at once."""
    if process(layout) is not None:
        return
    for host in hosts:
        layout.bmc(host.name).mkdir(parents=True, exist_ok=True)
    layout.bmcs.chmod(0o755)
    password = _password(layout)
    if not password.exists():
        write_text(password, f"{secrets.token_urlsafe(15)}\n", mode=0o600)
    if os.environ.get("SUDO_UID", "").isdigit():
        # who called sudo runs the inventory as themselves
        os.chown(password, int(os.environ["SUDO_UID"]), int(os.environ.get("SUDO_GID", "-1")))
    write_json(layout.bmcs / "hosts.json", [host.model_dump() for host in hosts])
    words = [sys.executable, "-m", "metalserve.lab.bmc.service", str(layout.root), str(layout.lab_id)]
    recorded.begin(layout.root / "bmc.json", words, log=layout.root / "bmc.log")


def wait(layout: Layout, hosts: Sequence[RunningHost]) -> None:
    """Wait until every BMC takes connections.

    Raises:
        MetalserveError: one does not within 20 s.
    """
    deadline = time.monotonic() + WAIT_S
    for host in hosts:
        while True:
            try:
                socket.create_connection((layout.controller_address, FIRST_BMC_PORT + host.index), timeout=2).close()
                break
            except OSError as error:
                if time.monotonic() > deadline or process(layout) is None:
                    raise MetalserveError(
                        f"the BMC of {host.name} does not answer: {error}", where=str(layout.root / "bmc.log")
                    ) from error
                time.sleep(0.05)


def stop(layout: Layout) -> None:
    """End it. A host that it is just booting is left as it is."""
    recorded.end(layout.root / "bmc.json")


def forget(layout: Layout, name: str) -> None:
    """Put a BMC back to what it was when the host was racked; its certificate and password stay."""
    for file in ("state.json", "faults.json"):
        (layout.bmc(name) / file).unlink(missing_ok=True)


def settings(layout: Layout, host: RunningHost) -> dict[str, Any]:
    """Return the host's settings `bmc` for the inventory; none when its BMC has never run."""
    from metalserve.lab.bmc import certificate

    with contextlib.suppress(OSError, ValueError):
        return {
            "bmc": {
                "address": layout.bmc_address(host.index),
                "user": USER,
                # a file in the checkout would be refused as a secret, and the lab's directory lies there by default
                "password": {"command": ["cat", str(_password(layout))]},
                "tls": {"pin": certificate.fingerprint(layout.bmc(host.name) / "server.pem")},
                "serial": serial_of(host.name),
            }
        }
    return {}


def _password(layout: Layout) -> Path:
    return layout.bmcs / "password"


def serve(layout: Layout) -> None:
    """Serve all BMCs until ended."""
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    from metalserve.lab.bmc.board import Board
    from metalserve.lab.bmc.machine import LabMachine
    from metalserve.lab.bmc.server import BmcServer

    def boot_server() -> str | None:
        try:
            return layout.boot_server.read_text().strip().rstrip("/") or None
        except OSError:
            return None

    hosts = [RunningHost.model_validate(each) for each in read_json(layout.bmcs / "hosts.json") or []]
    password = _password(layout).read_text().strip()
    for host in hosts:
        board = Board(layout.bmc(host.name), LabMachine(layout, host, hosts), boot_server)
        port = FIRST_BMC_PORT + host.index
        BmcServer(board, layout.controller_address, port, USER, password).start()
    ended.wait()


if __name__ == "__main__":
    serve(Layout(Path(sys.argv[1]), int(sys.argv[2])))
