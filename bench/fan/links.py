"""The hosts of the bench: network namespaces on one bridge, every link shaped to one rate."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator

SOURCE = "10.77.0.1"
PORT = 6881
"""Where the swarm listens on each host."""


def address(number: int) -> str:
    """Return the address of host `number`, from 1; the source is 0."""
    return f"10.77.0.{number + 1}"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@contextlib.contextmanager
def links(hosts: int, mbit: float, source_mbit: float) -> Iterator[str]:
    """Namespaces PREFIX0 (the source) to PREFIXn on a bridge, every link shaped in both directions; yields PREFIX."""
    prefix = f"msf{os.getpid() % 10000}-"
    names = [f"{prefix}b", *(f"{prefix}{i}" for i in range(hosts + 1))]
    try:
        for name in names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", names[0], "link", "add", "br0", "type", "bridge")
        ip("-n", names[0], "link", "set", "br0", "up")
        for i in range(hosts + 1):
            host = names[i + 1]
            ip("-n", names[0], "link", "add", f"p{i}", "type", "veth", "peer", "name", "eth0", "netns", host)
            ip("-n", names[0], "link", "set", f"p{i}", "master", "br0", "up")
            ip("-n", host, "addr", "add", f"{address(i)}/24", "dev", "eth0")
            ip("-n", host, "link", "set", "eth0", "up")
            for name, device in ((names[0], f"p{i}"), (host, "eth0")):
                rate = source_mbit if i == 0 else mbit
                words = f"qdisc add dev {device} root tbf rate {rate}mbit burst 256kb latency 30ms"
                subprocess.run(["tc", "-n", name, *words.split()], check=True)
        yield prefix
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, stderr=subprocess.DEVNULL)
