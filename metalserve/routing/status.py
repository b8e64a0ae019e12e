"""What a running router says of itself: HAProxy's tables in, values out."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ReplicaState:
    """One replica as the router sees it.

    Attributes:
        pool: name of its pool.
        name: HOST:PORT.
        status: "up", "down", "drain", "maint", or what else HAProxy calls it, in small letters.
        requests: requests that run there now (of the current process).
        waiting: requests that wait for it.
        total: requests that it was given since the process began.
        why: what the last readiness check said.
    """

    pool: str
    name: str
    status: str
    requests: int
    waiting: int
    total: int
    why: str

    @property
    def up(self) -> bool:
        """Whether it gets new requests."""
        return self.status == "up"

    def in_words(self) -> str:
        """Return its state, and the reason where it is not up."""
        return self.status if self.up or not self.why else f"{self.status} ({self.why})"


@dataclass(frozen=True)
class RouterState:
    """A running router.

    Attributes:
        generation: digest of the configuration that it runs; "" when it does not answer.
        replicas: its replicas, pool by pool.
    """

    generation: str = ""
    replicas: tuple[ReplicaState, ...] = ()

    def of(self, pool: str) -> tuple[ReplicaState, ...]:
        """Return the replicas of one pool."""
        return tuple(replica for replica in self.replicas if replica.pool == pool)


def parse_state(text: str) -> RouterState:
    """Read what `router-control state` printed; what is missing or malformed is left out."""
    generation, rows = "", []
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if line.startswith("generation "):
            generation = line.removeprefix("generation ").strip()
        elif line.startswith("# pxname,"):
            rows = list(csv.DictReader([line.removeprefix("# "), *filter(None, lines[number + 1 :])]))
            break
    return RouterState(generation, tuple(_replica(row) for row in rows if _is_replica(row)))


def _is_replica(row: dict[str, str | None]) -> bool:
    return (row.get("pxname") or "").startswith("model-") and row.get("svname") not in (None, "BACKEND", "FRONTEND")


def _replica(row: dict[str, str | None]) -> ReplicaState:
    why = " ".join(filter(None, (row.get("check_status"), row.get("check_code"), row.get("last_chk"))))
    return ReplicaState(
        # Where vllm-router chooses, each replica has a backend of its own: POOL::HOST:PORT.
        pool=(row.get("pxname") or "").partition("::")[0],
        name=row.get("svname") or "",
        # "UP 1/3" is up with a failed check, "DOWN 1/2" on its way back.
        status=(row.get("status") or "unknown").split(" ")[0].lower(),
        requests=_number(row.get("scur")),
        waiting=_number(row.get("qcur")),
        total=_number(row.get("stot")),
        why=why[:120],
    )


def _number(text: str | None) -> int:
    return int(text) if text and text.isdigit() else 0


def summary(replicas: Sequence[ReplicaState]) -> str:
    """Return how many of these replicas are up, and what the others are: "2 of 3 up, gpu-01:8001 down (L7STS 500)"."""
    others = [f"{replica.name} {replica.in_words()}" for replica in replicas if not replica.up]
    return ", ".join([f"{len(replicas) - len(others)} of {len(replicas)} up", *others])
