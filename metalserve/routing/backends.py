"""The part of HAProxy's configuration that is of one model: its replicas, how they are checked, and who chooses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from metalserve.routing.paths import ENGINE_KEYS
from metalserve.routing.pools import Pool
from metalserve.routing.prefix import Ports
from metalserve.routing.words import quoted, refuse
from metalserve.settings import RouterSettings

AFFINITY = "X-Metalserve-Affinity"
"""Header by whose value a replica is chosen; set by the router, whatever a client sends."""

CHECK_FALL = 3
"""Failed checks that take a replica out: a saturated engine can miss one (vLLM issue 36960 and its neighbours)."""


@dataclass(frozen=True)
class Facts:
    """What the configuration depends on beside settings and pools.

    Attributes:
        generation: digest of everything that is loaded; HAProxy repeats it when asked what it runs.
        with_key: names of the pools whose engines ask for a key.
        upstream: pool name -> ports of its vllm-router, when that chooses the replica; see `prefix.assign`.
    """

    generation: str
    with_key: frozenset[str] = frozenset()
    upstream: Mapping[str, Ports] = field(default_factory=dict)


def entry(pool: Pool, facts: Facts) -> str:
    """Return the backend that requests for a pool go to first."""
    return f"edge-{pool.name}" if pool.name in facts.upstream else pool.name


def backends(pool: Pool, facts: Facts) -> list[str]:
    """Return the backends that hold the replicas of a pool: one, or one each where vllm-router chooses."""
    if pool.name not in facts.upstream:
        return [pool.name]
    return [f"{pool.name}::{replica.name}" for replica in pool.replicas]


def pool_blocks(router: RouterSettings, pool: Pool, facts: Facts) -> list[list[str]]:
    """Return the blocks of a pool: its backend, or those around vllm-router where that chooses the replica."""
    key = f'"Bearer %[str({pool.name}),map_str({ENGINE_KEYS})]"' if pool.name in facts.with_key else ""
    ports = facts.upstream.get(pool.name)
    full = f"if {{ queue({entry(pool, facts)}) ge {router.queue} }}"
    first = [
        f"retries {router.retries}",
        "option redispatch 1",
        # 500: what vLLM answers while it stops (measured). A completion may be computed twice, never answered twice.
        # vllm-router tries again by itself, and a try of ours on top would be as many again.
        "retry-on conn-failure" + (" empty-response response-timeout 500 502 503 504" if ports is None else ""),
        refuse(429, "too many requests wait for this model", full, retry_after="5"),
    ]
    if router.keys:
        first.append(f"http-request set-header Authorization {key}" if key else "http-request del-header Authorization")
    servers = [f"server {replica.name} {replica.target}" for replica in pool.replicas]
    if ports is None:
        how = ["balance leastconn"]
        if router.affinity != "none":
            # Consistent: a replica that goes moves only its own. Bounded: none gets half as much again as the average.
            how = [f"balance hdr({AFFINITY})", "hash-type consistent", "hash-balance-factor 150"]
        return [[f"backend {pool.name}", *how, *first, *_readiness(router, pool, key), *servers]]
    return [
        [
            f"backend edge-{pool.name}",
            *first,
            "option httpchk",
            # Its /health is 503 as soon as one engine is out (seen); ready is when one is in.
            "http-check send meth GET uri /readiness ver HTTP/1.1 hdr Host metalserve-router",
            "http-check expect status 200",
            # A server's port is taken from the saved state of its name (seen with 2.6), so the name has the port in it.
            f"server vllm-router:{ports.router} 127.0.0.1:{ports.router} check inter 1s fall 2 rise 1 "
            f"maxconn {router.requests_per_replica * len(pool.replicas)}",
        ],
        *(
            block
            for replica, port, server in zip(pool.replicas, ports.workers, servers, strict=True)
            for block in (
                # What vllm-router takes for an engine: its /health tells readiness and drain, as the edge knows them.
                [
                    f"frontend worker-{pool.name}::{replica.name}",
                    f"bind 127.0.0.1:{port}",
                    "no log",
                    "monitor-uri /health",
                    f"acl up nbsrv({pool.name}::{replica.name}) gt 0",
                    "monitor fail unless up",
                    f"default_backend {pool.name}::{replica.name}",
                ],
                [f"backend {pool.name}::{replica.name}", "retries 0", *_readiness(router, pool, key), server],
            )
        ),
    ]


def _readiness(router: RouterSettings, pool: Pool, key: str) -> list[str]:
    check = json.dumps({"model": pool.model, "prompt": "1", "max_tokens": 1, "temperature": 0})
    headers = "hdr Host metalserve-router hdr Content-Type application/json"
    return [
        # Ready is a token under the served name: /health is 200 on engines that give none, or that are stopping.
        "option httpchk",
        "http-check connect",
        f"http-check send meth POST uri /v1/completions ver HTTP/1.1 {headers}"
        + (f" hdr Authorization {key}" if key else "")
        + f" body {quoted(check)}",
        "http-check expect status 200",
        f"http-check expect rstring {quoted(chr(34) + 'choices' + chr(34))}",
        f"default-server check inter {router.check_interval_s}s fastinter 1s downinter 2s fall {CHECK_FALL} rise 1 "
        # A refused connection is no client's doing, so three of them are believed at once; a 500 can be one's doing.
        "observe layer4 error-limit 3 on-error mark-down "
        f"maxconn {router.requests_per_replica} init-addr last,libc,none"
        + (" on-marked-down shutdown-sessions" if router.move_when_down else ""),
    ]
