"""Asks the running routers of an inventory: for `metalserve router`, and for whoever drains an engine to stop it."""

from __future__ import annotations

from collections.abc import Sequence

from metalserve.pyinfra_seam.connections import connected
from metalserve.routing.control import Answer, drain_script, enable_script, read_answer, status_script

_MARGIN_S = 60
"""Seconds that a session may take beyond the wait that was asked for."""


def drain(inventory: str, targets: Sequence[str], *, wait_s: int = 300, force: bool = False) -> list[Answer]:
    """Take replicas out of every router of an inventory, and wait until no request runs on them.

    Args:
        inventory: the inventory file.
        targets: HOST or HOST:PORT each.
        wait_s: seconds to wait at most.
        force: also when nothing else serves their model.

    Returns:
        What each router answered; none when the inventory has no router.

    Raises:
        MetalserveError: the inventory cannot be read, or a target is not written as one.
    """
    return _ask(inventory, drain_script(targets, wait_s=wait_s, force=force), wait_s + _MARGIN_S)


def enable(inventory: str, targets: Sequence[str]) -> list[Answer]:
    """Give replicas requests again, on every router of an inventory; see `drain`."""
    return _ask(inventory, enable_script(targets), _MARGIN_S)


def status(inventory: str) -> list[Answer]:
    """Return the state of every router of an inventory; see `drain`."""
    return _ask(inventory, status_script(), _MARGIN_S)


def _ask(path: str, script: str, timeout_s: int) -> list[Answer]:
    # Side by side: a replica drained on one router still gets requests from the other.
    with connected(path, lambda name, settings: settings.router is not None) as routers:
        told = routers.ask(lambda name: script, timeout_s)
    return [Answer(t.host, "failed", t.error) if t.error else read_answer(t.host, list(t.lines)) for t in told]
