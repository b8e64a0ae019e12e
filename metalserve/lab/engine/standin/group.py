"""Nodes of one engine that meet at the head, SIMULATED: none of them comes up before all of them are there.

As with the real engine nobody notices that one of them has gone: the head answers /health, and no token comes.
"""

from __future__ import annotations

import socket
import threading
import time

LOST = threading.Event()
"""Set on the head once a node that had joined is gone: from then on no step ends."""

KEPT: list[socket.socket] = []
"""Connections that last as long as the process."""


class GroupError(Exception):
    """The nodes did not meet; `str()` is the line the engine would end with."""


def join(address: str, port: int, rank: int, nodes: int, seconds: float) -> None:
    """Meet the other nodes within so many seconds; raises GroupError."""
    if rank == 0:
        _head(address, port, nodes, seconds)
    else:
        _member(address, port, rank, seconds)


def _head(address: str, port: int, nodes: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    try:
        listener = socket.create_server((address, port))
    except OSError as error:
        raise GroupError(f"torch.distributed.DistNetworkError: {error.strerror}: ({address!r}, {port})") from None
    joined: dict[int, socket.socket] = {}
    with listener:
        while len(joined) < nodes - 1:
            listener.settimeout(max(0.1, deadline - time.monotonic()))
            try:
                peer, _ = listener.accept()
                peer.settimeout(10)
                rank = int(peer.recv(16).decode() or "0")
            except TimeoutError:
                if time.monotonic() < deadline:
                    continue
                missing = sorted(set(range(1, nodes)) - set(joined))
                raise GroupError(
                    f"torch.distributed.DistStoreError: Timed out after {seconds:.0f} seconds waiting for clients. "
                    f"{len(joined) + 1}/{nodes} clients joined (ranks {missing} did not)."
                ) from None
            except (OSError, ValueError):
                continue
            joined[rank] = peer
    for peer in joined.values():
        peer.sendall(b"go")
        peer.settimeout(None)
        KEPT.append(peer)
        threading.Thread(target=_watch, args=(peer,), daemon=True).start()


def _watch(peer: socket.socket) -> None:
    try:
        while peer.recv(1):
            pass
    except OSError:
        pass
    LOST.set()


def _member(address: str, port: int, rank: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            peer = socket.create_connection((address, port), timeout=5)
            peer.settimeout(max(1.0, deadline - time.monotonic()))
            peer.sendall(str(rank).encode())
            if peer.recv(2) == b"go":
                peer.settimeout(None)
                KEPT.append(peer)
                return
        except OSError:
            pass
        if time.monotonic() > deadline:
            raise GroupError(
                f"torch.distributed.DistNetworkError: The client socket has timed out after {seconds * 1000:.0f}ms "
                f"while trying to connect to ({address}, {port})."
            )
        time.sleep(0.3)
