"""Delay on the link between the machine and the lab's hosts, as a fleet in another building would have it.

The kernel's netem does it where the kernel has netem. Where not, the controller's port is taken off the bridge and a
process of the lab's carries the frames between the two, each as late as it should be
(`python -m metalserve.lab.delay MILLISECONDS`, run inside the lab's network namespace).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import heapq
import select
import socket
import struct
import sys
import time
from typing import Literal

from metalserve.errors import MetalserveError
from metalserve.lab import network
from metalserve.lab.hosts import spawn
from metalserve.lab.layout import Layout
from metalserve.lab.network import BRIDGE, CONTROLLER_PORT
from metalserve.lab.system import ProcessId, read_json, run, write_json

NEAR, FAR = "delay0", "delay1"
Method = Literal["none", "netem", "forwarder"]

_ALL_PROTOCOLS = 3
_OUTGOING = 4
_SIOCETHTOOL = 0x8946
# ethtool commands that set: transmit checksums, scatter-gather, TSO, GSO (linux/ethtool.h)
_OFFLOADS = (0x17, 0x19, 0x1F, 0x24)


def set_delay(layout: Layout, milliseconds: float) -> Method:
    """Add `milliseconds` to each round trip between the machine and the hosts; 0 takes the delay away.

    Returns:
        How it is done.

    Raises:
        MetalserveError: the lab is not up.
    """
    _clear(layout)
    if milliseconds == 0:
        return "none"
    inside = ["ip", "-n", layout.namespace]
    netem = ["tc", "-n", layout.namespace, "qdisc", "replace", "dev", CONTROLLER_PORT, "root", "netem"]
    # the queue must hold what arrives during the delay, or netem drops it
    if run([*netem, "delay", f"{milliseconds}ms", "limit", "100000"], check=False).returncode == 0:
        return "netem"
    run([*inside, "link", "add", NEAR, "type", "veth", "peer", "name", FAR])
    run([*inside, "link", "set", CONTROLLER_PORT, "nomaster"])
    run([*inside, "link", "set", FAR, "master", BRIDGE, "up"])
    run([*inside, "link", "set", NEAR, "up"])
    offloads_off(layout.controller_link)
    pid = spawn(
        ["nsenter", f"--net={layout.namespace_path}", sys.executable, "-m", "metalserve.lab.delay", str(milliseconds)],
        log=layout.root / "delay.log",
    )
    process = ProcessId.of(pid)
    if process is None:
        raise MetalserveError("the delaying process ended", where=str(layout.root / "delay.log"))
    write_json(layout.root / "delay.json", vars(process))
    return "forwarder"


def _clear(layout: Layout) -> None:
    stop(layout)
    run(["tc", "-n", layout.namespace, "qdisc", "delete", "dev", CONTROLLER_PORT, "root"], check=False)
    if run(["ip", "-n", layout.namespace, "link", "delete", NEAR], check=False).returncode == 0:
        # a new pair, with its offloads as they were
        run(["ip", "link", "delete", layout.controller_link])
    network.up(layout)


def stop(layout: Layout) -> None:
    """End the delaying process, if there is one."""
    recorded = read_json(layout.root / "delay.json")
    if recorded:
        ProcessId(**recorded).end(grace_s=1.0)
    (layout.root / "delay.json").unlink(missing_ok=True)


def offloads_off(interface: str) -> None:
    """Have the kernel finish checksums and segments before frames leave by this interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for command in _OFFLOADS:
            value = bytearray(struct.pack("II", command, 0))
            address = (ctypes.c_char * len(value)).from_buffer(value)
            request = struct.pack("16sP16x", interface.encode(), ctypes.addressof(address))
            with contextlib.suppress(OSError):  # an offload that the device does not have
                fcntl.ioctl(control, _SIOCETHTOOL, request)


def forward(first: socket.socket, second: socket.socket, seconds: float) -> None:
    """Carry frames between two packet sockets, each `seconds` late; does not return."""
    other = {first: second, second: first}
    waiting: list[tuple[float, int, bytes, socket.socket]] = []
    number = 0
    while True:
        until = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        ready, _, _ = select.select(list(other), [], [], until)
        for source in ready:
            frame, address = source.recvfrom(70000)
            if address[2] == _OUTGOING:
                continue
            number += 1
            heapq.heappush(waiting, (time.monotonic() + seconds, number, frame, other[source]))
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, _, frame, target = heapq.heappop(waiting)
            with contextlib.suppress(OSError):  # a full queue loses a frame, as a wire does
                target.send(frame)


def main(milliseconds: float) -> None:
    """Delay until ended; half of the round trip each way."""
    offloads_off(FAR)
    sockets = []
    for interface in (CONTROLLER_PORT, NEAR):
        packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS))
        packets.bind((interface, 0))
        packets.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024 * 1024)
        sockets.append(packets)
    forward(sockets[0], sockets[1], milliseconds / 2000)


if __name__ == "__main__":
    main(float(sys.argv[1]))
