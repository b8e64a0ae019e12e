"""A provisioning network for machines in QEMU: a network namespace with a bridge, a DHCP and TFTP server, nothing else.

Its names carry our process id: what a killed process left behind is known by it, and removed by the next.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from metalserve.errors import MetalserveError
from metalserve.templates.toolroot import ToolRoot
from metalserve.trees.system import ProcessId, run

_PREFIX: Final = "msboot-"
BRIDGE: Final = "br0"
ADDRESS: Final = "10.88.0.1"
TAP: Final = "tap0"
RANGE: Final = "10.88.0.50,10.88.0.90,1h"


@dataclass(frozen=True)
class Network:
    """A network that is up.

    Attributes:
        namespace: name of its network namespace; `ip netns exec` runs programs in it.
    """

    namespace: str

    def command(self, *words: str | Path) -> list[str]:
        """Return the command line that runs a program in the network, and ends it when we end."""
        return ["setpriv", "--pdeathsig", "KILL", "ip", "netns", "exec", self.namespace, *map(str, words)]


@contextmanager
def network() -> Iterator[Network]:
    """Make a provisioning network; it is gone afterwards, with every process in it.

    Raises:
        MetalserveError: this is not root, or the kernel has no namespaces, bridges or taps.
    """
    _sweep()
    name = f"{_PREFIX}{os.getpid()}"
    try:
        run(["ip", "netns", "add", name])
        inside = ["ip", "-n", name]
        for words in (
            ["link", "set", "lo", "up"],
            ["link", "add", BRIDGE, "type", "bridge"],
            ["addr", "add", f"{ADDRESS}/24", "dev", BRIDGE],
            ["link", "set", BRIDGE, "up"],
            ["tuntap", "add", "dev", TAP, "mode", "tap"],
            ["link", "set", TAP, "master", BRIDGE],
            ["link", "set", TAP, "up"],
        ):
            run([*inside, *words])
        yield Network(name)
    finally:
        _remove(name)


@contextmanager
def dnsmasq(tools: ToolRoot, net: Network, boot: Path, directory: Path) -> Iterator[Path]:
    """Run dnsmasq with the boot tree's own configuration; the value is its log.

    Args:
        tools: has dnsmasq.
        net: the network.
        boot: the boot tree; made for the bridge's interface.
        directory: for log and leases.

    Raises:
        MetalserveError: it ended at once.
    """
    log = directory / "dnsmasq.log"
    command = tools.command(
        ["dnsmasq", "--keep-in-foreground", f"--conf-file={boot}/dnsmasq.conf", "--log-facility=-", "--log-dhcp",
         "--user=root", f"--pid-file={directory}/dnsmasq.pid", f"--dhcp-leasefile={directory}/leases"],
        binds=[boot, directory],
    )  # fmt: skip
    with log.open("wb") as stream:
        process = subprocess.Popen(net.command(*command), stdin=subprocess.DEVNULL, stdout=stream, stderr=stream)
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1.0)
            raise MetalserveError(f"dnsmasq ended: {log.read_text().strip()[-300:]}", where=str(boot))
        yield log
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process that we started."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)
    if process.poll() is None:
        process.kill()
        process.wait()


def _remove(name: str) -> None:
    found = run(["ip", "netns", "pids", name], check=False).stdout.split()
    for pid in found:
        each = ProcessId.of(int(pid))
        if each is not None:
            each.end(grace_s=2.0)
    run(["ip", "netns", "delete", name], check=False)


def _sweep() -> None:
    for line in run(["ip", "netns", "list"], check=False).stdout.splitlines():
        name = line.split()[0] if line.split() else ""
        pid = name.removeprefix(_PREFIX)
        if name.startswith(_PREFIX) and pid.isdecimal() and ProcessId.of(int(pid)) is None:
            _remove(name)
            time.sleep(0.1)
