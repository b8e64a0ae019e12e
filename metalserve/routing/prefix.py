"""vllm-router between HAProxy and the replicas of a pool, for prefix affinity: ports and arguments, pure.

HAProxy stays the door (keys, limits, TLS) and stands before each replica too: vllm-router judges an engine by /health
alone, which is 200 on engines that give no token. So it is shown one loopback port a replica, whose /health is what
HAProxy knows of readiness and drain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from metalserve.catalogue.vllm_router import router_problem
from metalserve.errors import MetalserveError
from metalserve.routing.pools import Pool
from metalserve.settings import RouterSettings

LONGEST_S = 86400
"""Seconds after which vllm-router ends a request, streams included; HAProxy ends silent ones long before."""


@dataclass(frozen=True)
class Ports:
    """Loopback ports of one pool: vllm-router's own, its metrics', and one for each replica."""

    router: int
    metrics: int
    workers: tuple[int, ...]


def assign(router: RouterSettings, pools: Sequence[Pool]) -> Mapping[str, Ports]:
    """Return pool name -> its ports; empty where HAProxy chooses the replica itself.

    Raises:
        MetalserveError: they do not fit below port 65536, or one is the router's own.
    """
    if router.engine != "vllm-router":
        return {}
    first, found = router.internal_port, {}
    for pool in pools:
        found[pool.name] = Ports(first, first + 1, tuple(range(first + 2, first + 2 + len(pool.replicas))))
        first += 2 + len(pool.replicas)
    own = (router.port, router.metrics_port, router.redirect_port)
    if first > 65536 or any(port is not None and router.internal_port <= port < first for port in own):
        raise MetalserveError(
            f"the ports from {router.internal_port} to {first - 1} are not free for it",
            where="router.internal_port",
            remedy="choose another",
        )
    return found


def arguments(router: RouterSettings, ports: Ports) -> tuple[str, ...]:
    """Return vllm-router's arguments for one pool; no key is among them: it hands on the header it gets.

    Raises:
        MetalserveError: the known version does not take them.
    """
    words = [
        *("--host", "127.0.0.1", "--port", str(ports.router)),
        *("--worker-urls", *(f"http://127.0.0.1:{port}" for port in ports.workers)),
        *("--policy", router.vllm_router_policy),
        *("--prometheus-host", "127.0.0.1", "--prometheus-port", str(ports.metrics)),
        # Asked on loopback, so often and at once; its defaults (60 s, three times) are for engines far away.
        *("--health-check-interval-secs", "1", "--health-check-timeout-secs", "2"),
        *("--health-failure-threshold", "1", "--health-success-threshold", "1"),
        *("--request-timeout-secs", str(LONGEST_S)),
        *("--max-payload-size", str(router.max_body_kib * 1024)),
        *(("--retry-max-retries", str(router.retries)) if router.retries else ("--disable-retries",)),
    ]
    problem = router_problem(words)
    if problem:
        raise MetalserveError(problem, where="router.engine")
    return tuple(words)
