"""Fleets for the tests of routing: peers, settings, and the configurations that are kept as files."""

from __future__ import annotations

from typing import Any

from metalserve.routing.haproxy import Facts, configuration
from metalserve.routing.pools import Peer, Pool, pools
from metalserve.routing.prefix import assign
from metalserve.settings import HostSettings, RouterSettings

REVISION = "0123456789abcdef0123456789abcdef01234567"


def router(**given: Any) -> RouterSettings:
    return RouterSettings.model_validate(given)


def peer(
    name: str,
    seen: tuple[int, ...] | None = (0, 1),
    *,
    model: str | None = "llama",
    address: str = "",
    **engine: Any,
) -> Peer:
    data: dict[str, Any] = {"release": "2026.11-lts", "engine": engine}
    if model is not None:
        served = {"name": "org/model", "served_name": model, "revision": REVISION, "manifest": "m.yaml"}
        data["model"] = served
    settings = HostSettings.from_data(data, host=name, source="test")
    return Peer(name, address or f"192.0.2.{int(name.rpartition('-')[2])}", settings, seen)


def found(settings: RouterSettings, *peers: Peer, own: str = "door-99") -> tuple[Pool, ...]:
    return pools(settings, peers, own=own, before={})


KEYS = [
    {"name": "team-a", "key": {"env": "KEY_A"}},
    {"name": "batch", "key": {"env": "KEY_B"}, "requests_per_minute": 600},
]
FLEETS: dict[str, tuple[RouterSettings, tuple[Peer, ...], bool]] = {
    # name: settings, peers, whether the engines ask for a key
    "one-model": (router(), (peer("gpu-01"), peer("gpu-02", (0,))), False),
    "two-models-tls": (
        router(
            port=443,
            redirect_port=80,
            tls={"path": "/etc/ssl/router.pem"},
            keys=KEYS,
            names={"llama-legal": "llama"},
            metrics_address="192.0.2.99",
        ),
        (peer("gpu-01"), peer("gpu-02", (0, 1, 2, 3), model="org/Qwen3 32B".replace(" ", "-"), port=9000)),
        True,
    ),
    "sessions": (
        router(
            affinity="session",
            keys=KEYS[:1],
            backends=[{"name": "old", "address": "::1", "port": 8000, "model": "llama"}],
        ),
        (peer("gpu-01", host="10.0.0.1"),),
        False,
    ),
    "vllm-router": (router(engine="vllm-router", keys=KEYS[:1]), (peer("gpu-01"), peer("gpu-02", (0,))), True),
}


def text_of(name: str) -> str:
    settings, peers, keyed = FLEETS[name]
    chosen = found(settings, *peers)
    with_key = frozenset(pool.name for pool in chosen) if keyed else frozenset[str]()
    return configuration(settings, chosen, Facts("0123456789abcdef", with_key, assign(settings, chosen)))
