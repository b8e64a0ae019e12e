"""Attempts in a store, for the tests of it."""

from __future__ import annotations

from metalserve.recovery.store import Store
from metalserve.recovery.values import Attempt, Step, Subject

GPU = Subject("gpu", "0000:1b:00.0", "1651")

RESET = Step("reset-gpu", (GPU,), "the driver asks for it", 120.0, "boot-1")


def begun(store: Store, host: str = "gpu-01", actor: str = "a", now: float = 100.0) -> Attempt:
    return store.begin(host, "hgx", actor, ["gpu-fault"], [GPU], "reset-gpu", "reports/e.tar.gz", now)


def other(store: Store) -> Store:
    """Return what another controller has: its own connection to the same file."""
    return Store(store._database.path, alive=lambda actor: None)
