"""HAProxy's configuration for a router: values in, text out. For HAProxy 2.4 (Ubuntu 22.04) to 3.x.

It holds no secret: clients' keys are hashes in a file, engines' keys are in another, both root's alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from metalserve.addresses import joined
from metalserve.routing.backends import AFFINITY, Facts, backends, entry, pool_blocks
from metalserve.routing.paths import CERTIFICATE, CLIENT_KEYS, SERVERS, SOCKET
from metalserve.routing.pools import Pool
from metalserve.routing.words import in_json, quoted, refuse
from metalserve.settings import RouterSettings

HEADROOM_KIB = 48
"""KiB of a buffer beside the body: headers, what HAProxy reserves for rewriting, and its own block descriptions."""

OLD_WORKER_S = 3600
"""Seconds after a reload in which the old process may end its streams."""

_LIMIT_WINDOW = "60s"
_GETS = ("/v1/models",)
_PREFIX_BYTES = 1024


def configuration(router: RouterSettings, pools: Sequence[Pool], facts: Facts) -> str:
    """Return the whole configuration."""
    blocks = [
        _global(router, facts),
        _defaults(router),
        _frontend(router, pools, facts),
        *(block for pool in pools for block in pool_blocks(router, pool, facts)),
        _metrics(router),
    ]
    if router.redirect_port is not None and router.tls is not None:
        blocks.append(_redirect(router))
    text = "\n".join("\n".join([block[0], *(f"    {line}" for line in block[1:]), ""]) for block in blocks)
    return "# Written by metalserve (roles/router); changes here are undone by its next run.\n" + text


def _global(router: RouterSettings, facts: Facts) -> list[str]:
    return [
        "global",
        f"setenv MS_GENERATION {facts.generation}",
        "log stdout format raw local0 info",
        f"stats socket {SOCKET} mode 600 level admin expose-fd listeners",
        "user haproxy",
        "group haproxy",
        "chroot /var/lib/haproxy",
        f"maxconn {router.max_connections}",
        # A request can only be read by its model, and tried again elsewhere, while all of it is in one buffer.
        f"tune.bufsize {(router.max_body_kib + HEADROOM_KIB) * 1024}",
        f"server-state-file {SERVERS}",
        f"hard-stop-after {OLD_WORKER_S}s",
        "ssl-default-bind-options ssl-min-ver TLSv1.2 no-tls-tickets",
    ]


def _defaults(router: RouterSettings) -> list[str]:
    silence = router.response_timeout_s
    return [
        "defaults",
        "mode http",
        "log global",
        "option dontlognull",
        # An engine closes idle connections after 5 s (VLLM_HTTP_TIMEOUT_KEEP_ALIVE): a kept one could be closed just
        # as a request is sent. One connection a request costs nothing beside the request.
        "option http-server-close",
        "option http-no-delay",
        # A client that has gone must not keep the engine busy.
        "option abortonclose",
        "load-server-state-from-file global",
        "timeout connect 5s",
        "timeout http-request 30s",
        "timeout http-keep-alive 60s",
        f"timeout queue {router.queue_timeout_s}s",
        # Silence, not length: a stream may last for hours while tokens come.
        f"timeout client {silence}s",
        f"timeout server {silence}s",
        f"timeout check {router.check_timeout_s}s",
        *(f"http-error status {status} {in_json(status, words, hdr)}" for status, words, hdr in _ERRORS),
    ]


_ERRORS = (
    (400, "the request is not valid HTTP", ""),
    (408, "the request did not come in whole in time", ""),
    (502, "the replica broke off, and so did the others that were tried", ""),
    (503, "no replica of this model could take the request in time", "5"),
    (504, "the replica was silent for too long", ""),
)


LOG = (
    "id=%ID client=%ci key=%[var(txn.key)] pool=%b replica=%s path=%[var(txn.path)] status=%ST end=%tsc "
    "queue_ms=%Tw first_byte_ms=%Tr total_ms=%Ta bytes_in=%U bytes_out=%B retries=%rc active=%sc/%bc waiting=%sq/%bq"
)
"""One line a request. No header, no body, no query: nothing of what a client wrote but a path from the list."""


def _frontend(router: RouterSettings, pools: Sequence[Pool], facts: Facts) -> list[str]:
    tls = f" ssl crt {CERTIFICATE} alpn h2,http/1.1" if router.tls is not None else ""
    posts = [path for path in router.paths if path not in _GETS]
    gets = [path for path in router.paths if path in _GETS]
    lines = [
        "frontend api",
        f"bind {joined(router.address, router.port)}{tls}",
        "unique-id-format %[uuid()]",
        "unique-id-header X-Request-Id",
        f"log-format {quoted(LOG)}",
        # For whoever chooses between routers: up while one replica of some model is.
        "monitor-uri /health",
        *(f"acl some_up nbsrv({name}) gt 0" for pool in pools for name in backends(pool, facts)),
        "monitor fail unless some_up",
    ]
    if posts:
        lines.append(f"acl generates path -m str {' '.join(posts)}")
    if gets:
        lines.append(f"acl lists path -m str {' '.join(gets)}")
    listed = " || ".join(name for name, paths in (("generates", posts), ("lists", gets)) if paths)
    lines.append(refuse(404, "this path is not served here", f"unless {listed}"))
    lines.append("http-request set-var(txn.path) path")
    if posts:
        lines.append(refuse(405, "this path is for POST", "if generates !METH_POST"))
    if gets:
        lines.append(refuse(405, "this path is for GET", "if lists !METH_GET"))
    lines += _keys(router)
    if posts:
        # Only after the key: what strangers send is not kept.
        lines.append("http-request wait-for-body time 30s if generates")
        limit = router.max_body_kib * 1024
        words = f"the request is larger than {router.max_body_kib} KiB"
        lines.append(refuse(413, words, f"if {{ req.body_size gt {limit} }}"))
    lines += _choice(pools, facts, bool(posts), bool(gets))
    if router.affinity == "session":
        # Sessions without the header are spread at random, as if each were one of its own.
        lines.append(f"http-request set-header {AFFINITY} %[uuid()]")
        lines.append(
            f"http-request set-header {AFFINITY} %[req.fhdr({router.affinity_header})] "
            f"if {{ req.fhdr({router.affinity_header}) -m found }}"
        )
    elif router.affinity == "prefix":
        lines.append(f"http-request set-header {AFFINITY} %[req.body,bytes(0,{_PREFIX_BYTES}),xxh64]")
    return lines


def _keys(router: RouterSettings) -> list[str]:
    if not router.keys:
        return []
    lookup = f"req.fhdr(authorization),word(2,' '),sha2(256),hex,map_str({CLIENT_KEYS})"
    lines = [
        f"http-request set-var(txn.key) {lookup} if {{ req.fhdr(authorization) -m beg -i 'bearer ' }}",
        refuse(401, "no valid key: send Authorization: Bearer KEY", "unless { var(txn.key) -m found }"),
    ]
    limited = [key for key in router.keys if key.requests_per_minute is not None]
    if limited:
        lines.append(f"stick-table type string len 64 size 10k expire 2m store http_req_rate({_LIMIT_WINDOW})")
        lines.append("http-request track-sc0 var(txn.key)")
    for key in limited:
        condition = f"if {{ var(txn.key) -m str {key.name} }} {{ sc_http_req_rate(0) gt {key.requests_per_minute} }}"
        words = f"this key may send {key.requests_per_minute} requests a minute"
        lines.append(refuse(429, words, condition, retry_after="10"))
    return lines


def _choice(pools: Sequence[Pool], facts: Facts, posts: bool, gets: bool) -> list[str]:
    if len(pools) == 1:
        # What this one model's engines do not know they refuse in their own words.
        return [f"default_backend {entry(pools[0], facts)}"]
    lines = []
    if gets:
        # One pool's answer would hide the others' models.
        models = [{"id": p.model, "object": "model", "created": 0, "owned_by": "metalserve"} for p in pools]
        models += [{"id": n, "object": "model", "created": 0, "owned_by": "metalserve"} for p in pools for n in p.also]
        body = json.dumps({"object": "list", "data": models})
        lines.append(f"http-request return status 200 content-type application/json string {quoted(body)} if lists")
    if posts:
        lines.append("http-request set-var(txn.model) req.body,json_query('$.model')")
        lines += [f"acl known var(txn.model) -m str {name}" for pool in pools for name in (pool.model, *pool.also)]
        lines.append(refuse(404, "the request names no model that is served here: see /v1/models", "unless known"))
        for pool in pools:
            names = " ".join((pool.model, *pool.also))
            lines.append(f"use_backend {entry(pool, facts)} if {{ var(txn.model) -m str {names} }}")
    return lines


def _metrics(router: RouterSettings) -> list[str]:
    return [
        "frontend metrics",
        f"bind {joined(router.metrics_address, router.metrics_port)}",
        "no log",
        "http-request use-service prometheus-exporter if { path /metrics }",
        "http-request return status 404",
    ]


def _redirect(router: RouterSettings) -> list[str]:
    port = "" if router.port == 443 else f":{router.port}"
    return [
        "frontend plain",
        f"bind {joined(router.address, router.redirect_port or 80)}",
        "no log",
        f"http-request redirect location https://%[req.hdr(host),field(1,:)]{port}%[pathq] code 308",
    ]


__all__ = ["Facts", "configuration"]
